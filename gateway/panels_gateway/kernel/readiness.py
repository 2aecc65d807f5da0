"""Whether a trigger works, found out by having one run: not that a worker is connected, but that it answers.

    look ──▶ trigger of the gateway's own panel ──▶ dispatcher ──▶ worker ──▶ Commits ──▶ turn, durable ─┐
         └─▶ Journal.ping: whoever writes the record answers, and writes nothing ───────────────────────┴▶ ""

The panel is nobody's: it has no id that a client could name and is no resident, so it is not listed, not
counted among panels, not charged to a quota, and not recorded. Its trigger commits nothing; what a worker
claims that it did shows that the worker lies. It does go through the queue, the pool that compiles its
handler, and a sandbox, as everybody's do.

Bound: one trigger and one ping at a time, and one look each ``KEPT_S``, however many ask. It does not protect
against a gateway that serves only one label: with several, the panels without one are tried, or else those of
the first label.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.dispatch.dispatcher import Dispatcher, OverloadedError
from panels_gateway.dispatch.fleet import Run
from panels_gateway.journal.journal import Journal, JournalError
from panels_gateway.kernel import claims
from panels_gateway.kernel.claims import InvalidOutcomeError
from panels_gateway.kernel.intake import Intake
from panels_gateway.kernel.turn import Turn
from panels_gateway.panels.definition import HandlerSource, PanelDefinition
from panels_gateway.panels.panel import OWN_PANEL, Panel
from panels_gateway.panels.trigger import Answer, Failure, Progress, Succeeded, Trigger
from panels_shared.handlers import handler_digest
from panels_shared.limits import KIB, MIB
from panels_shared.messages import Tool, ToolKey
from panels_shared.outcome import Failed, Outcome, Suspended

_log = logging.getLogger("panels.gateway.readiness")

#: How long what was found is good for, in seconds: strangers may ask, and must not make load by it.
KEPT_S: Final = 1.0
#: How long the trigger, and the ping, may take, in seconds.
BOUND_S: Final = 2.0

_SOURCE: Final = b"return $args + 1;"
_HANDLER: Final = HandlerSource("javascript", "", _SOURCE, handler_digest("javascript", "", _SOURCE))
#: Numbered 0, which no panel's tool is; with no capability, so that it can have no effect.
_TOOL: Final = Tool(
    tool=ToolKey(0),
    digest=_HANDLER.digest,
    language=_HANDLER.language,
    entry=_HANDLER.entry,
    name="ready",
    limits=(100_000_000, 1_000, 32 * MIB, 100, KIB, 1, KIB),
    capabilities=(),
)


class Readiness:
    """See the module's docstring. ``clock`` gives monotonic seconds; ``bound_s`` is ``BOUND_S``."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        intake: Intake,
        turn: Turn,
        journal: Journal,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random_bits: Callable[[int], int],
        bound_s: float = BOUND_S,
    ) -> None:
        self._dispatcher = dispatcher
        self._intake = intake
        self._turn = turn
        self._journal = journal
        self._clock = clock
        self._wall_clock = wall_clock
        self._random_bits = random_bits
        self._bound_s = bound_s
        self._panel = Panel(OWN_PANEL, "", PanelDefinition(id="", kind="readiness"), {}, 0)
        self._label: str | None = None
        self._answered: asyncio.Future[str] | None = None
        self._written: asyncio.Future[str] | None = None
        self._looking: asyncio.Task[str] | None = None
        self._until_s = float("-inf")
        #: What the last look found, "" for nothing, and when it ended; None before the first.
        self.reason = ""
        self.looked_s: float | None = None

    async def look(self) -> str:
        """Why a trigger cannot be run, as a sentence, "" if one was. It is at most ``KEPT_S`` old."""
        if self._intake.closing:
            return "the gateway is shutting down"
        if self._looking is None:
            if self._clock() < self._until_s:
                return self.reason
            self._looking = asyncio.create_task(self._look())
        # one caller that gives up must not take the answer from the others
        return await asyncio.shield(self._looking)

    async def _look(self) -> str:
        before = self.reason
        try:
            self.reason = await self._ask()
        finally:
            self.looked_s = self._clock()
            self._until_s = self.looked_s + KEPT_S
            self._looking = None
        if self.reason != before:
            if self.reason:
                _log.warning("not ready: %s", self.reason)
            else:
                _log.info("ready again: a trigger was run")
        return self.reason

    async def _ask(self) -> str:
        if not self._dispatcher.ready:
            return "no worker is connected that can run a job"
        if self._intake.backlogged:
            return "so much of the journal waits to be folded that triggers are refused"
        # what was begun by an earlier look and has not ended is waited for once more, and none is begun
        if self._answered is None or self._answered.done():
            try:
                self._answered = self._trigger()
            except OverloadedError as exc:
                return f"the queue of the {exc.scope} is full, and triggers are refused"
        if self._written is None or self._written.done():
            self._written = asyncio.create_task(self._ping())
        answered, written = self._answered, self._written
        await asyncio.wait((answered, written), timeout=self._bound_s)
        if not written.done():
            return f"whoever writes the journal has not answered within {self._bound_s:g} s"
        if not answered.done():
            return f"a trigger of the gateway's own has not been answered within {self._bound_s:g} s"
        return written.result() or answered.result()

    async def _ping(self) -> str:
        try:
            await self._journal.ping()
        except JournalError as exc:
            _log.error("the journal cannot be written: %s", exc)
            return "the journal cannot be written; the server's log says why"
        return ""

    def _trigger(self) -> asyncio.Future[str]:
        """Submits the trigger; what was wrong with it, "" for nothing. Raises ``OverloadedError``."""
        label = self._dispatcher.label_served()
        if label != self._label:
            if self._label is None:
                self._dispatcher.add_panel(self._panel, [_TOOL], [_HANDLER], label=label)
            else:
                self._dispatcher.relabel(self._panel, label, self._clock())
            self._label = label
        trigger = Trigger(
            panel=self._panel,
            tool=_TOOL,
            args=str(self._random_bits(31)).encode(),
            scope=ANONYMOUS.scope,
            now_ms=float(int(self._wall_clock() * 1000)),
            seed=self._random_bits(64),
            submitted_s=self._clock(),
            reply_to=self,
        )
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._dispatcher.offer(trigger, self._clock())
        self._turn.request_seal()
        return answered

    # -- what comes back -----------------------------------------------------------------------------

    def finish(self, run: Run, outcome: Outcome) -> bool:
        """A worker said how the trigger ended. False when it claims what the handler cannot have done."""
        trigger = run.trigger
        if isinstance(outcome, Failed):
            self._dispatcher.confirm(run)
            self.answer(trigger, Failure(outcome))
            return True
        try:
            mutations, events = claims.check(outcome, trigger.tool)
            honest = (
                not (mutations or events or isinstance(outcome, Suspended))
                and outcome.return_value == str(int(trigger.args) + 1).encode()
            )
        except InvalidOutcomeError:
            honest = False
        if not honest:
            self._dispatcher.refuse(run)
            self._settle("a worker answered a trigger of the gateway's own wrongly")
            return False
        self._dispatcher.confirm(run)
        self._settle("")
        return True

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        """The trigger was not run to its end. See ``ReplyTo``."""
        if isinstance(answer, Failure):
            # the message is a worker's: it is not for everybody who may ask
            _log.warning("a trigger of the gateway's own failed: %s", ascii(answer.outcome.message))
            self._settle(f"a trigger of the gateway's own failed: {answer.outcome.reason.value}")
        elif not isinstance(answer, Succeeded):
            self._settle(f"a trigger of the gateway's own was not run: {answer.message}")

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        """See ``ReplyTo``; its handler waits for nothing."""

    def _settle(self, problem: str) -> None:
        answered = self._answered
        assert answered is not None, "only a trigger that was submitted is answered"

        def settle() -> None:
            if not answered.done():
                answered.set_result(problem)

        self._turn.after(settle)
