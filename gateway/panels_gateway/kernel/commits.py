"""How a job's outcome becomes a commit: checked, applied, recorded, broadcast and answered, in one
synchronous step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.events import Event
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import Run
from panels_gateway.journal.records import Changed, Exchange, Fired, Key, Ran
from panels_gateway.kernel import claims
from panels_gateway.kernel.answering import Answering, shown_to
from panels_gateway.kernel.breakers import Breakers
from panels_gateway.kernel.claims import Effects, InvalidOutcomeError
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.questions import ASKED, questions
from panels_gateway.kernel.quotas import Quotas
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.suspensions import Suspensions
from panels_gateway.kernel.timers import Timers
from panels_gateway.kernel.turn import Turn
from panels_gateway.observe.handler_log import HandlerLog
from panels_gateway.observe.recent_lines import RecentLines
from panels_gateway.observe.stages import Stages
from panels_gateway.observe.top_panels import TopPanels
from panels_gateway.observe.tracing import Context, Tracing
from panels_gateway.panels.panel import CommitRefusedError, Mutation
from panels_gateway.panels.trigger import Failure, Refused, Succeeded, Trigger
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.limits import MAX_OPEN_CALLS
from panels_shared.outcome import Completed, Failed, Outcome, Reason, Suspended, Usage


class Commits:
    """The only writer of panel state. Every run that the dispatcher accepts comes here once."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        residents: Residents,
        answering: Answering,
        turn: Turn,
        counters: Counters,
        stages: Stages,
        handler_log: HandlerLog,
        suspensions: Suspensions,
        timers: Timers,
        quotas: Quotas,
        breakers: Breakers,
        failures: TopPanels,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._residents = residents
        self._answering = answering
        self._turn = turn
        self._counters = counters
        self._stages = stages
        self._completed = stages.whole["completed"]
        self._handler_log = handler_log
        self._suspensions = suspensions
        self._timers = timers
        self._quotas = quotas
        self._breakers = breakers
        self._failures = failures
        #: takes how a run of one of the gateway's own panels ended; see ``Kernel._own``
        self.on_own: Callable[[Run, Outcome], bool] = _nobodys
        #: what handlers logged lately, for whoever looks on
        self.recent_lines = RecentLines()
        #: who takes the spans of triggers; None while nothing is traced
        self.tracing: Tracing | None = None
        self._clock = clock
        self._wall_clock = wall_clock

    def finish(self, run: Run, outcome: Outcome) -> bool:
        """Commits what the run did and answers its trigger, or parks it; confirms the run, or refuses it
        where the commit cannot be.

        False when the worker reported what the handler cannot have done: it cannot be relied upon.
        """
        self._turn.divide()
        trigger = run.trigger
        panel = trigger.panel
        outcome = claims.plausible(outcome, trigger.tool, self._clock() - run.sent_s)
        resident = self._residents.of(panel)
        if resident is None:
            # a panel with runs in flight is in memory: this one is the gateway's own
            return self.on_own(run, outcome)
        self._quotas.charge(trigger, outcome.usage, self._clock())
        if outcome.log:
            name = trigger.tool.name
            self._handler_log.write(panel.key, panel.id, name, outcome.log, self._clock(), **_ids(run))
        if outcome.log or type(outcome) is Failed:
            self._keep_lines(trigger, outcome)
        if trigger.trace is not None:
            self._traced(run, trigger.trace, outcome)
        if trigger.resume is not None and not self._resumed(run, resident):
            return True
        if isinstance(outcome, Failed):
            self._dispatcher.confirm(run)
            self._handler_log.failed(panel.key, panel.id, trigger.tool.name, outcome, self._clock())
            suspended = self._breakers.ended(trigger, resident, outcome.reason)
            self._failed(trigger, outcome)
            if suspended:
                self._shed(resident)
            return True
        try:
            effects = claims.check(outcome, trigger.tool)
        except InvalidOutcomeError as exc:
            self._refuse(run, outcome, Reason.INVALID_RESULT, str(exc))
            return False
        outcome = claims.canonical(outcome, effects[0])
        if isinstance(outcome, Suspended):
            return self._park(run, resident, outcome, effects)
        if resident.breakers:
            self._breakers.ended(trigger, resident, None)
        self._complete(run, resident, outcome, effects)
        return True

    def _keep_lines(self, trigger: Trigger, outcome: Outcome) -> None:
        failed = outcome if isinstance(outcome, Failed) else None
        now_ms = int(self._wall_clock() * 1000)
        self.recent_lines.take(trigger.panel.number, trigger.tool.name, outcome.log, failed, now_ms)

    def _traced(self, run: Run, context: Context, outcome: Outcome) -> None:
        tracing, trigger, usage = self.tracing, run.trigger, outcome.usage
        if tracing is None:
            return
        attributes: dict[str, str | int] = {
            "panels.panel": trigger.panel.id,
            "panels.tool": trigger.tool.name,
        }
        if trigger.request_id is not None:
            attributes["panels.request"] = trigger.request_id
        attributes["panels.outcome"] = type(outcome).__name__.lower()
        tracing.ran(
            context,
            trigger.tool.name,
            submitted_s=trigger.submitted_s,
            sent_s=run.sent_s,
            execution_us=usage.execution_us,
            now_s=self._clock(),
            attributes=attributes,
            worker={
                "panels.worker": run.worker.id.hex() if run.worker is not None else "",
                "panels.fuel": usage.fuel,
                "panels.host_calls": usage.host_calls,
                "panels.memory_peak_bytes": usage.memory_peak_bytes,
            },
            error=outcome.reason.value if isinstance(outcome, Failed) else "",
        )

    def _complete(self, run: Run, resident: Resident, outcome: Completed, effects: Effects) -> None:
        """The handler ran to its end."""
        trigger = run.trigger
        stages = self._stages
        stages.finishes -= 1
        began_s = time.perf_counter() if stages.finishes <= 0 else 0.0
        seq = self._commit(run, resident, outcome, effects)
        if seq is None:
            return
        suspension = self._suspensions.of(trigger, resident) if trigger.resume is not None else None
        origin = trigger if suspension is None else suspension.origin
        now = self._clock()
        total_us = int((now - origin.submitted_s) * 1e6)
        shown = shown_to(origin.subject, outcome) if outcome.events else outcome
        answer = Succeeded(shown, seq.version, int((run.sent_s - trigger.submitted_s) * 1e6), total_us)
        if suspension is None:
            self._completed.add_us(total_us)
        record = None
        if seq.effects or origin.key is not None:
            version = seq.version if seq.effects else 0
            exchanges = suspension.take_exchanges() if suspension is not None else ()
            step = suspension.record.steps if suspension is not None else 0
            record = self._record(
                trigger, origin, resident, outcome, answer, version, origin.key, exchanges, step
            )
        if trigger.due_ms is not None:
            self._record_fired(trigger, resident)
        if seq.effects:
            resident.room.publish(seq.version, seq.mutations, outcome.mutations, seq.events)
            self._timers.committed(resident, origin, seq.mutations, seq.events, seq.version)
        if suspension is not None:
            self._suspensions.end(suspension)
        self._counters.completed += 1
        if origin.key is None:
            origin.reply_to.answer(origin, answer)
        else:
            self._answering.settle(origin, answer, record, resident)
        if began_s:
            stages.finished(trigger.submitted_s, run.sent_s, outcome.usage.execution_us, now, began_s)

    def _resumed(self, run: Run, resident: Resident) -> bool:
        """A resumption came back. False when its suspension is over meanwhile: what it did is undone."""
        self._suspensions.came_back(run.trigger)
        if self._suspensions.of(run.trigger, resident) is not None:
            return True
        self._dispatcher.refuse(run)
        return False

    def _commit(
        self, run: Run, resident: Resident, outcome: Completed | Suspended, effects: Effects
    ) -> _Committed | None:
        """Applies what a run did to its panel. None where that cannot be: the run is refused and its trigger
        answered.
        """
        mutations, events = effects
        any_effects = bool(mutations or events)
        try:
            version = resident.panel.commit(mutations) if any_effects else resident.panel.seq
        except CommitRefusedError as exc:
            self._refuse(run, outcome, Reason.LIMIT_EXCEEDED, str(exc))
            return None
        self._dispatcher.confirm(run)
        return _Committed(version, any_effects, mutations, events)

    def _refuse(self, run: Run, outcome: Outcome, reason: Reason, message: str) -> None:
        self._dispatcher.refuse(run)
        self._counters.refused_commits += 1
        self._failed(run.trigger, Failed(outcome.usage, reason, message))

    def _park(self, run: Run, resident: Resident, outcome: Suspended, effects: Effects) -> bool:
        """The handler waits: its effects so far are a commit of their own, and its trigger is answered at the
        end. False as ``finish``.
        """
        trigger = run.trigger
        suspensions = self._suspensions
        refusal = suspensions.refusal(trigger, resident, outcome)
        if refusal is not None:
            self._dispatcher.refuse(run)
            self._failed(trigger, Failed(outcome.usage, Reason.LIMIT_EXCEEDED, refusal))
            return True
        known = suspensions.of(trigger, resident)
        open_calls = {call.call for call in known.still_open()} if known is not None else set[int]()
        made = {call.call for call in outcome.calls}
        if made & open_calls or not 0 < len(made) + len(open_calls) <= MAX_OPEN_CALLS:
            # without any nobody would ever answer, and the handler would wait until the end of its lifetime
            self._refuse(
                run, outcome, Reason.INVALID_RESULT,
                f"expected 1 to {MAX_OPEN_CALLS} open calls with numbers of their own, got others",
            )  # fmt: skip
            return False
        number = known.number if known is not None else suspensions.next_number()
        asked = questions(outcome, number, trigger, self._wall_clock())
        if asked:
            outcome = msgspec.structs.replace(outcome, events=outcome.events + asked)
            effects = effects[0], effects[1] + [(ASKED, event, None) for event in asked]
        seq = self._commit(run, resident, outcome, effects)
        if seq is None:
            return True
        if seq.effects:
            step = msgspec.structs.replace(outcome, image=b"")
            origin = known.origin if known is not None else trigger
            exchanges: tuple[Exchange, ...] = ()
            if known is not None:
                exchanges = known.take_exchanges({call.call for call in known.still_open()})
            steps = known.record.steps if known is not None else 0
            self._record(trigger, origin, resident, step, None, seq.version, None, exchanges, steps)
            resident.room.publish(seq.version, seq.mutations, outcome.mutations, seq.events)
            self._timers.committed(resident, trigger, seq.mutations, seq.events, seq.version)
        if trigger.due_ms is not None:
            self._record_fired(trigger, resident)
        self._counters.suspended += 1
        suspensions.park(trigger, resident, outcome, number)
        return True

    def failed(self, trigger: Trigger, reason: Reason, message: str) -> None:
        """No worker could run the trigger."""
        self._turn.divide()
        resident = self._residents.of(trigger.panel)
        suspended = False
        if reason is Reason.WORKER_LOST and resident is not None:
            suspended = self._breakers.ended(trigger, resident, reason)
            # it took workers with it, and nobody can say what it used: all that it might have
            used = Usage(fuel=-1, execution_us=1_000 * trigger.tool.limits[1])
            self._quotas.charge(trigger, used, self._clock())
        if trigger.resume is not None:
            self._suspensions.came_back(trigger)
        if trigger.trace is not None and self.tracing is not None:
            self.tracing.ended(
                trigger.trace,
                trigger.tool.name,
                submitted_s=trigger.submitted_s,
                now_s=self._clock(),
                attributes={"panels.panel": trigger.panel.id, "panels.tool": trigger.tool.name},
                error=reason.value,
            )
        self._failed(trigger, Failed(Usage(fuel=-1), reason, message))
        if suspended and resident is not None:
            self._shed(resident)

    def _shed(self, resident: Resident) -> None:
        """A tool of the panel was suspended: its triggers that wait are refused, so that those of the other
        tools need not wait until each of them has failed.
        """
        refused: list[tuple[Trigger, Refused]] = []
        resumptions: list[Trigger] = []
        for trigger in self._dispatcher.withdraw(resident.panel):
            refusal = self._breakers.shed(trigger, resident) if trigger.resume is None else None
            if refusal is not None:
                refused.append((trigger, refusal))
            elif trigger.resume is not None:
                resumptions.append(trigger)
            else:
                # there is room: all have just been withdrawn, and nobody has been answered yet
                self._dispatcher.offer(trigger, self._clock())
        for trigger in resumptions:
            self._suspensions.take_back(trigger, resident)
        for trigger, refusal in refused:
            self._answering.refuse(trigger, refusal)

    def _failed(self, trigger: Trigger, outcome: Failed) -> None:
        self._counters.failed[outcome.reason] += 1
        self._failures.charge(trigger.panel.id, 1)
        if trigger.resume is None:
            self._stages.whole["failed"].add(self._clock() - trigger.submitted_s)
        record = None
        exchanges: tuple[Exchange, ...] = ()
        step = 0
        resident = self._residents.of(trigger.panel)
        origin = trigger
        if trigger.resume is not None and resident is not None:
            suspension = self._suspensions.of(trigger, resident)
            if suspension is None:
                return
            origin = suspension.origin
            exchanges = suspension.take_exchanges()
            step = suspension.record.steps
            outcome = with_steps(outcome, step)
            self._suspensions.end(suspension)
        if trigger.due_ms is not None and resident is not None:
            self._record_fired(trigger, resident)
        if origin.key is not None and resident is not None:
            record = self._record(trigger, origin, resident, outcome, None, 0, origin.key, exchanges, step)
        self._answering.settle(origin, Failure(outcome), record, resident)

    def _record(
        self,
        trigger: Trigger,
        origin: Trigger,
        resident: Resident,
        outcome: Outcome,
        answer: Succeeded | None,
        seq: int,
        key: Key | None,
        exchanges: tuple[Exchange, ...],
        step: int = 0,
    ) -> Ran:
        record = Ran(
            resident.panel.number,
            seq,
            int(self._wall_clock() * 1000),
            trigger.tool.name,
            trigger.tool.digest,
            origin.args,
            trigger.scope,
            trigger.now_ms,
            trigger.seed,
            outcome,
            answer.queue_us if answer is not None else 0,
            answer.total_us if answer is not None else 0,
            key,
            exchanges,
            step,
        )
        self._residents.recorded(resident, record, self._turn.record(record))
        return record

    def _record_fired(self, trigger: Trigger, resident: Resident) -> None:
        due_ms, tool = trigger.due_ms, trigger.tool.name
        if due_ms is not None and due_ms > resident.fired.get(tool, -1):
            resident.fired[tool] = due_ms
            record = Fired(resident.panel.number, tool, due_ms)
            self._residents.recorded(resident, record, self._turn.record(record))

    def change(self, resident: Resident, state: dict[str, bytes], *, cause: str, subject: str | None) -> int:
        """Makes ``state`` the whole state of the panel, as one commit; the version that it made."""
        panel = resident.panel
        seq, changes = panel.replace_state(state)
        mutations_json = messages.changes_json(changes)
        record = Changed(
            panel.number, seq, int(self._wall_clock() * 1000), cause, subject or "", mutations_json
        )
        self._residents.recorded(resident, record, self._turn.record(record))
        mutations = messages.decode_mutations(mutations_json)
        resident.room.publish(seq, mutations, mutations_json, [])
        self._timers.committed(resident, None, mutations, [], seq)
        self._dispatcher.invalidate(panel)
        return seq


def _nobodys(run: Run, outcome: Outcome) -> bool:
    raise AssertionError("a panel with runs in flight is in memory")


class _Committed(NamedTuple):
    """What a run made of its panel: the version now, and whether and how it changed anything."""

    version: int
    effects: bool
    mutations: list[Mutation]
    events: list[Event]


def _ids(run: Run) -> dict[str, object]:
    """What tells a run from all others, in the gateway's log and in its worker's."""
    worker = run.worker
    return {
        "job": run.id,
        "request": run.trigger.request_id,
        "worker": worker.id.hex()[:16] if worker is not None else None,
    }


def with_steps(outcome: Failed, steps: int) -> Failed:
    """The failure of a handler that had committed ``steps`` segments before it failed, and says so."""
    try:
        details = jsonvalue.decode(outcome.details)
    except InvalidJsonError:
        details = {}
    if not isinstance(details, dict):
        details = {}
    return msgspec.structs.replace(outcome, details=msgspec.json.encode({**details, "steps": steps}))
