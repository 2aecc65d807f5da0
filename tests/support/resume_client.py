"""A client of one panel that can prove that it has missed nothing: the rules of docs/protocol.md and nothing
else. Pure.

    position   where to resume: every message up to this version was heard, whole
    head       the newest version that anything heard belongs to; equal to position between two units

A message of a version above the head has to follow it: the version before the message's own (``prevSeq``,
else ``firstSeq - 1``, else ``seq - 1``) is at most the head. One at or below the head belongs to what was
announced by ``more``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

Message = Mapping[str, Any]


class GapError(Exception):
    """Something is missing between what the client has and what it was sent."""


class ProtocolError(Exception):
    """A message that the protocol does not allow here."""


def previous(message: Message) -> int:
    """The version that a PATCH or EVENT follows."""
    if "prevSeq" in message:
        return int(message["prevSeq"])
    return int(message.get("firstSeq", message["seq"])) - 1


class ResumingClient:
    """See the module's docstring. ``events`` are (seq, name, payload), each once, in order."""

    def __init__(self, *, position: int, state: Mapping[str, Any]) -> None:
        self.position = position
        self.head = position
        self.state: dict[str, Any] = dict(state)
        self.events: list[tuple[int, str, Any]] = []
        # events of versions above the position: those that were handed on, and those of this connection. A
        # unit can be cut off more than once before it comes whole.
        self._early: Counter[int] = Counter()
        self._here: Counter[int] = Counter()

    def connected(self, message: Message) -> None:
        """CONNECTED, in answer to a resume. Raises ``ProtocolError``."""
        if message.get("recovered") is True:
            if "state" in message:
                raise ProtocolError("expected no state where recovered is true, got one")
        else:
            if not isinstance(message.get("state"), Mapping):
                raise ProtocolError("expected a state where recovered is not true, got none")
            self.state = dict(message["state"])
            self.position = int(message["seq"])
            self._early = Counter()
        self._here = Counter()
        self.head = self.position

    def hear(self, message: Message) -> None:
        """PATCH, EVENT or SUBSCRIBED; others change nothing. Raises ``GapError``."""
        kind = message["type"]
        if kind == "SUBSCRIBED":
            self.position = self.head = int(message["seq"])
        if kind not in ("PATCH", "EVENT"):
            return
        seq = int(message["seq"])
        if seq <= self.position:
            raise ProtocolError(f"expected a version after {self.position}, got {seq} again")
        if seq > self.head:
            if previous(message) > self.head:
                raise GapError(
                    f"expected what follows version {self.head}, got what follows {previous(message)}"
                )
            self.head = seq
        if kind == "PATCH":
            self._apply(message)
        else:
            self._take(seq, message["event"])
        if not message.get("more", False):
            self.position = seq
            for counts in (self._early, self._here):
                for version in [version for version in counts if version <= seq]:
                    del counts[version]

    def _apply(self, message: Message) -> None:
        for mutation in message["mutations"]:
            if mutation["op"] == "set":
                self.state[mutation["key"]] = mutation["value"]
            else:
                self.state.pop(mutation["key"], None)

    def _take(self, seq: int, event: Mapping[str, Any]) -> None:
        self._here[seq] += 1
        if self._here[seq] <= self._early[seq]:
            return
        self._early[seq] += 1
        self.events.append((seq, event["name"], event["payload"]))
