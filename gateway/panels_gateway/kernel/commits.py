"""How a job's outcome becomes a commit: checked, applied, recorded, broadcast and answered, in one synchronous step."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.messages import EmittedEvent
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import Run
from panels_gateway.journal.records import Changed, Ran
from panels_gateway.kernel.answering import Answering
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.turn import Turn
from panels_gateway.observe.handler_log import HandlerLog
from panels_gateway.observe.stages import Stages
from panels_gateway.panels.panel import CommitRefusedError, Mutation
from panels_gateway.panels.trigger import Failure, Succeeded, Trigger
from panels_shared.errors import PanelsError
from panels_shared.outcome import Completed, Failed, Outcome, Reason, Usage

_raw_decoder = msgspec.json.Decoder(msgspec.Raw)


class InvalidOutcomeError(PanelsError):
    """A worker said that a job completed, with something that is not what it must be."""


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
        self._handler_log = handler_log
        self._clock = clock
        self._wall_clock = wall_clock

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Commits what the run did and answers its trigger; confirms the run, or refuses it where the commit cannot be."""
        trigger = run.trigger
        panel = trigger.panel
        if outcome.log:
            self._handler_log.write(panel.key, panel.id, trigger.tool.name, outcome.log, self._clock())
        if isinstance(outcome, Failed):
            self._dispatcher.confirm(run)
            self._failed(trigger, outcome)
            return
        stages = self._stages
        stages.finishes -= 1
        began_s = time.perf_counter() if stages.finishes <= 0 else 0.0
        resident = self._residents.of(panel)
        assert resident is not None, "a panel with runs in flight is in memory"
        try:
            mutations, events = check(outcome)
            effects = bool(mutations or events)
            seq = panel.commit(mutations) if effects else panel.seq
        except (InvalidOutcomeError, CommitRefusedError) as exc:
            self._dispatcher.refuse(run)
            self._counters.refused_commits += 1
            reason = Reason.LIMIT_EXCEEDED if isinstance(exc, CommitRefusedError) else Reason.INVALID_RESULT
            self._failed(trigger, Failed(outcome.usage, reason, str(exc)))
            return
        self._dispatcher.confirm(run)
        now = self._clock()
        answer = Succeeded(
            outcome,
            seq,
            int((run.sent_s - trigger.submitted_s) * 1e6),
            int((now - trigger.submitted_s) * 1e6),
        )
        record = None
        if effects or trigger.key is not None:
            record = self._record(trigger, resident, outcome, answer, seq if effects else 0)
        if effects:
            resident.room.publish(seq, mutations, outcome.mutations, events)
        self._counters.completed += 1
        if trigger.key is None:
            trigger.reply_to.answer(trigger, answer)
        else:
            self._answering.settle(trigger, answer, record, resident)
        if began_s:
            stages.finished(trigger.submitted_s, run.sent_s, outcome.usage.execution_us, now, began_s)

    def failed(self, trigger: Trigger, reason: Reason, message: str) -> None:
        """No worker could run the trigger."""
        self._failed(trigger, Failed(Usage(fuel=-1), reason, message))

    def _failed(self, trigger: Trigger, outcome: Failed) -> None:
        self._counters.failed[outcome.reason] += 1
        record = None
        resident = self._residents.of(trigger.panel)
        if trigger.key is not None and resident is not None:
            record = self._record(trigger, resident, outcome, None, 0)
        self._answering.settle(trigger, Failure(outcome), record, resident)

    def _record(
        self, trigger: Trigger, resident: Resident, outcome: Outcome, answer: Succeeded | None, seq: int
    ) -> Ran:
        record = Ran(
            resident.panel.number,
            seq,
            int(self._wall_clock() * 1000),
            trigger.tool.name,
            trigger.tool.digest,
            trigger.args,
            trigger.scope,
            trigger.now_ms,
            trigger.seed,
            outcome,
            answer.queue_us if answer is not None else 0,
            answer.total_us if answer is not None else 0,
            trigger.key,
        )
        self._residents.recorded(resident, record, self._turn.record(record))
        return record

    def change(self, resident: Resident, state: dict[str, bytes], *, cause: str, subject: str | None) -> int:
        """Makes ``state`` the whole state of the panel, as one commit; the version that it made."""
        panel = resident.panel
        seq, changes = panel.replace_state(state)
        mutations_json = messages.changes_json(changes)
        record = Changed(
            panel.number, seq, int(self._wall_clock() * 1000), cause, subject or "", mutations_json
        )
        self._residents.recorded(resident, record, self._turn.record(record))
        resident.room.publish(seq, messages.decode_mutations(mutations_json), mutations_json, [])
        self._dispatcher.invalidate(panel)
        return seq


def check(outcome: Completed) -> tuple[list[Mutation], list[tuple[str, bytes]]]:
    """What a worker reports, checked so that it cannot break a frame: a worker may be compromised.

    Raises ``InvalidOutcomeError``.
    """
    try:
        mutations = messages.decode_mutations(outcome.mutations) if outcome.mutations != b"[]" else []
        events: list[tuple[str, bytes]] = []
        for fragment in outcome.events:
            event: EmittedEvent = messages.decode_event(fragment)
            str(fragment, "utf-8")
            events.append((event.name, fragment))
        str(outcome.mutations, "utf-8")
        if outcome.return_value != b"null":
            _raw_decoder.decode(outcome.return_value)
            str(outcome.return_value, "utf-8")
        if outcome.view_commands != b"[]":
            _raw_decoder.decode(outcome.view_commands)
            str(outcome.view_commands, "utf-8")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidOutcomeError("expected a result of valid JSON, got something else") from None
    return mutations, events
