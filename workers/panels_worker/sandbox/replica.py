"""Panel state as this sandbox knows it: replicas that jobs run on and that can be rolled back.

A replica is at a *position*: (epoch, index), where index is the last job of that epoch that it took (-1 at
the epoch's begin). Jobs are taken in order, without gaps; a failed job takes its index and changes nothing.
What undoes the jobs that the gateway has not committed yet is kept, so that the next epoch may begin at any
of those positions.

A request that does not fit gets None or False and never raises: the gateway, which holds the
truth, then sends a snapshot.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Final

from panels_shared.limits import MIB

#: What an entry costs besides its key and value: the headers of two objects and a slot in a dict.
ENTRY_BYTES: Final = 160
#: Positions of one replica that it can be rolled back to. Above it the oldest is forgotten.
MAX_UNDO: Final = 4_096

DEFAULT_MAX_BYTES: Final = 256 * MIB


def footprint(entries: Mapping[str, bytes | None]) -> int:
    """How many bytes ``entries`` count as."""
    return sum(ENTRY_BYTES + len(key) + (len(value) if value else 0) for key, value in entries.items())


class Replica:
    """One panel's state at a position. ``state`` is read-only for everybody else.

    ``floor`` is the lowest index of this epoch that it can still be rolled back to. ``size_bytes`` is what
    state and undo log hold, kept up to date at a cost that depends on the changes only.
    """

    __slots__ = ("_undo", "epoch", "floor", "index", "size_bytes", "state")

    def __init__(self, epoch: int, state: dict[str, bytes]) -> None:
        self.epoch = epoch
        self.index = -1
        self.floor = -1
        self.state = state
        self.size_bytes = footprint(state)
        # for each uncommitted job that changed anything: its index, the changes that undo
        # it, and their footprint
        self._undo: deque[tuple[int, dict[str, bytes | None], int]] = deque()

    def commit(self, index: int) -> None:
        """Forgets what undoes the jobs up to and including ``index``: the gateway has committed them."""
        if index <= self.floor:
            return
        undo = self._undo
        while undo and undo[0][0] <= index:
            self.size_bytes -= undo.popleft()[2]
        self.floor = min(index, self.index)

    def advance(self, changes: Mapping[str, bytes | None]) -> None:
        """Takes the next job, which made ``changes`` (None for a deleted key), or none if it failed."""
        self.index += 1
        if not changes:
            return
        back, back_bytes = self._apply(changes)
        self._undo.append((self.index, back, back_bytes))
        self.size_bytes += back_bytes
        if len(self._undo) > MAX_UNDO:
            self.commit(self._undo[0][0])

    def rebase(
        self, epoch: int, base_epoch: int, base_index: int, changes: Mapping[str, bytes | None]
    ) -> bool:
        """Begins ``epoch`` from position (``base_epoch``, ``base_index``) with ``changes`` applied.

        False if that position is not, or no longer, known: the replica is then of no use to that epoch.
        """
        if base_epoch != self.epoch or not self.floor <= base_index <= self.index:
            return False
        undo = self._undo
        while undo and undo[-1][0] > base_index:
            _, back, back_bytes = undo.pop()
            self.size_bytes -= back_bytes
            self._apply(back)
        while undo:
            self.size_bytes -= undo.pop()[2]
        self._apply(changes)
        self.epoch = epoch
        self.index = self.floor = -1
        return True

    def _apply(self, changes: Mapping[str, bytes | None]) -> tuple[dict[str, bytes | None], int]:
        """Makes ``changes`` to the state. Returns the changes that undo them, and their footprint."""
        state = self.state
        grown = back_bytes = 0
        back: dict[str, bytes | None] = {}
        for key, value in changes.items():
            old = back[key] = state.get(key)
            fixed = ENTRY_BYTES + len(key)
            back_bytes += fixed
            if old is not None:
                back_bytes += len(old)
                grown -= fixed + len(old)
            if value is not None:
                grown += fixed + len(value)
                state[key] = value
            elif old is not None:
                del state[key]
        self.size_bytes += grown
        return back, back_bytes


class Replicas:
    """The replicas of a sandbox, by panel.

    Bound: ``max_bytes`` of footprint in all. Above it the panels that have not run for longest are dropped,
    but never the one in use: a single panel may be larger than the bound.
    """

    def __init__(self, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self._replicas: OrderedDict[int, Replica] = OrderedDict()

    def __len__(self) -> int:
        return len(self._replicas)

    def begin(self, panel: int, epoch: int, state: dict[str, bytes]) -> None:
        """Begins ``epoch`` of ``panel`` with ``state``, which the replica keeps and changes."""
        self.drop(panel)
        replica = self._replicas[panel] = Replica(epoch, state)
        self._grew(replica.size_bytes)

    def rebase(
        self, panel: int, epoch: int, base_epoch: int, base_index: int, changes: Mapping[str, bytes | None]
    ) -> bool:
        """Begins ``epoch`` of ``panel`` from an earlier position. False, and nothing is kept, if it is not
        known.
        """
        replica = self._replicas.get(panel)
        if replica is None:
            return False
        before = replica.size_bytes
        if not replica.rebase(epoch, base_epoch, base_index, changes):
            self.drop(panel)
            return False
        self._replicas.move_to_end(panel)
        self._grew(replica.size_bytes - before)
        return True

    def acquire(self, panel: int, epoch: int, index: int, committed: int) -> Replica | None:
        """The replica that job ``index`` of ``epoch`` runs on, or None when it is not just there.

        ``committed`` is the highest index of the epoch that the gateway has committed, -1 for none.
        """
        replica = self._replicas.get(panel)
        if replica is None or replica.epoch != epoch or replica.index + 1 != index:
            return None
        self._replicas.move_to_end(panel)
        if committed > replica.floor:
            before = replica.size_bytes
            replica.commit(committed)
            self.size_bytes += replica.size_bytes - before
        return replica

    def advance(self, replica: Replica, changes: Mapping[str, bytes | None]) -> None:
        """Takes the job that ``replica``, the latest acquired, has just run."""
        if not changes:
            replica.index += 1
            return
        before = replica.size_bytes
        replica.advance(changes)
        self._grew(replica.size_bytes - before)

    def drop(self, panel: int) -> None:
        """Forgets ``panel``, if it is known."""
        replica = self._replicas.pop(panel, None)
        if replica is not None:
            self.size_bytes -= replica.size_bytes

    def clear(self) -> None:
        """Forgets all panels."""
        self._replicas.clear()
        self.size_bytes = 0

    def _grew(self, size_bytes: int) -> None:
        # the panel in use is always the last of the order, so the loop ends before it
        self.size_bytes += size_bytes
        while self.size_bytes > self.max_bytes and len(self._replicas) > 1:
            _, replica = self._replicas.popitem(last=False)
            self.size_bytes -= replica.size_bytes
