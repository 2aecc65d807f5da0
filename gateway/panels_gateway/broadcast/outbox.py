"""The frames that wait for a client that reads more slowly than its panel changes. Pure.

Queue: frames and commits, in order. Unit: bytes of frames. Bound: ``OutboxLimits``. Overflow policy: above
``soft_bytes`` the PATCHes that wait are merged into one that holds each key's last change, in the place of
the first (the state that it shows is newer than the EVENTs behind it, never older, as with CONNECTED; it says
``more`` where there may be such EVENTs, so that a client that is cut off before it has them asks for them
again); when what waits is still above ``hard_bytes`` the client is a slow consumer, and is closed with 1013.
EVENTs and answers are never dropped.

A client that keeps up never has anything here: the hub writes to its transport directly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.observe.counters import OutboxCounters
from panels_gateway.panels.panel import Mutation
from panels_shared.limits import KIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxLimits:
    """How many bytes may wait for one client.

    Above ``soft_bytes`` PATCHes are merged; above ``hard_bytes`` the client is closed.
    """

    soft_bytes: int = 256 * KIB
    hard_bytes: int = MIB


class Addressed(Protocol):
    """A commit with events that are for one of ``subjects`` each, as the hub keeps it."""

    subjects: set[str]

    def heard_by(self, subject: str | None) -> Commit:
        """The commit as ``subject`` hears it."""
        ...


class Commit(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One version of a panel as its clients see it: the PATCH frame (empty for none) and the EVENT frames.

    ``own`` belongs to the hub: what makes the commit that those see whom an event of it is for alone.
    """

    first_seq: int
    seq: int
    mutations: tuple[Mutation, ...] | list[Mutation]
    patch_frame: bytes
    event_frames: bytes
    own: Addressed | None = None

    @property
    def frames(self) -> bytes:
        """The PATCH, then the EVENTs."""
        return self.patch_frame + self.event_frames


class Outbox:
    """The queue; see the module's docstring for its bound and overflow policy.

    What waits is counted in ``waiting`` too, until ``clear`` is called.
    """

    __slots__ = ("_bytes", "_items", "_limits", "_merge_at", "_waiting")

    def __init__(self, limits: OutboxLimits, waiting: OutboxCounters | None = None) -> None:
        self._limits = limits
        self._waiting = waiting if waiting is not None else OutboxCounters()
        self._items: list[Commit | bytes] = []
        self._bytes = 0
        self._merge_at = limits.soft_bytes

    def __bool__(self) -> bool:
        return bool(self._items)

    @property
    def size_bytes(self) -> int:
        """Bytes of frames that wait."""
        return self._bytes

    def put(self, items: Iterable[Commit | bytes]) -> bool:
        """Appends frames and commits; False when the client has fallen too far behind."""
        before = self._bytes
        for item in items:
            self._items.append(item)
            self._bytes += _size(item)
        if self._bytes > self._merge_at:
            self._merge()
            # merging again only pays once as much has come as is left now
            self._merge_at = max(self._limits.soft_bytes, 2 * self._bytes)
        self._waiting.bytes += self._bytes - before
        return self._bytes <= self._limits.hard_bytes

    def drain(self, budget_bytes: int) -> bytes:
        """Takes frames from the front: at least one item, at most about ``budget_bytes``."""
        taken = 0
        count = 0
        for item in self._items:
            if count and taken + _size(item) > budget_bytes:
                break
            taken += _size(item)
            count += 1
        frames = b"".join([item if isinstance(item, bytes) else item.frames for item in self._items[:count]])
        del self._items[:count]
        self._bytes -= taken
        self._waiting.bytes -= taken
        if not self._items:
            self._merge_at = self._limits.soft_bytes
        return frames

    def clear(self) -> None:
        """The client is gone, and nothing waits for it any more."""
        self._waiting.bytes -= self._bytes
        self._items = []
        self._bytes = 0

    def _merge(self) -> None:
        patched = [item for item in self._items if isinstance(item, Commit) and item.patch_frame]
        if len(patched) < 2:
            return
        last: dict[str, Mutation] = {}
        for commit in patched:
            for mutation in commit.mutations:
                last.pop(mutation.key, None)
                last[mutation.key] = mutation
        mutations = list(last.values())
        first_seq, seq = patched[0].first_seq, patched[-1].seq
        behind = self._items[self._items.index(patched[0]) :]
        more = any(isinstance(item, bytes) or item.event_frames for item in behind)
        payload = messages.merged_patch(messages.mutations_json(mutations), first_seq, seq, more=more)
        merged = Commit(first_seq, seq, mutations, text_frame(payload), patched[0].event_frames)
        items: list[Commit | bytes] = []
        for item in self._items:
            if item is patched[0]:
                items.append(merged)
            elif isinstance(item, bytes) or not item.patch_frame:
                items.append(item)
            elif item.event_frames:
                items.append(item.event_frames)
        self._waiting.merged += 1
        self._items = items
        self._bytes = sum(map(_size, items))


def _size(item: Commit | bytes) -> int:
    if isinstance(item, bytes):
        return len(item)
    return len(item.patch_frame) + len(item.event_frames)
