"""The seam between the kernel and whatever keeps its records.

The kernel appends one batch per turn of its loop and lets nobody hear of what is in it before it is durable.
What a store makes of batches (rows, indexes, files) is its own affair; what it must give back is written
here, and tested by ``tests/gateway/journal/contract.py`` for every store.

    JournalError                 nothing more can be appended: the process must end (exit code 74)
    ├── PositionError            the batch is not the next one: somebody else has appended
    ├── FencedError              a writer with a higher fence has opened the journal
    ├── InUseError               another process has the data directory open: stop it, or use another one
    ├── LateError                a read that waits for folding has waited too long; appending goes on
    └── CorruptError             what is stored does not pass its checks, is foreign, or is too new
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from panels_gateway.journal.records import Batch, Changed, Key, Parked, Ran, Returned, Revoked, Source
from panels_gateway.observe.histogram import Histogram
from panels_shared.errors import PanelsError


class JournalError(PanelsError):
    """The journal cannot be used, or not any more. The text is one sentence for the operator."""


class PositionError(JournalError):
    """A batch that is not the next one."""


class FencedError(JournalError):
    """Another writer has taken over."""


class InUseError(JournalError):
    """A data directory that another process has open. Nothing is wrong with it."""


class LateError(JournalError):
    """What was to be read is not folded yet, and was waited for as long as may be."""


class CorruptError(JournalError):
    """Stored data that does not pass its checks. The text names the file and the offset or row."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of panels shows. ``seq`` may lag behind by what is not folded yet."""

    panel: int
    id: str
    epoch: str
    created_ms: int
    seq: int
    definition: bytes
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A suspension as the journal knows it: the last ``Parked``, and the answers that came to its open calls
    since. ``image_bytes`` is the size of its image, which ``parked`` may lack.
    """

    parked: Parked
    returned: tuple[Returned, ...] = ()
    image_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StoredPanel:
    """A panel as the journal knows it after all batches up to ``position``.

    ``sources`` has every handler that the definition names. ``answers`` are the idempotency keys that have
    been answered, the oldest first, each with the time of the answer; the answers themselves are read by
    ``Journal.answer``. ``waiting`` has the suspensions, without their images, which are read by
    ``Journal.waiting``. ``fired`` has the last due time of each tool that runs at times.
    """

    panel: int
    id: str
    epoch: str
    created_ms: int
    definition: bytes
    sources: dict[bytes, Source]
    seq: int
    state: dict[str, bytes]
    position: int
    answers: list[tuple[Key, int]] = field(default_factory=list[tuple[Key, int]])
    waiting: list[Waiting] = field(default_factory=list[Waiting])
    fired: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class History:
    """Commits of one panel, in order and without a gap, the first of which made version ``since + 1``.

    ``complete`` is False where the limit cut it short. None instead of this says that history no longer
    reaches back so far.
    """

    commits: Sequence[Ran | Changed]
    complete: bool


@dataclass(frozen=True, slots=True)
class FoldingState:
    """How folding is: ``up`` while something folds, ``deaths`` counts the processes that ended without being
    asked to. ``silent_s``: for how many seconds one has said nothing although it has something to fold.
    """

    up: bool
    deaths: int
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the store and of the log, and those that are free for this user on their file system."""

    store_bytes: int
    log_bytes: int
    free_bytes: int


