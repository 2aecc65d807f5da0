"""Tools that run by themselves: at times, when events are emitted, when keys change, when clients come and
go.

    interval, cron        at due times (``panels.schedule``); a due time is recorded, and runs once
    event, state_change   behind the commit that emitted or changed, in the same panel
    mount, unmount        when the first client comes to a panel, and when the last one leaves

They run as the panel, through the same intake, queue and limits as everything else, and nobody waits for the
answer: a failure is in the handler's log. A tool has one run for a due time at a time; due times that wait
for it, as those do that were missed, are run in order, and one that met a full queue is tried again. Chains
are bounded: a trigger that was caused by a trigger is one deeper, and at ``MAX_DEPTH`` it is not run, but
logged and counted. So is one whose quota is used up or whose tool is suspended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from typing import Final

import msgspec

from panels_gateway.access.tokens import Principal, principal_of
from panels_gateway.broadcast.events import Event
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.intake import Intake
from panels_gateway.kernel.listeners import Listeners
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.definition import Cron, Interval
from panels_gateway.panels.panel import Mutation
from panels_gateway.panels.schedule import MAX_MISSED, due_after, due_of, missed
from panels_gateway.panels.trigger import Answer, Failure, Progress, Refused, Trigger
from panels_shared.errors import Code, RequestError
from panels_shared.rate import RateLimit, TokenBucket

_log = logging.getLogger("panels.gateway.timers")

#: How deep triggers may cause one another.
MAX_DEPTH: Final = 8
#: A timer is set for so many seconds at the most, and looks again then: the wall clock may have been set.
LONGEST_S: Final = 60.0
#: Lines a second that are logged of runs that were skipped, and at once; the others are only counted.
_SKIPPED_LINES: Final = RateLimit(per_s=1.0, burst=10)
#: When a run that met a full queue is tried again, in seconds.
RETRY_S: Final = 0.5


class Timers:
    """See the module's docstring. ``attach`` and ``detach`` follow a panel into memory and out of it."""

    def __init__(self, intake: Intake, counters: Counters, wall_clock: Callable[[], float]) -> None:
        self._intake = intake
        self._counters = counters
        self._wall_clock = wall_clock
        self._handles: dict[tuple[Resident, str], asyncio.TimerHandle] = {}
        self._lines = TokenBucket(_SKIPPED_LINES, intake.clock())
        #: Due times that are to be run and are not yet, the earliest first; at most ``MAX_MISSED`` of a tool.
        self._behind: dict[tuple[Resident, str], deque[int]] = {}
        self._retries: dict[tuple[Resident, str], asyncio.TimerHandle] = {}

    def adopt(self, resident: Resident) -> None:
        """The panel was loaded with handlers that wait: those that run for a due time are its tools' runs, so
        that no other begins beside them. Called before ``attach``.
        """
        caller = _caller(resident).subject
        for suspension in resident.waiting.values():
            origin = suspension.origin
            due_ms = due_of(origin.args) if origin.subject == caller and origin.key is None else None
            if due_ms is not None:
                tool = origin.tool.name
                resident.firing[tool] = resident.firing.get(tool, 0) + 1
                reply_to = _Reply(self, resident, tool, due_ms)
                suspension.origin = msgspec.structs.replace(origin, reply_to=reply_to, due_ms=due_ms)

    def attach(self, resident: Resident) -> None:
        """The panel is in memory, with the tools that it has now: what is due, or was missed, is run."""
        self.detach(resident)
        listeners = resident.listeners = Listeners.of(resident.panel.definition.tools)
        if listeners is None:
            return
        now_ms = int(self._wall_clock() * 1000)
        for tool, timed in listeners.timed:
            last_ms = resident.fired.get(tool.name)
            last_ms = max(last_ms, resident.launched.get(tool.name, last_ms)) if last_ms is not None else None
            behind = missed(timed, resident.panel.created_ms, last_ms, now_ms)
            self._behind[resident, tool.name] = deque(behind)
            self._run_next(resident, tool.name)
            self._set(resident, tool.name, timed, now_ms)

    def detach(self, resident: Resident) -> None:
        """The panel leaves memory, or is about to be given other tools."""
        listeners = resident.listeners
        resident.listeners = None
        resident.next_runs.clear()
        if listeners is not None:
            for tool, _ in listeners.timed:
                self._behind.pop((resident, tool.name), None)
                for handles in (self._handles, self._retries):
                    handle = handles.pop((resident, tool.name), None)
                    if handle is not None:
                        handle.cancel()

    def committed(
        self,
        resident: Resident,
        cause: Trigger | None,
        mutations: list[Mutation],
        events: list[Event],
        seq: int,
    ) -> None:
        """The panel committed: tools that listen to an event or a key of it are run behind."""
        listeners = resident.listeners
        if listeners is None:
            return
        depth = 0 if cause is None else cause.depth + 1
        for tool, pattern in listeners.events:
            for name, fragment, _ in events:
                if pattern.matches(name):
                    args = b'{"type":"event","event":%b,"seq":%d}' % (fragment, seq)
                    self._cause(resident, tool, args, depth)
        for tool, pattern in listeners.keys:
            keys = [mutation.key for mutation in mutations if pattern.matches(mutation.key)]
            if keys:
                args = b'{"type":"state_change","keys":%b,"seq":%d}' % (msgspec.json.encode(keys), seq)
                self._cause(resident, tool, args, depth)

    def arrived(self, resident: Resident) -> None:
        """A client came to a panel that nobody watched."""
        for tool in resident.listeners.mount if resident.listeners is not None else ():
            self._cause(resident, tool, b'{"type":"mount"}', 0)

    def left(self, resident: Resident) -> None:
        """The last client left a panel."""
        for tool in resident.listeners.unmount if resident.listeners is not None else ():
            self._cause(resident, tool, b'{"type":"unmount"}', 0)

    # -- running -------------------------------------------------------------------------------------

    def _set(self, resident: Resident, tool: str, timed: Interval | Cron, after_ms: int) -> None:
        due_ms = next(due_after(timed, resident.panel.created_ms, after_ms), None)
        if due_ms is None:
            return
        resident.next_runs[tool] = due_ms
        seconds = max(0.0, due_ms / 1000 - self._wall_clock())
        loop = asyncio.get_running_loop()
        self._handles[resident, tool] = loop.call_later(
            min(seconds, LONGEST_S), self._rang, resident, tool, timed, due_ms
        )

    def _rang(self, resident: Resident, tool: str, timed: Interval | Cron, due_ms: int) -> None:
        del self._handles[resident, tool]
        now_ms = int(self._wall_clock() * 1000)
        if now_ms < due_ms:
            self._set(resident, tool, timed, due_ms - 1)
            return
        behind = self._behind[resident, tool]
        if timed.misfire == "all":
            # also those of a loop that was held up, and those that came while the tool was running
            dues = takewhile(
                lambda due: due <= now_ms, due_after(timed, resident.panel.created_ms, due_ms - 1)
            )
            behind.extend(islice(dues, MAX_MISSED - len(behind)))
        elif not resident.firing.get(tool):  # else it takes longer than its interval, and this one is skipped
            behind.clear()
            behind.append(due_ms)
        self._run_next(resident, tool)
        # a loop that was held up skips what it missed: the next one is after now
        self._set(resident, tool, timed, max(now_ms, due_ms))

    def _run_next(self, resident: Resident, tool: str) -> None:
        """Runs the tool for the earliest due time that waits, unless it runs or is to be tried again."""
        behind = self._behind.get((resident, tool))
        while behind and not resident.firing.get(tool) and (resident, tool) not in self._retries:
            due_ms = behind.popleft()
            if due_ms > max(resident.fired.get(tool, -1), resident.launched.get(tool, -1)):
                resident.launched[tool] = due_ms
                resident.firing[tool] = resident.firing.get(tool, 0) + 1
                self._cause(resident, tool, b'{"type":"timer","dueMs":%d}' % due_ms, 0, due_ms=due_ms)

    def answered(self, resident: Resident, tool: str, due_ms: int | None, *, again: bool = False) -> None:
        """A run for ``due_ms`` is over. ``again``: it was not run, and is to be."""
        if due_ms is None:
            return
        resident.firing[tool] -= 1
        behind = self._behind.get((resident, tool))
        if behind is None:
            return  # the tool is gone, or the panel; what is missed is found when it is loaded
        if again and not self._intake.closing:
            behind.appendleft(due_ms)
            resident.launched[tool] = due_ms - 1
            loop = asyncio.get_running_loop()
            self._retries[resident, tool] = loop.call_later(RETRY_S, self._retry, resident, tool)
        # not within the answer: a tool that fails at once would nest
        elif behind:
            asyncio.get_running_loop().call_soon(self._run_next, resident, tool)

    def _retry(self, resident: Resident, tool: str) -> None:
        del self._retries[resident, tool]
        self._run_next(resident, tool)

    def _cause(
        self, resident: Resident, tool: str, args: bytes, depth: int, *, due_ms: int | None = None
    ) -> None:
        panel = resident.panel
        if self._intake.closing:
            self.answered(resident, tool, due_ms)
            return
        if depth >= MAX_DEPTH:
            self._counters.chains_cut += 1
            _log.error(
                "panel %r: tool %r was not run: triggers cause one another %d deep", panel.id, tool, depth
            )
            return
        reply_to = _Reply(self, resident, tool, due_ms)
        try:
            trigger = self._intake.accept(
                reply_to,
                panel,
                tool,
                args,
                _caller(resident),
                None,
                depth=depth,
                due_ms=due_ms,
                checked=False,
            )
        except RequestError as exc:
            self.answered(resident, tool, due_ms)
            _log.warning("panel %r: tool %r was not run by itself: %s", panel.id, tool, exc.message)
            return
        self._counters.self_triggers += 1
        self._intake.submit(trigger)

    def skipped(self, resident: Resident, tool: str, refused: Refused) -> None:
        """A tool was not run by itself because it may not be run now: that is counted, and logged now and
        then.
        """
        self._counters.self_skipped += 1
        if not self._lines.take(self._intake.clock()):
            _log.warning(
                "panel %r: tool %r was not run by itself: %s", resident.panel.id, tool, refused.message
            )


