"""The rules by which a client proves that it has missed nothing: docs/protocol.md, and nothing else. Pure.

position   where to resume: every message up to this version was heard, whole
head       the newest version that anything heard belongs to; equal to position between two units
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal

from panels_client.messages import Connected, EventMessage, Patch, ProtocolViolation
from panels_client.view import View

#: How many events above the position are counted; a server that never ends a unit is cut off.
MAX_EARLY_EVENTS: Final = 65_536

Greeting = Literal["first", "recovered", "resynced", "lost"]


class Replica:
    """One panel's state and where it stands. ``epoch`` is None until the first CONNECTED.

    ``void`` says that there was a state, and that it cannot be used any more: the whole state is asked for.
    """

    def __init__(self) -> None:
        self.view = View()
        self.epoch: str | None = None
        self.position = 0
        self.head = 0
        self.void = False
        # how many events of each version above the position the application has, and how many came on this
        # connection: however often a unit is cut off, only what comes beyond the former is new
        self._early: Counter[int] = Counter()
        self._here: Counter[int] = Counter()

    def restore(self, *, epoch: str, position: int, state: Mapping[str, Any]) -> None:
        """Takes over what another client had."""
        self.epoch, self.position, self.head, self.void = epoch, position, position, False
        self.view.reset(state)

    def asks(self) -> dict[str, str]:
        """The query's parameters with which to connect: empty the first time."""
        if self.epoch is None:
            return {}
        if self.void:
            return {"epoch": self.epoch, "since": "none"}
        return {"epoch": self.epoch, "since": str(self.position)}

    def spoil(self) -> None:
        """Has the whole state asked for."""
        self.void = self.epoch is not None

    def connected(self, message: Connected) -> tuple[Greeting, frozenset[str]]:
        """What CONNECTED means, and the keys whose shown values changed. Raises ``ProtocolViolation``."""
        if message.state is None:
            if self.void or self.epoch is None:
                raise ProtocolViolation("expected the whole state, got recovered")
            if message.epoch != self.epoch:
                raise ProtocolViolation(f"expected to resume epoch {self.epoch}, got {message.epoch}")
            if message.seq < self.position:
                raise ProtocolViolation(f"expected a version from {self.position} on, got {message.seq}")
            self._here.clear()
            self.head = self.position
            return "recovered", frozenset()
        greeting: Greeting = "resynced"
        if self.epoch is None:
            greeting = "first"
        elif message.epoch != self.epoch or message.seq < self.position:
            # a version that went backwards is another history, whatever its name
            greeting = "lost"
        self.epoch, self.position, self.head, self.void = message.epoch, message.seq, message.seq, False
        self._early.clear()
        self._here.clear()
        return greeting, self.view.reset(message.state)

    def patch(self, message: Patch) -> frozenset[str]:
        """The keys whose shown values changed. Raises ``ProtocolViolation``."""
        self._follow(message)
        changed = self.view.apply(message.mutations)
        self._end(message)
        return changed

    def event(self, message: EventMessage) -> bool:
        """Whether the event is new to the application. Raises ``ProtocolViolation``."""
        self._follow(message)
        seq = message.seq
        self._here[seq] += 1
        new = self._here[seq] > self._early[seq]
        if new:
            self._early[seq] += 1
        self._end(message)
        if self._early.total() > MAX_EARLY_EVENTS:
            raise ProtocolViolation(f"expected at most {MAX_EARLY_EVENTS} events before a unit ends")
        return new

    def _follow(self, message: Patch | EventMessage) -> None:
        if message.seq <= self.position:
            raise ProtocolViolation(f"expected a version after {self.position}, got {message.seq} again")
        if message.seq > self.head:
            if message.follows > self.head:
                raise ProtocolViolation(
                    f"expected what follows version {self.head}, got what follows {message.follows}"
                )
            self.head = message.seq

    def _end(self, message: Patch | EventMessage) -> None:
        if message.more:
            return
        self.position = message.seq
        if not self._early:  # there is none in ``_here`` that is not in this one
            return
        for counts in (self._early, self._here):
            for version in [version for version in counts if version <= message.seq]:
                del counts[version]
