"""How triggers are answered: each exactly once, together with those that share its idempotency key."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from panels_gateway.broadcast.events import decode_event
from panels_gateway.journal.records import Ran
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.observe.tracing import Tracing
from panels_gateway.panels.trigger import Answer, Failure, Refused, Succeeded, Trigger
from panels_shared.outcome import Completed, Failed


class Answering:
    """See the module's docstring. A ``ReplyTo`` sees to it that its answer leaves with the turn."""

    def __init__(
        self, residents: Residents, counters: Counters, clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: who takes the spans of triggers; None while nothing is traced
        self.tracing: Tracing | None = None
        self._clock = clock
        self._residents = residents
        self._counters = counters

    def settle(self, trigger: Trigger, answer: Answer, record: Ran | None, resident: Resident | None) -> None:
        """Answers a trigger that was run. ``record`` is its record if it came under a key, None otherwise."""
        trigger.reply_to.answer(trigger, answer)
        if trigger.key is None or record is None or resident is None:
            return
        for follower in resident.answers.settle(record):
            self._counters.joined += 1
            follower.reply_to.answer(follower, answer)

    def turn_away(self, trigger: Trigger, refused: Refused) -> None:
        """Answers a trigger that was not run, and leaves what is known of its key as it is."""
        counted = self._counters.refused
        counted[refused.code] = counted.get(refused.code, 0) + 1
        trigger.reply_to.answer(trigger, refused)

    def refuse(self, trigger: Trigger, refused: Refused) -> None:
        """Answers a trigger that was not run. Its key stays unused: sent again, it runs."""
        if trigger.trace is not None and self.tracing is not None:
            self.tracing.ended(
                trigger.trace,
                trigger.tool.name,
                submitted_s=trigger.submitted_s,
                now_s=self._clock(),
                attributes={"panels.panel": trigger.panel.id, "panels.tool": trigger.tool.name},
                error=refused.code.value,
            )
        self.turn_away(trigger, refused)
        if trigger.key is None:
            return
        resident = self._residents.of(trigger.panel)
        if resident is not None:
            for follower in resident.answers.abandon(trigger.key):
                follower.reply_to.answer(follower, refused)

    def repeat(self, trigger: Trigger, record: Ran) -> None:
        """Answers a trigger whose key was answered before, with the same answer."""
        self._counters.repeated += 1
        trigger.reply_to.answer(trigger, answer_of(record, trigger.panel.seq, trigger.subject))


def shown_to(subject: str, outcome: Completed) -> Completed:
    """``outcome`` without the events that are for another subject alone: a caller hears no more of what its
    trigger emitted than everybody who watches the panel.
    """
    if not any(b'"to"' in fragment for fragment in outcome.events):
        return outcome
    heard = [fragment for fragment in outcome.events if decode_event(fragment).to in (None, subject)]
    return msgspec.structs.replace(outcome, events=tuple(heard))


def answer_of(record: Ran, seq: int, subject: str) -> Answer:
    """The answer that ``record`` stands for, to ``subject``, whose trigger it was.

    ``seq`` is the panel's current version, which the answer carries if there were no effects.
    """
    outcome = record.outcome
    if isinstance(outcome, Completed):
        return Succeeded(shown_to(subject, outcome), record.seq or seq, record.queue_us, record.total_us)
    # what a step that suspended did is recorded without a key: nobody was answered by it
    assert isinstance(outcome, Failed)
    return Failure(outcome)
