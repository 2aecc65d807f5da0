"""A journal that keeps nothing: for mode ``none`` and for tests.

It keeps every promise of the seam for as long as it lives. Panels' epochs are lost with it, so a client never
resumes an old history by mistake.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from panels_gateway.journal.chunks import encode_record, last_changes
from panels_gateway.journal.journal import (
    Disk,
    FencedError,
    FoldingState,
    History,
    JournalError,
    PositionError,
    StoredPanel,
    Summary,
    Waiting,
)
from panels_gateway.journal.records import (
    NEVER,
    Batch,
    Changed,
    Created,
    Defined,
    Deleted,
    Fired,
    Key,
    Parked,
    Ran,
    Record,
    Returned,
    Revoked,
    Source,
    Unparked,
    Unrevoked,
    encode,
    replace_image,
)
from panels_gateway.observe.histogram import Histogram

#: Under load batches are folded together after so many seconds: one by one they would cost more than their
#: commits.
FOLD_S: Final = 0.01


def _apply(state: dict[str, bytes], commits: Sequence[Ran | Changed]) -> None:
    for key, (value, _) in last_changes(commits).items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value


@dataclass(slots=True)
class _Panel:
    """A panel: ``base`` is its state at version ``floor``, and ``commits`` are those after it."""

    created: Created
    definition: bytes
    digests: tuple[bytes, ...]
    base: dict[str, bytes]
    floor: int
    commits: deque[Ran | Changed] = field(default_factory=deque[Ran | Changed])
    answers: dict[tuple[str, str], Ran] = field(default_factory=dict[tuple[str, str], Ran])
    parked: dict[int, Parked] = field(default_factory=dict[int, Parked])
    fired: dict[str, int] = field(default_factory=dict[str, int])
    returned: dict[int, list[Returned]] = field(default_factory=dict[int, list[Returned]])

    @property
    def seq(self) -> int:
        return self.floor + len(self.commits)

    def state_at(self, seq: int) -> dict[str, bytes]:
        state = dict(self.base)
        if seq > self.floor:
            _apply(state, list(islice(self.commits, seq - self.floor)))
        return state


class MemoryJournal:
    """The whole seam in memory.

    Of each panel it keeps ``history_commits`` commits, and as many answers, the newest.

    With ``hold`` nothing becomes durable before ``release`` says so: tests use it to look at what must
    wait. Batches are folded ``fold_s`` seconds after they became durable, and never in the same turn of the
    loop, as they are by other journals.
    """

    def __init__(self, *, hold: bool = False, history_commits: int = 10_000, fold_s: float = 0.0) -> None:
        self.on_durable: Callable[[int], None] = lambda position: None
        self.on_folded: Callable[[int], None] = lambda position: None
        self.on_failed: Callable[[JournalError], None] = lambda error: None
        self.hold = hold
        self._fold_s = fold_s
        self.closed = False
        self._history_commits = history_commits
        self._position = 0
        self._durable = 0
        self._folded = 0
        self._unfolded: deque[Batch] = deque()
        self._scheduled = False
        self._panels: dict[int, _Panel] = {}
        self._numbers: dict[str, int] = {}
        self._sources: dict[bytes, Source] = {}
        self._revoked: dict[str, Revoked] = {}

    @property
    def fence(self) -> int:
        return 1

    @property
    def incarnation(self) -> int:
        return 0

    @property
    def position(self) -> int:
        return self._position

    @property
    def durable(self) -> int:
        return self._durable

    @property
    def folded(self) -> int:
        return self._folded

    @property
    def last_panel(self) -> int:
        return 0

    @property
    def panels(self) -> int:
        return 0

    @property
    def backlog_bytes(self) -> int:
        # what waits here goes within a turn; only held batches can pile up, and only in a test
        return sum(len(encode(batch)) for batch in self._unfolded) if self.hold else 0

    @property
    def folding(self) -> FoldingState:
        return FoldingState(up=True, deaths=0)

    def disk(self) -> Disk:
        return Disk(0, 0, 0)

    @property
    def sync_seconds(self) -> Histogram:
        return Histogram()

    @property
    def syncs(self) -> int:
        return 0

    def append(self, batch: Batch) -> None:
        if self.closed:
            raise JournalError("the journal has been closed")
        if batch.fence != self.fence:
            raise FencedError(f"expected a batch under fence {self.fence}, got {batch.fence}")
        if batch.position != self._position + 1:
            raise PositionError(f"expected a batch of position {self._position + 1}, got {batch.position}")
        self._position = batch.position
        self._unfolded.append(batch)
        if not self.hold:
            self._durable = batch.position
            self._schedule()

    async def ping(self) -> None:
        if self.closed:
            raise JournalError("the journal has been closed")

    def release(self, position: int) -> None:
        """Makes held batches durable as far as ``position`` and says so at once."""
        assert self._durable <= position <= self._position
        self._durable = position
        self._schedule()
        self.on_durable(position)

    def fail(self, error: JournalError) -> None:
        """Behaves as on a failing disk: nothing can be appended any more."""
        self.closed = True
        self.on_failed(error)

    async def load(self, panel_id: str) -> StoredPanel | None:
        number = self._numbers.get(panel_id)
        if number is None:
            return None
        panel = self._panels[number]
        return StoredPanel(
            panel=number,
            id=panel_id,
            epoch=panel.created.epoch,
            created_ms=panel.created.at_ms,
            definition=panel.definition,
            sources={digest: self._sources[digest] for digest in panel.digests},
            seq=panel.seq,
            state=panel.state_at(panel.seq),
            position=self._folded,
            waiting=[
                Waiting(
                    replace_image(parked, b""),
                    tuple(panel.returned.get(parked.suspension, ())),
                    len(parked.image),
                )
                for parked in panel.parked.values()
            ],
            fired=dict(panel.fired),
            answers=[(run.key, run.at_ms) for run in panel.answers.values() if run.key is not None],
        )

    async def summaries(
        self, *, after: str, limit: int, ranges: Sequence[tuple[str, str]] | None = None
    ) -> list[Summary]:
        found = []
        names = (
            name
            for name in self._numbers
            if name > after and (ranges is None or any(first <= name <= last for first, last in ranges))
        )
        for panel_id in heapq.nsmallest(limit, names):
            panel = self._panels[self._numbers[panel_id]]
            state = panel.state_at(panel.seq)
            found.append(
                Summary(
                    panel=panel.created.panel,
                    id=panel_id,
                    epoch=panel.created.epoch,
                    created_ms=panel.created.at_ms,
                    seq=panel.seq,
                    definition=panel.definition,
                    state_bytes=sum(len(key) + len(value) for key, value in state.items()),
                )
            )
        return found

    async def history(
        self, panel: int, *, since: int, limit_bytes: int, limit: int | None = None
    ) -> History | None:
        found = self._panels.get(panel)
        if found is None or since < found.floor:
            return None
        commits: list[Ran | Changed] = []
        size = 0
        for index in range(since - found.floor, len(found.commits)):
            commit = found.commits[index]
            size += len(encode_record(commit))
            if commits and (size > limit_bytes or len(commits) == limit):
                return History(commits, complete=False)
            commits.append(commit)
        return History(commits, complete=True)

    async def key_history(self, panel: int, key: str, *, limit: int) -> list[Ran | Changed]:
        self._fold()
        found = self._panels.get(panel)
        commits = found.commits if found is not None else ()
        return [commit for commit in reversed(commits) if key in last_changes([commit])][:limit]

    async def state_at(self, panel: int, seq: int) -> dict[str, bytes] | None:
        self._fold()
        found = self._panels.get(panel)
        return found.state_at(seq) if found is not None and found.floor <= seq <= found.seq else None

    async def answer(self, panel: int, subject: str, key: str) -> Ran | None:
        found = self._panels.get(panel)
        return found.answers.get((subject, key)) if found is not None else None

    async def source(self, digest: bytes) -> Source | None:
        return self._sources.get(digest)

    async def waiting(self, panel: int, suspension: int) -> Waiting | None:
        found = self._panels.get(panel)
        parked = found.parked.get(suspension) if found is not None else None
        if found is None or parked is None:
            return None
        return Waiting(parked, tuple(found.returned.get(suspension, ())), len(parked.image))

    async def revocations(self) -> list[Revoked]:
        return [self._revoked[name] for name in sorted(self._revoked)]

    async def active_panels(self) -> list[str]:
        found: list[tuple[bool, int, str]] = []
        for name, number in self._numbers.items():
            panel = self._panels[number]
            if panel.parked or panel.fired:
                first = min((parked.deadline_ms for parked in panel.parked.values()), default=0)
                found.append((not panel.parked, first, name))
        return [name for _, _, name in sorted(found)]

    async def close(self) -> None:
        self.closed = True
        self._durable = self._position

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(self._fold_s, self._fold)

    def _fold(self) -> None:
        self._scheduled = False
        if not self._unfolded:
            return
        while self._unfolded and self._unfolded[0].position <= self._durable:
            batch = self._unfolded.popleft()
            for record in batch.records:
                self._take(record)
            self._folded = batch.position
        self.on_folded(self._folded)

    def _take(self, record: Record) -> None:
        if isinstance(record, Source):
            self._sources[record.digest] = record
        elif isinstance(record, Created):
            panel = _Panel(record, record.definition, record.digests, dict(record.state), record.seq)
            self._panels[record.panel] = panel
            self._numbers[record.id] = record.panel
        elif isinstance(record, Deleted):
            del self._numbers[self._panels.pop(record.panel).created.id]
        elif isinstance(record, Revoked):
            self._revoked[record.name] = record
        elif isinstance(record, Unrevoked):
            self._revoked.pop(record.name, None)
        else:
            self._change(self._panels[record.panel], record)

    def _change(
        self, panel: _Panel, record: Defined | Ran | Changed | Parked | Unparked | Returned | Fired
    ) -> None:
        if isinstance(record, Parked):
            panel.parked[record.suspension] = record
            calls = {call.call for call in record.calls}
            kept = [answer for answer in panel.returned.get(record.suspension, ()) if answer.call in calls]
            panel.returned[record.suspension] = kept
            return
        if isinstance(record, Fired):
            panel.fired[record.tool] = record.due_ms
            if record.due_ms == NEVER:
                del panel.fired[record.tool]
            return
        if isinstance(record, Unparked):
            panel.parked.pop(record.suspension, None)
            panel.returned.pop(record.suspension, None)
            return
        if isinstance(record, Returned):
            panel.returned.setdefault(record.suspension, []).append(record)
            return
        if isinstance(record, Defined):
            panel.definition = record.definition
            panel.digests = record.digests
            return
        if isinstance(record, Ran):
            if record.key is not None:
                self._answer(panel, record.key, record)
            if not record.seq:
                return
        panel.commits.append(record)
        if len(panel.commits) > 2 * self._history_commits:
            spare = len(panel.commits) - self._history_commits
            _apply(panel.base, [panel.commits.popleft() for _ in range(spare)])
            panel.floor += spare

    def _answer(self, panel: _Panel, key: Key, record: Ran) -> None:
        name = key.subject, key.key
        panel.answers.pop(name, None)
        panel.answers[name] = record
        if len(panel.answers) > self._history_commits:
            del panel.answers[next(iter(panel.answers))]