#: Refusals that may come for every run for a long time.
_SKIPPED: Final = frozenset((Code.QUOTA_EXCEEDED, Code.CIRCUIT_OPEN))
#: Refusals after which a due time is tried again.
_LATER: Final = frozenset((Code.OVERLOADED, Code.UNAVAILABLE))


def _caller(resident: Resident) -> Principal:
    return principal_of(f"panel:{resident.panel.id}", expires_at=None, grants=None)


class _Reply:
    """Nobody waits for a tool that ran by itself; its failure is logged."""

    __slots__ = ("_due_ms", "_resident", "_timers", "_tool")

    def __init__(self, timers: Timers, resident: Resident, tool: str, due_ms: int | None) -> None:
        self._timers = timers
        self._resident = resident
        self._tool = tool
        self._due_ms = due_ms

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        later = isinstance(answer, Refused) and answer.code in _LATER
        self._timers.answered(self._resident, self._tool, self._due_ms, again=later)
        if isinstance(answer, Failure):
            text = f"{answer.outcome.reason.value}: {answer.outcome.message}"
        elif isinstance(answer, Refused) and answer.code in _SKIPPED:
            self._timers.skipped(self._resident, self._tool, answer)
            return
        elif isinstance(answer, Refused):
            text = answer.message
        else:
            return
        _log.warning("panel %r: tool %r, which ran by itself: %s", trigger.panel.id, self._tool, text)

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        return