class Archive(Protocol):
    """What can be read back of folded batches. One thread calls it, the loop's, and nothing here blocks that
    thread.
    """

    async def history(
        self, panel: int, *, since: int, limit_bytes: int, limit: int | None = None
    ) -> History | None:
        """The commits after version ``since``, at most about ``limit_bytes`` and ``limit`` of them, from
        folded batches.
        """
        ...

    async def key_history(self, panel: int, key: str, *, limit: int) -> list[Ran | Changed]:
        """The commits that set or deleted ``key``, the newest first, at most ``limit``. What was appended
        before is in it.

        Raises ``LateError`` where that is not folded in time.
        """
        ...

    async def state_at(self, panel: int, seq: int) -> dict[str, bytes] | None:
        """The state as it was at version ``seq``, None where history does not reach back so far. What was
        appended before is in it. Raises ``LateError`` where that is not folded in time."""
        ...

    async def answer(self, panel: int, subject: str, key: str) -> Ran | None:
        """The record of the trigger that came under this key."""
        ...

    async def source(self, digest: bytes) -> Source | None:
        """The handler of that digest; None if no panel's definition and no commit that is kept names it."""
        ...

    async def waiting(self, panel: int, suspension: int) -> Waiting | None:
        """A suspension with its image, None if there is none."""
        ...

    async def revocations(self) -> list[Revoked]:
        """The revocations of tokens that are in effect, or ended a while ago, by name."""
        ...

    async def active_panels(self) -> list[str]:
        """The ids of the panels that have suspensions, the one whose first ends the earliest first, and then
        those of the others that have tools that run at times, by id. There are as many as may wait, and as
        there are panels, at the most.
        """
        ...


class Journal(Archive, Protocol):
    """A store of batches. One thread calls it, the loop's; nothing here blocks that thread except ``append``,
    briefly.
    """

    #: Called in the loop with a position: everything up to it is durable / is folded, and can be read back by
    #: the methods. ``on_durable`` is not called for what was durable already when ``append`` returned.
    #: Neither is called within ``append``.
    on_durable: Callable[[int], None]
    on_folded: Callable[[int], None]
    #: Called in the loop, once at most, with an error that nobody waited for: the process must end, as when
    #: ``append`` raises.
    on_failed: Callable[[JournalError], None]

    @property
    def fence(self) -> int:
        """What each batch of this writer must name."""
        ...

    @property
    def incarnation(self) -> int:
        """Another number whenever history may have been lost. Clients are shown it as part of each panel's
        epoch.
        """
        ...

    @property
    def position(self) -> int:
        """The position of the last batch; the next one must have one more."""
        ...

    @property
    def durable(self) -> int:
        """The position up to which every batch survives what the mode promises to survive."""
        ...

    @property
    def folded(self) -> int:
        """The position up to which the methods that read know of batches."""
        ...

    @property
    def last_panel(self) -> int:
        """The highest number that any panel had when the journal was opened; the next panel gets a higher
        one.
        """
        ...

    @property
    def panels(self) -> int:
        """How many panels there were when the journal was opened."""
        ...

    @property
    def backlog_bytes(self) -> int:
        """Bytes that are not durable, or not folded, yet. The kernel takes no more triggers while they pass
        its bound.
        """
        ...

    @property
    def folding(self) -> FoldingState:
        """How folding is at the moment."""
        ...

    def disk(self) -> Disk:
        """What the record takes on the disk, and what is left there. It may cost some microseconds."""
        ...

    @property
    def sync_seconds(self) -> Histogram:
        """How long writing and waiting for the disk took, each time; empty where nobody waits for it."""
        ...

    @property
    def syncs(self) -> int:
        """How often it has waited for the disk to have everything: turns that waited together share one."""
        ...

    def append(self, batch: Batch) -> None:
        """Appends ``batch``. It is durable when ``durable`` has reached its position, which may be at once.

        Raises ``JournalError``, after which the process must end: what is on the disk is no longer known. A
        batch may not be larger than ``frames.MAX_PAYLOAD_BYTES``, a security limit; the kernel bounds what
        one turn brings.
        """
        ...

    async def ping(self) -> None:
        """Returns when whoever writes has shown that it can: everything appended before is durable, and the
        disk has answered where batches wait for it. Writes nothing.

        Raises ``JournalError`` where nothing can be appended any more.
        """
        ...

    async def load(self, panel_id: str) -> StoredPanel | None:
        """The panel of that id, None if there is none. It reads folded batches only: the caller knows what is
        newer.
        """
        ...

    async def summaries(
        self, *, after: str, limit: int, ranges: Sequence[tuple[str, str]] | None = None
    ) -> list[Summary]:
        """The panels whose id is greater than ``after``, at most ``limit``, by id: those in ``ranges``, pairs
        of a first and a last id that are in order and apart, or any for None.
        """
        ...

    async def close(self) -> None:
        """Makes everything durable and gives the store back. Idempotent."""
        ...
