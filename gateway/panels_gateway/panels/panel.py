"""A panel: its identity, its tools, and its state with the version after each commit.

Pure: no clock, no I/O. The kernel is its only writer, and it writes only whole commits, so that every reader
between two calls sees the effects of complete jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from panels_shared.limits import MIB
from panels_shared.messages import PanelKey, Tool

if TYPE_CHECKING:
    from panels_gateway.panels.definition import PanelDefinition

#: The key of the gateway's own panel, which no client sees and nobody is charged for; panels count from 1.
OWN_PANEL: Final = PanelKey(0)
#: Characters of a state key; a security limit.
MAX_KEY_CHARS: Final = 256


class Mutation(msgspec.Struct, frozen=True, gc=False):
    """One change of one key, as a worker reports it and as clients see it.

    ``value`` is JSON, absent for delete.
    """

    op: Literal["set", "delete"]
    key: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLimits:
    """Bounds of one panel's state: ``bytes`` counts keys and values as JSON, ``keys`` the top-level keys."""

    bytes: int = 16 * MIB
    keys: int = 65_536


class CommitRefusedError(Exception):
    """A commit that is malformed or would exceed the state's bounds. ``message`` is for the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(slots=True, eq=False)
class Panel:
    """One live panel.

    - ``state``: top-level key → value as JSON. Values are replaced whole and never decoded.
    - ``seq``: the version; goes up by one for each commit with any effect, mutations or events.
    - ``key`` identifies this stay in memory to workers; ``number`` identifies the panel
      in the journal for ever.
    - ``epoch``: names this history. A panel that was made anew under the same id, or lost commits, has
      another.
    - ``state_bytes``: what ``StateLimits.bytes`` counts, kept in step at a cost of O(changes).
    """

    key: PanelKey
    id: str
    definition: PanelDefinition
    tools: Mapping[str, Tool]
    created_ms: int
    limits: StateLimits = field(default_factory=StateLimits)
    state: dict[str, bytes] = field(default_factory=dict)
    seq: int = 0
    number: int = 0
    epoch: str = ""
    state_bytes: int = 0
    #: Key → the seq of its last change, the latest change last; deleted keys stay as tombstones until pruned.
    _changed: dict[str, int] = field(default_factory=dict)
    #: Changes up to here may have been pruned from ``_changed``.
    _known_since: int = 0

    def __post_init__(self) -> None:
        self.state_bytes = sum(len(key) + len(value) for key, value in self.state.items())
        self._known_since = self.seq

    def commit(self, mutations: Sequence[Mutation]) -> int:
        """Applies ``mutations``, which may be none, as one version and returns it, or changes nothing.

        Raises ``CommitRefusedError`` if a bound would be exceeded or a mutation makes no sense.
        """
        state = self.state
        size = self.state_bytes
        count = len(state)
        staged: dict[str, bytes | None] = {}
        for mutation in mutations:
            key = mutation.key
            if len(key) > MAX_KEY_CHARS:
                raise CommitRefusedError(
                    f"expected a state key of at most {MAX_KEY_CHARS} characters, got {len(key)}"
                )
            old = staged[key] if key in staged else state.get(key)
            if old is not None:
                size -= len(key) + len(old)
                count -= 1
            if mutation.op == "set":
                if mutation.value is msgspec.UNSET:
                    raise CommitRefusedError("expected a value to set, got none")
                value = bytes(mutation.value)
                size += len(key) + len(value)
                count += 1
                staged[key] = value
            else:
                staged[key] = None
        if size > self.limits.bytes and size > self.state_bytes:
            raise CommitRefusedError(
                f"expected a panel state of at most {self.limits.bytes} bytes, got {size}"
            )
        if count > self.limits.keys and count > len(state):
            raise CommitRefusedError(f"expected at most {self.limits.keys} state keys, got {count}")
        self.seq = seq = self.seq + 1
        self.state_bytes = size
        changed = self._changed
        for key, new in staged.items():
            changed.pop(key, None)
            changed[key] = seq
            if new is None:
                state.pop(key, None)
            else:
                state[key] = new
        if len(changed) > 2 * len(state) + 1_024:
            self._prune()
        return seq

    def replace_state(self, state: Mapping[str, bytes]) -> tuple[int, list[tuple[str, bytes | None]]]:
        """Makes ``state`` the whole state, as one version; returns it and what changed, None for deleted
        keys.

        The version goes up even when nothing changed: a caller that replaced the state sees that it did.
        """
        changes: list[tuple[str, bytes | None]] = [(key, None) for key in self.state if key not in state]
        changes += [(key, value) for key, value in state.items() if self.state.get(key) != value]
        self.seq += 1
        for key, value in changes:
            self._changed.pop(key, None)
            self._changed[key] = self.seq
            if value is None:
                del self.state[key]
            else:
                self.state[key] = value
        self.state_bytes = sum(len(key) + len(value) for key, value in self.state.items())
        return self.seq, changes

    def changes_since(self, seq: int) -> dict[str, bytes | None] | None:
        """What differs between version ``seq`` and now (None for a deleted key), at a cost of O(changes).

        None when ``seq`` is older than what is remembered, or is not a version of this panel.
        """
        if not self._known_since <= seq <= self.seq:
            return None
        changes: dict[str, bytes | None] = {}
        for key in reversed(self._changed):
            if self._changed[key] <= seq:
                break
            changes[key] = self.state.get(key)
        return changes

    def state_json(self) -> bytes:
        """The whole state as one JSON object."""
        return state_json(self.state)

    def _prune(self) -> None:
        # tombstones of keys that come and go would grow for ever: forget the older half of all changes
        drop = len(self._changed) // 2
        for key in list(self._changed)[:drop]:
            self._known_since = self._changed.pop(key)


_encoder = msgspec.json.Encoder()


def state_json(state: Mapping[str, bytes]) -> bytes:
    """A state (top-level key → value as JSON) as one JSON object."""
    encode = _encoder.encode
    return b"{" + b",".join([encode(key) + b":" + value for key, value in state.items()]) + b"}"
