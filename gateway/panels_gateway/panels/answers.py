"""The idempotency keys of a panel: which are running now, and which have been answered. Pure.

    unknown ──begin──▶ running ──settle──▶ answered ──(ttl, bound)──▶ unknown
                          └────abandon────▶ unknown        the trigger was not run after all

A key belongs to a subject: two users may use the same one. The answer itself is the journal's record. It is
kept here until the journal can give it back; after that only the key is.

Queue: answered keys, the oldest first. Unit: keys. Bound: ``AnswerLimits``. Overflow policy: the oldest are
forgotten, and a trigger that comes under such a key again runs again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import msgspec

from panels_gateway.journal.records import Key, Ran
from panels_gateway.panels.trigger import Trigger

#: Triggers that may wait for the answer to one key; a security limit.
MAX_FOLLOWERS: Final = 64
#: Characters of a key; a security limit.
MAX_KEY_CHARS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLimits:
    """How many answered keys a panel remembers, and for how long, in milliseconds."""

    keys: int = 65_536
    ttl_ms: int = 24 * 3_600 * 1_000


class _Answered(msgspec.Struct):
    key: Key
    at_ms: int
    record: Ran | None


class Running(msgspec.Struct):
    """A key whose trigger has not been answered.

    ``followers`` came under the same key and get the same answer.
    """

    key: Key
    followers: list[Trigger]


class Answered(msgspec.Struct, frozen=True):
    """A key that has been answered.

    ``record`` holds the answer, None where it must be read from the journal.
    """

    record: Ran | None


class Conflict(msgspec.Struct, frozen=True):
    """The key was used for another tool or other arguments."""


def _name(key: Key) -> str:
    return f"{key.subject}\0{key.key}"


class Answers:
    """The keys of one panel; see the module's docstring. Times are milliseconds of the wall clock."""

    __slots__ = ("_answered", "_limits", "_running")

    def __init__(self, limits: AnswerLimits) -> None:
        self._limits = limits
        self._running: dict[str, Running] = {}
        self._answered: OrderedDict[str, _Answered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answered)

    @property
    def running(self) -> int:
        """Keys whose trigger has not been answered."""
        return len(self._running)

    def look(self, key: Key, now_ms: int) -> Running | Answered | Conflict | None:
        """What is known of ``key``.

        None if nothing is; the caller then runs the trigger and calls ``begin``.
        """
        name = _name(key)
        running = self._running.get(name)
        if running is not None:
            return running if running.key.fingerprint == key.fingerprint else Conflict()
        answered = self._answered.get(name)
        if answered is None:
            return None
        if now_ms - answered.at_ms > self._limits.ttl_ms:
            del self._answered[name]
            return None
        return Answered(answered.record) if answered.key.fingerprint == key.fingerprint else Conflict()

    def begin(self, key: Key) -> None:
        """A trigger under ``key``, of which nothing is known, is about to run."""
        self._running[_name(key)] = Running(key, [])

    def settle(self, record: Ran) -> list[Trigger]:
        """Notes that the record's key was answered; returns the triggers that wait for its answer."""
        key = record.key
        assert key is not None
        name = _name(key)
        running = self._running.pop(name, None)
        self._add(key, record.at_ms, record)
        return running.followers if running is not None else []

    def abandon(self, key: Key) -> list[Trigger]:
        """Notes that the trigger under ``key`` was not run; returns the triggers that waited for it."""
        running = self._running.pop(_name(key), None)
        return running.followers if running is not None else []

    def restore(self, keys: list[tuple[Key, int]]) -> None:
        """Takes over what the journal remembers: keys with the times of their answers, the oldest first."""
        for key, at_ms in keys:
            self._add(key, at_ms, None)

    def stored(self, record: Ran) -> None:
        """Forgets the record, which the journal can give back from now on."""
        assert record.key is not None
        answered = self._answered.get(_name(record.key))
        if answered is not None and answered.record is record:
            answered.record = None

    def _add(self, key: Key, at_ms: int, record: Ran | None) -> None:
        name = _name(key)
        self._answered.pop(name, None)
        self._answered[name] = _Answered(key, at_ms, record)
        while len(self._answered) > self._limits.keys:
            self._answered.popitem(last=False)
        # the clock may have jumped back: an answer from the future stays until the bound takes it
        oldest = next(iter(self._answered.values()))
        if at_ms - oldest.at_ms > self._limits.ttl_ms:
            self._answered.popitem(last=False)
