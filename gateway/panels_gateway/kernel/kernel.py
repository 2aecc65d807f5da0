"""The kernel: puts its parts together, and is what the broker, the clients and the HTTP API hold.

    connections, HTTP ──▶ Intake ──▶ dispatcher ──▶ broker ──▶ worker
                                                                  │
    clients ◀── Turn ◀── journal ◀── Turn ◀── Commits ◀── accept ◀┘
                          Making, Residents and Histories stand beside

Every trigger that was submitted is answered once: by ``Commits`` (the worker said how it ended, or no worker
could run it) or by ``Answering.refuse`` (a queue was full, or its panel went away). A commit, its record, its
broadcast and its answer are one synchronous step of one turn; the turn leaves when its batch is durable.

One thread, one loop. What takes long (compiling, reading the journal) is awaited.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from panels_gateway.broadcast.hub import Hub, Room
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import Run
from panels_gateway.journal.journal import Journal, JournalError, Waiting
from panels_gateway.journal.pressure import MAX_BACKLOG_BYTES
from panels_gateway.kernel.answering import Answering
from panels_gateway.kernel.breakers import Breakers
from panels_gateway.kernel.calls import CallMaker
from panels_gateway.kernel.commits import Commits
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.history import Histories
from panels_gateway.kernel.images import Images
from panels_gateway.kernel.intake import Intake
from panels_gateway.kernel.listing import Listing
from panels_gateway.kernel.making import Making, Watcher
from panels_gateway.kernel.preparer import Preparer
from panels_gateway.kernel.presences import Presences
from panels_gateway.kernel.quotas import QuotaLimits, Quotas
from panels_gateway.kernel.readiness import Readiness
from panels_gateway.kernel.replays import Replays
from panels_gateway.kernel.residents import Resident, ResidentLimits, Residents
from panels_gateway.kernel.revoking import Revoking
from panels_gateway.kernel.suspensions import SuspensionLimits, Suspensions
from panels_gateway.kernel.timers import Timers
from panels_gateway.kernel.turn import Turn
from panels_gateway.observe.handler_log import HandlerLog
from panels_gateway.observe.stages import Stages
from panels_gateway.observe.top_panels import TopPanels
from panels_gateway.observe.tracing import Tracing
from panels_gateway.panels.breaker import BreakerLimits
from panels_gateway.panels.trigger import Failure, Refused
from panels_shared.errors import Code
from panels_shared.limits import MIB
from panels_shared.messages import Refusal
from panels_shared.outcome import Failed, Outcome, Reason, Usage

if TYPE_CHECKING:
    from panels_gateway.panels.panel import Panel
    from panels_gateway.panels.trigger import Trigger

#: When a trigger that was not run in time may be sent again, in milliseconds.
RETRY_AFTER_MS: Final = 1_000
#: What is said while the gateway stops.
STOPPING: Final = "the gateway is shutting down"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLimits:
    """Bounds of what the kernel holds: ``panels`` in all, what of them is in memory, what of the journal may
    wait, and bytes of large states and answers that clients have not taken.
    """

    panels: int = 1_000_000
    backlog_bytes: int = MAX_BACKLOG_BYTES
    sending_bytes: int = 256 * MIB
    residents: ResidentLimits = field(default_factory=ResidentLimits)
    suspensions: SuspensionLimits = field(default_factory=SuspensionLimits)
    quotas: QuotaLimits = field(default_factory=QuotaLimits)
    breakers: BreakerLimits = field(default_factory=BreakerLimits)


class Kernel:
    """See the module's docstring.

    ``seal_key`` authenticates the images of handlers that wait; it must be the same after a restart.
    ``on_failure`` is called when the journal fails: nothing of the turn has left, and nothing may; the
    process must end.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        journal: Journal,
        limits: KernelLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random_bits: Callable[[int], int] = random.getrandbits,
        stages: Stages | None = None,
        seal_key: bytes | None = None,
    ) -> None:
        limits = limits or KernelLimits()
        if seal_key is None:
            seal_key = secrets.token_bytes(32)
        self.dispatcher = dispatcher
        self.journal = journal
        self.clock = clock
        self.counters = Counters()
        self.stages = stages or Stages()
        self.on_failure: Callable[[JournalError], None] = _raise
        journal.on_failed = self._journal_failed
        self.turn = Turn(Hub(), journal, position=journal.position, fence=journal.fence)
        handler_log = HandlerLog(clock())
        self.residents = Residents(
            self.turn.hub, dispatcher, journal, self.counters, handler_log, limits.residents
        )
        self.presences = Presences(self.residents, self.turn)
        self.images = Images(limits.sending_bytes)
        self.listing = Listing(self.residents, journal)
        self.histories = Histories(journal, self.turn)
        self._answering = answering = Answering(self.residents, self.counters, clock)
        self.suspensions = Suspensions(
            dispatcher,
            self.residents,
            answering,
            self.turn,
            journal,
            self.counters,
            limits.suspensions,
            key=seal_key,
            clock=clock,
            wall_clock=wall_clock,
            random_bits=random_bits,
        )
        self.fuel = TopPanels(clock())
        self.failures = TopPanels(clock())
        self.quotas = quotas = Quotas(limits.quotas, self.counters, self.fuel)
        self.breakers = Breakers(limits.breakers, self.counters, clock)
        self.intake = Intake(
            dispatcher,
            self.residents,
            answering,
            self.turn,
            journal,
            self.counters,
            quotas,
            self.breakers,
            clock=clock,
            wall_clock=wall_clock,
            random_bits=random_bits,
            backlog_bytes=limits.backlog_bytes,
        )
        self.timers = Timers(self.intake, self.counters, wall_clock)
        self.residents.on_loaded = self._loaded
        self.preparer = Preparer(dispatcher.preparations, self._request_send, clock)
        self.replays = Replays(
            dispatcher,
            self.residents,
            self.histories,
            journal,
            self.preparer,
            self.turn,
            quotas,
            clock=clock,
        )
        self.commits = Commits(
            dispatcher,
            self.residents,
            answering,
            self.turn,
            self.counters,
            self.stages,
            handler_log,
            self.suspensions,
            self.timers,
            quotas,
            self.breakers,
            self.failures,
            clock=clock,
            wall_clock=wall_clock,
        )
        self.readiness = Readiness(
            dispatcher,
            self.intake,
            self.turn,
            journal,
            clock=clock,
            wall_clock=wall_clock,
            random_bits=random_bits,
        )
        self.commits.on_own = self._own
        self.calls = CallMaker(self.suspensions, self.residents, self.intake, self.counters, wall_clock)
        self.suspensions.callers = self.calls
        self.making = Making(
            self.residents,
            journal,
            self.turn,
            self.commits,
            self.intake,
            answering,
            self.preparer,
            self.histories,
            self.suspensions,
            self.timers,
            maximum=limits.panels,
            wall_clock=wall_clock,
        )

        self.revoking = Revoking(self.turn, journal, self.making.watchers, wall_clock=wall_clock)

    def trace(self, tracing: Tracing) -> None:
        """Gives the spans of triggers that are taken from now on to ``tracing``."""
        self.intake.tracing = self.commits.tracing = self._answering.tracing = self.calls.tracing = tracing

    @property
    def ready(self) -> bool:
        """Whether a worker can run a job."""
        return self.dispatcher.ready and not self.intake.closing

    @property
    def unanswered(self) -> int:
        """Triggers that were submitted and are not answered yet, and turns that have not left. What stands
        behind an exclusive handler counts once the gateway stops, which answers it.
        """
        dispatcher = self.dispatcher
        held = self.suspensions.held if self.intake.closing else 0
        return dispatcher.unanswered + held + dispatcher.overdue.pending + self.turn.waiting

    def room(self, panel: Panel) -> Room:
        """The panel's watchers. The panel must be in memory."""
        resident = self.residents.of(panel)
        assert resident is not None, panel.id
        return resident.room

    def _journal_failed(self, error: JournalError) -> None:
        self.on_failure(error)

    def _loaded(self, resident: Resident, waiting: list[Waiting]) -> None:
        self.suspensions.restore(resident, waiting)
        self.timers.adopt(resident)
        self.timers.attach(resident)

    def _request_send(self) -> None:
        self.turn.request_seal()

    # -- the end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """The gateway stops: nothing new is accepted, and whoever waits for something that will not come is
        told so.
        """
        self.intake.closing = True
        self.preparer.close()
        self.suspensions.resuming.close()
        for hurry in list(self.intake.patient):
            hurry()
        self.give_up(everything=False)

    def give_up(self, *, everything: bool) -> None:
        """Answers the triggers that no worker can run any more, or all that have no answer. A handler of an
        exclusive tool may have begun to wait since the last call: what stands behind it is answered too.
        Handlers that were about to go on wait again, for the next gateway.
        """
        self.suspensions.refuse_held(waited(STOPPING), before_s=float("inf"))
        if everything:
            self.dispatcher.overdue.strand_all(STOPPING)
        else:
            self.dispatcher.overdue.strand(STOPPING)
        self.turn.request_seal()

    # -- clients -------------------------------------------------------------------------------------

    def connection_opened(self, connection: Watcher) -> None:
        """A client's upgrade was accepted, and it is in its panel's room."""
        resident = self.residents.of(connection.panel)
        if resident is not None and len(resident.room) == 1:
            self.timers.arrived(resident)
        if resident is not None:
            self.presences.arrived(connection, resident)
        self.making.watchers[connection] = None
        self.counters.connections += 1
        self.counters.connections_total += 1

    def connection_lost(self, connection: Watcher) -> None:
        """A client's socket is gone."""
        if self.making.watchers.pop(connection, self) is None:
            self.counters.connections -= 1
            resident = self.residents.of(connection.panel)
            self.presences.left(connection, resident)
            if resident is not None and len(resident.room) == 0:
                self.timers.left(resident)

    def _own(self, run: Run, outcome: Outcome) -> bool:
        """A run of one of the gateway's own panels ended."""
        own = self.readiness if run.trigger.reply_to is self.readiness else self.replays
        return own.finish(run, outcome)

    # -- the broker ----------------------------------------------------------------------------------

    def finish(self, run: Run, outcome: Outcome) -> bool:
        """A worker said how a run ended. False when it lied, and cannot be relied upon."""
        try:
            return self.commits.finish(run, outcome)
        except JournalError as exc:
            self.on_failure(exc)
            return True

    def failed(self, trigger: Trigger, reason: Reason, message: str) -> None:
        """No worker could run a trigger."""
        if trigger.reply_to is self.readiness:
            # nobody's: it is not counted among the triggers of clients
            self.readiness.answer(trigger, Failure(Failed(Usage(), reason, message)))
            return
        try:
            self.commits.failed(trigger, reason, message)
        except JournalError as exc:
            self.on_failure(exc)

    def overdue(self, trigger: Trigger, message: str) -> None:
        """A trigger has waited for too long, and was not run. A resumption comes here only while the gateway
        stops: its handler goes on waiting, and the next gateway resumes it.
        """
        if trigger.reply_to is self.readiness:
            self.readiness.answer(trigger, waited(message))
            return
        if trigger.resume is not None:
            resident = self.residents.of(trigger.panel)
            if resident is None:
                self.suspensions.came_back(trigger)
            else:
                self.suspensions.take_back(trigger, resident)
            return
        self._answering.refuse(trigger, waited(message))

    def outdated(self, trigger: Trigger) -> None:
        """A trigger was not run: its panel had another version than it expects."""
        expected, seq = trigger.expected_seq, trigger.panel.seq
        message = f"expected the panel at version {expected}, and it is at {seq}; look at what has changed"
        details = {"expectedSeq": expected, "seq": seq}
        self._answering.refuse(trigger, Refused(Code.CONFLICT, message, details))

    def tick(self) -> None:
        """Time has passed: answers what has stood behind an exclusive handler for too long."""
        now_s = self.clock()
        self.fuel.look(now_s)
        self.failures.look(now_s)
        timeout_s = self.dispatcher.limits.queue_timeout_s
        self.suspensions.refuse_held(
            waited(
                f"a handler of an exclusive tool waits, and it did not have its turn within {timeout_s:g} s"
            ),
            before_s=self.clock() - timeout_s,
        )

    def prepared(self, digest: bytes, refusal: Refusal | None) -> None:
        """A handler was compiled by a worker, or never will be."""
        self.preparer.prepared(digest, refusal)

    def flush(self) -> None:
        """Ends the turn: everything that came up in it is recorded, and leaves."""
        stages = self.stages
        stages.flushes -= 1
        began_s = time.perf_counter() if stages.flushes <= 0 else 0.0
        try:
            self.turn.seal()
        except JournalError as exc:
            self.on_failure(exc)
        if began_s:
            stages.flushed(began_s)


def waited(message: str) -> Refused:
    """The answer to a trigger that was not run in time."""
    return Refused(Code.UNAVAILABLE, f"{message}; try again", {"retryAfterMs": RETRY_AFTER_MS})


def _raise(error: JournalError) -> None:
    raise error
