"""A lane: one panel's jobs, in order, and where its replicas are.

waiting (queue) ──send──▶ in flight (in_flight) ──accept──▶ committed
       ▲                        │
       └──── end of epoch ──────┘   the jobs in flight go back to the front, in order
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from panels_gateway.dispatch.job import Job
    from panels_gateway.dispatch.peers import Worker

#: Workers whose replica of one panel is remembered.
MAX_POSITIONS: Final = 4


class PanelView(Protocol):
    """What the dispatcher needs of a panel."""

    @property
    def key(self) -> int:
        """Its number."""
        ...

    @property
    def seq(self) -> int:
        """Its version."""
        ...

    @property
    def state(self) -> Mapping[str, bytes]:
        """Its state now."""
        ...

    def changes_since(self, seq: int) -> dict[str, bytes | None] | None:
        """What differs from version ``seq``, None when that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Position:
    """What a worker's replica is known to have been: after job ``index`` of ``epoch``, which the panel was no later than at
    version ``seq``. (Changes since an earlier version than the replica's hold what it has already, with the same values.)"""

    epoch: int
    index: int
    seq: int


class Lane:
    """See the module's docstring. ``target`` is the worker it moves to once nothing is in flight."""

    __slots__ = (
        "committed",
        "epoch",
        "in_flight",
        "key",
        "moved_s",
        "next_index",
        "open",
        "panel",
        "positions",
        "queue",
        "scheduled",
        "seq",
        "target",
        "tools",
        "worker",
    )

    def __init__(self, panel: PanelView, tools: tuple[int, ...]) -> None:
        self.panel = panel
        self.key = panel.key
        self.tools = tools
        self.queue: deque[Job] = deque()
        self.in_flight: deque[Job] = deque()
        self.worker: Worker | None = None
        self.target: Worker | None = None
        self.scheduled = False
        self.moved_s = float("-inf")
        self.open = False
        self.epoch = 0
        self.next_index = 0
        self.committed = -1
        self.seq = 0
        self.positions: dict[Worker, Position] = {}

    def remember(self, worker: Worker) -> None:
        """Notes what ``worker``'s replica is, at the end of an epoch there."""
        self.positions.pop(worker, None)
        self.positions[worker] = Position(self.epoch, self.committed, self.seq)
        if len(self.positions) > MAX_POSITIONS:
            del self.positions[next(iter(self.positions))]
