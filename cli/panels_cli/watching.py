"""A watcher of one panel: its state, and what to do when the connection ends. Pure.

    position   where to resume: every message up to this version was heard, whole
    head       the newest version that anything heard belongs to; equal to position between two units

docs/protocol.md has the rules. A message that does not follow what was heard is a gap: the watcher then says
so, and asks for the whole state at the next connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from panels_shared.errors import CloseCode

Message = Mapping[str, Any]

FIRST_WAIT_S: Final = 0.25
MAX_WAIT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Greeted:
    """CONNECTED came. ``how`` is ``connected`` the first time, then ``recovered`` (what was missed follows)
    or ``resynced`` (the state is whole again, events may have been missed). ``old`` is the state before.
    """

    how: str
    seq: int
    old: Mapping[str, Any] = field(repr=False)
    new: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Changed:
    """A PATCH: the values of the keys that it names, before and after; a key without a value is absent."""

    seq: int
    old: Mapping[str, Any] = field(repr=False)
    new: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Happened:
    """An EVENT that was not heard before."""

    seq: int
    name: str
    payload: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Something is missing: connect again."""

    problem: str


@dataclass(frozen=True, slots=True)
class Told:
    """Any other message."""

    kind: str
    message: Message = field(repr=False)


Heard = Greeted | Changed | Happened | Gap | Told


@dataclass(frozen=True, slots=True)
class Retry:
    """Connect again after so many seconds."""

    after_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Connecting again is of no use, for this reason."""

    reason: str


class Watcher:
    """See the module's docstring. It expects messages in the order in which they came."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.position = 0
        self.head = 0
        self.state: dict[str, Any] = {}
        self._void = False
        self._failures = 0
        self._early: Counter[int] = Counter()
        self._again: Counter[int] = Counter()

    def query(self) -> dict[str, str]:
        """The parameters of the next upgrade: what to resume from, nothing the first time."""
        if self.epoch is None:
            return {}
        return {"epoch": self.epoch, "since": "none" if self._void else str(self.position)}

    def hear(self, message: Message) -> Heard | None:
        """What a message means; None for an EVENT that was heard before the connection was lost."""
        kind = message.get("type")
        try:
            if kind == "CONNECTED":
                return self._greet(message)
            if kind in ("PATCH", "EVENT"):
                return self._take(message)
        except (KeyError, TypeError, ValueError, AttributeError):
            return self._gap(f"expected a {kind} as the protocol has it, got something else")
        return Told(str(kind), message)

    def _greet(self, message: Message) -> Greeted:
        first, old = self.epoch is None, dict(self.state)
        recovered = message.get("recovered") is True
        if recovered:
            # what was heard of units that were cut off comes again
            self._again = self._early
        else:
            self.state = dict(message["state"])
            self.position = int(message["seq"])
            self._again = Counter()
        self._early = Counter()
        self.epoch = str(message["epoch"])
        self.head = self.position
        self._void = False
        self._failures = 0
        how = "connected" if first else "recovered" if recovered else "resynced"
        return Greeted(how, int(message["seq"]), old, dict(self.state))

    def _take(self, message: Message) -> Changed | Happened | Gap | None:
        seq = int(message["seq"])
        if seq <= self.position:
            return self._gap(f"expected a version after {self.position}, got {seq} again")
        if seq > self.head:
            if follows(message) > self.head:
                return self._gap(
                    f"expected what follows version {self.head}, got what follows {follows(message)}"
                )
            self.head = seq
        heard: Changed | Happened | None
        if message["type"] == "PATCH":
            heard = self._apply(seq, message["mutations"])
        else:
            heard = self._event(seq, message["event"])
        if not message.get("more", False):
            self.position = seq
            self._early = Counter({version: n for version, n in self._early.items() if version > seq})
        return heard

    def _apply(self, seq: int, mutations: Any) -> Changed:
        keys = [str(mutation["key"]) for mutation in mutations]
        old = {key: self.state[key] for key in keys if key in self.state}
        for mutation in mutations:
            if mutation["op"] == "set":
                self.state[mutation["key"]] = mutation["value"]
            else:
                self.state.pop(mutation["key"], None)
        return Changed(seq, old, {key: self.state[key] for key in keys if key in self.state})

    def _event(self, seq: int, event: Message) -> Happened | None:
        name, payload = str(event["name"]), event["payload"]
        self._early[seq] += 1
        if self._again[seq] > 0:
            self._again[seq] -= 1
            return None
        return Happened(seq, name, payload)

    def _gap(self, problem: str) -> Gap:
        self._void = True
        return Gap(problem)

    # -- when the connection ends --------------------------------------------------------------------

    def closed(self, code: int | None, *, chance: float) -> Retry | GiveUp:
        """What to do after a close code, None for a socket that just ended. ``chance`` is a random number
        from 0 to 1, so that not all watchers come back at once.
        """
        if code == CloseCode.TOKEN_EXPIRED:
            return GiveUp("the token has expired or was revoked; watch again with a new one")
        if code == CloseCode.PANEL_DELETED:
            return GiveUp("the panel was deleted")
        return self._retry(chance)

    def refused(self, status: int, *, chance: float) -> Retry | GiveUp:
        """What to do after an upgrade was answered with this HTTP status."""
        if status == 429 or status >= 500:
            return self._retry(chance)
        return GiveUp(f"the gateway answered {status}")

    def unreachable(self, *, chance: float) -> Retry | GiveUp:
        """What to do when nobody answers. A gateway that was never reached is not waited for."""
        if self.epoch is None:
            return GiveUp("cannot be reached")
        return self._retry(chance)

    def _retry(self, chance: float) -> Retry:
        wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return Retry(wait_s * (0.5 + chance / 2))


def follows(message: Message) -> int:
    """The version that a PATCH or EVENT follows."""
    if "prevSeq" in message:
        return int(message["prevSeq"])
    return int(message.get("firstSeq", message["seq"])) - 1
