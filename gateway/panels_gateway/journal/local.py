"""The journal of a local data directory: a log, and the store that it is folded into.

Threads and processes:

- the loop's thread appends (mode ``process``) or hands over (mode ``power``) and never waits for the disk;
- the log's thread writes and syncs (mode ``power`` only, log.py);
- one thread reads the store, one call at a time;
- a process of its own folds segments that have ended into the store (fold_process.py).

A segment ends when it is full, or ``rotate_s`` after its first batch; it is told to the folding process, and
deleted when that says that it is folded. Reads see what is folded; the kernel has what is newer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from panels_gateway.journal import schema, transfer
from panels_gateway.journal.directory import DataDirectory, Durability, Opening
from panels_gateway.journal.fold import Retention
from panels_gateway.journal.fold_process import FoldProcess, RestartPolicy
from panels_gateway.journal.frames import FrameEncoder
from panels_gateway.journal.journal import (
    CorruptError,
    Disk,
    FoldingState,
    History,
    JournalError,
    LateError,
    StoredPanel,
    Summary,
    Waiting,
)
from panels_gateway.journal.log import Log, LogCounters, PowerLog, ProcessLog
from panels_gateway.journal.pressure import MAX_BACKLOG_BYTES, Pressure
from panels_gateway.journal.records import Batch, Changed, Ran, Revoked, Source
from panels_gateway.journal.segments import SEGMENT_BYTES, Segment, SegmentWriter
from panels_gateway.journal.store import Folded, Store
from panels_gateway.observe.histogram import Histogram

_logger = logging.getLogger("panels.gateway.journal")

_T = TypeVar("_T")


def folding_command(path: Path, retention: Retention) -> list[str]:
    """The command line of the folding process of the data directory ``path``."""
    bounds = [
        f"--{field.name.replace('_', '-')}={getattr(retention, field.name)}" for field in fields(retention)
    ]
    return [sys.executable, "-m", "panels_gateway.journal.folder", str(path), *bounds]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """How a local journal works.

    - ``segment_bytes``, ``rotate_s``: a segment ends when it is that large, or that long after its first
      batch;
    - ``retention``: how much is kept of each panel;
    - ``backlog_bytes``: the bound that the kernel keeps the backlog below, for warnings;
    - ``command``: the folding process, the one of ``folding_command`` if empty;
    - ``restart``: how it is started again; ``stop_s``: how long it may take to end;
    - ``patience_s``: how long a read waits for what it needs to be folded.
    """

    segment_bytes: int = SEGMENT_BYTES
    rotate_s: float = 2.0
    retention: Retention = field(default_factory=Retention)
    backlog_bytes: int = MAX_BACKLOG_BYTES
    command: Sequence[str] = ()
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    stop_s: float = 10.0
    patience_s: float = 10.0


class LocalJournal:
    """An open data directory: see ``Journal`` for what it promises, and ``open_local`` for how to get one."""

    def __init__(
        self,
        directory: DataDirectory,
        opening: Opening,
        store: Store,
        reader: ThreadPoolExecutor,
        *,
        folded: Folded,
        durability: Durability,
        options: LocalOptions,
    ) -> None:
        self.on_durable: Callable[[int], None] = lambda position: None
        self.on_folded: Callable[[int], None] = lambda position: None
        self.on_failed: Callable[[JournalError], None] = lambda error: None
        self.notices = opening.notices
        self.durability = durability
        self._directory = directory
        self._store = store
        self._reader = reader
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._fence = opening.fence
        self._incarnation = opening.incarnation
        self._position = opening.last
        self._folded = folded.position
        self._last_panel = folded.last_panel
        self._panels = folded.panels
        self._sealed: deque[Segment] = deque(opening.unfolded)
        self._sealed_bytes = sum(segment.size for segment in opening.unfolded)
        self._pressure = Pressure(options.backlog_bytes)
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._deletions: set[asyncio.Future[None]] = set()
        self._joined: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: JournalError | None = None
        self._closing: asyncio.Task[None] | None = None
        encoder = FrameEncoder(opening.last, fence=opening.fence, salt=secrets.randbits(32))
        writer = SegmentWriter(
            directory.log,
            store=opening.store,
            encoder=encoder,
            sync=durability == "power",
            segment_bytes=options.segment_bytes,
            check=directory.check_fence,
        )
        self._log: Log = (
            ProcessLog(writer, durable=opening.last, on_sealed=self._on_sealed)
            if durability == "process"
            else PowerLog(
                writer,
                encoder,
                on_durable=self._on_log_durable,
                on_sealed=self._on_sealed,
                on_failed=self._fail,
            )
        )
        self._folding = FoldProcess(
            options.command or folding_command(directory.path, options.retention),
            on_folded=self._on_folded,
            on_failed=self._fail,
            policy=options.restart,
        )

    @property
    def fence(self) -> int:
        return self._fence

    @property
    def incarnation(self) -> int:
        return self._incarnation

    @property
    def position(self) -> int:
        return self._position

    @property
    def durable(self) -> int:
        return self._log.durable

    @property
    def folded(self) -> int:
        return self._folded

    @property
    def last_panel(self) -> int:
        """The highest panel number when the journal was opened; the next panel gets a higher one."""
        return self._last_panel

    @property
    def panels(self) -> int:
        return self._panels

    @property
    def backlog_bytes(self) -> int:
        return self._sealed_bytes + self._log.unsealed_bytes

    @property
    def counters(self) -> LogCounters:
        """What the log has done. ``batches / syncs`` is how many turns share an fdatasync."""
        return self._log.counters

    @property
    def folding(self) -> FoldingState:
        folding = self._folding
        return FoldingState(folding.pid is not None, folding.deaths, folding.silent_s)

    def disk(self) -> Disk:
        path = self._directory.path / schema.DATABASE
        try:
            left = os.statvfs(self._directory.path)
            store_bytes = path.stat().st_size
        except OSError:
            return Disk(0, self.backlog_bytes, 0)
        return Disk(store_bytes, self.backlog_bytes, left.f_bavail * left.f_frsize)

    @property
    def sync_seconds(self) -> Histogram:
        return self._log.counters.sync_seconds

    @property
    def syncs(self) -> int:
        return self._log.counters.syncs

    @property
    def folding_starts(self) -> int:
        """How often a folding process has been started; more than once means that one died."""
        return self._folding.starts

    def append(self, batch: Batch) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing is not None:
            raise JournalError("the journal has been closed")
        self._log.append(batch)
        self._position = batch.position
        if self._timer is None:
            self._timer = self._loop.call_later(self._options.rotate_s, self._rotate)

    async def ping(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing is not None:
            raise JournalError("the journal has been closed")
        pinged: asyncio.Future[None] = self._loop.create_future()
        self._log.ping(lambda: None if pinged.done() else pinged.set_result(None))
        await pinged

    async def load(self, panel_id: str) -> StoredPanel | None:
        return await self._read(lambda: self._store.load(panel_id))

    async def summaries(
        self, *, after: str, limit: int, ranges: Sequence[tuple[str, str]] | None = None
    ) -> list[Summary]:
        return await self._read(lambda: self._store.summaries(after=after, limit=limit, ranges=ranges))

    async def history(
        self, panel: int, *, since: int, limit_bytes: int, limit: int | None = None
    ) -> History | None:
        return await self._read(
            lambda: self._store.history(panel, since=since, limit_bytes=limit_bytes, limit=limit)
        )

    async def key_history(self, panel: int, key: str, *, limit: int) -> list[Ran | Changed]:
        await self._fold_for_reading()
        return await self._read(lambda: self._store.key_history(panel, key, limit=limit))

    async def state_at(self, panel: int, seq: int) -> dict[str, bytes] | None:
        await self._fold_for_reading()
        return await self._read(lambda: self._store.state_at(panel, seq))

    async def answer(self, panel: int, subject: str, key: str) -> Ran | None:
        return await self._read(lambda: self._store.answer(panel, subject, key))

    async def source(self, digest: bytes) -> Source | None:
        return await self._read(lambda: self._store.source(digest))

    async def backup(self, target: Path, progress: Callable[[int, int], None]) -> None:
        await self._fold()

        def say(done: int, total: int) -> None:
            self._loop.call_soon_threadsafe(progress, done, total)

        # everything asked for is folded, so the log need not be read, and segments may be deleted meanwhile
        await asyncio.to_thread(
            transfer.backup,
            self._directory.path / schema.DATABASE,
            target,
            say,
            tail=lambda position: (),
            now_ms=time.time_ns() // 1_000_000,
            retention=self._options.retention,
        )

    async def waiting(self, panel: int, suspension: int) -> Waiting | None:
        return await self._read(lambda: self._store.waiting(panel, suspension))

    async def revocations(self) -> list[Revoked]:
        return await self._read(self._store.revocations)

    async def active_panels(self) -> list[str]:
        return await self._read(self._store.active_panels)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def start(self, on_progress: Callable[[int, int], None]) -> None:
        """Starts folding and waits until what was there is folded; ``on_progress`` gets how far it is,
        and how far it has to go, as positions. Raises ``JournalError`` if it cannot be done. Called
        once, by ``open_local``.
        """
        told, self.on_folded = self.on_folded, lambda position: on_progress(position, self._position)
        self._folding.start()
        try:
            if self._sealed:
                on_progress(self._folded, self._position)
                self._folding.sealed(self._position)
                await self._until_folded(self._position)
                folded = await self._read(self._store.folded)
                self._last_panel, self._panels = folded.last_panel, folded.panels
        finally:
            self.on_folded = told

    async def _read(self, read: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._reader, read)

    async def _fold_for_reading(self) -> None:
        try:
            await asyncio.wait_for(self._join_fold(), self._options.patience_s)
        except TimeoutError:
            raise LateError(
                f"{self.backlog_bytes:,} bytes of the log wait to be folded, and were waited for in vain"
            ) from None

    async def _join_fold(self) -> None:
        """Returns when everything appended so far is folded. Those who read share a fold: while one is under
        way none is begun, so that however many read, segments do not end more often than folding takes.
        """
        position = self._position
        while self._folded < position:
            if self._joined is None:
                self._joined = self._loop.create_task(self._fold())
                self._joined.add_done_callback(self._fold_ended)
            await asyncio.shield(self._joined)

    def _fold_ended(self, task: asyncio.Task[None]) -> None:
        self._joined = None
        if not task.cancelled():
            task.exception()  # those who wait have it; there may be nobody left

    async def _fold(self) -> None:
        """Returns when everything appended so far is folded."""
        position = self._position
        if self._folded < position:
            self._rotate()
            await self._until_folded(position)

    async def _until_folded(self, position: int) -> None:
        """Returns when everything up to ``position``, which must have been sealed, is folded.

        Raises ``JournalError``.
        """
        if self._failure is not None:
            raise self._failure
        if self._folded < position:
            future: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((position, future))
            await future

    def _rotate(self) -> None:
        self._stop_timer()
        if self._failure is None:
            self._log.rotate()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_log_durable(self, position: int) -> None:
        self.on_durable(position)

    def _on_sealed(self, segment: Segment) -> None:
        self._stop_timer()
        if segment.last < self._position and self._closing is None:
            self._timer = self._loop.call_later(self._options.rotate_s, self._rotate)
        self._sealed.append(segment)
        self._sealed_bytes += segment.size
        self._folding.sealed(segment.last)
        self._watch()

    def _on_folded(self, position: int) -> None:
        if position <= self._folded:
            return
        self._folded = position
        done = []
        while self._sealed and self._sealed[0].last <= position:
            segment = self._sealed.popleft()
            self._sealed_bytes -= segment.size
            done.append(segment.path)
        if done:
            self._delete(done)
            self._watch()
        self.on_folded(position)
        ready = [future for wanted, future in self._waiters if wanted <= position]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] > position]
        for future in ready:
            if not future.done():
                future.set_result(None)

    def _watch(self) -> None:
        told = self._pressure.look(self.backlog_bytes)
        if told is not None:
            _logger.log(*told)

    def _delete(self, paths: list[Path]) -> None:
        """Deletes in another thread: giving back a few megabytes can take the file system milliseconds."""

        def delete() -> None:
            for path in paths:
                path.unlink()

        def deleted(future: asyncio.Future[None]) -> None:
            self._deletions.discard(future)
            error = future.exception()
            if isinstance(error, OSError):
                self._fail(JournalError(f"{error.filename}: the segment cannot be deleted: {error.strerror}"))

        future = self._loop.run_in_executor(None, delete)
        self._deletions.add(future)
        future.add_done_callback(deleted)

    def _fail(self, error: JournalError) -> None:
        """The first error of a thread or process that works for the loop. Later ones follow from it."""
        if self._failure is None:
            self._failure = error
            self._stop_timer()
            for _, future in self._waiters:
                if not future.done():
                    future.set_exception(error)
            self._waiters.clear()
            self.on_failed(error)

    async def _close(self) -> None:
        """Everything is given back, whatever fails; the first failure is raised at the end."""
        self._stop_timer()
        if self._joined is not None:
            self._joined.cancel()
        failure = self._failure
        try:
            await self._log.close()
        except JournalError as error:
            failure = failure or error
        await self._folding.stop(grace_s=self._options.stop_s)
        if self._deletions:
            await asyncio.wait(self._deletions)
        # the reader closes first: the last connection to close tidies up the file, and must be a writer's
        await self._read(self._store.close)
        self._reader.shutdown(wait=False)
        try:
            if failure is None:
                await asyncio.to_thread(self._directory.closed, self._position)
        except JournalError as error:
            failure = error
        finally:
            self._directory.release()
        if failure is not None:
            raise failure


async def open_local(
    path: Path,
    *,
    durability: Durability,
    options: LocalOptions = LocalOptions(),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LocalJournal:
    """Opens the data directory ``path`` for writing, creating it where there is none, and
    folds what was left unfolded.

    The caller sets the callbacks before its next await, logs ``notices``, and appends from ``position`` + 1
    under ``fence``. Raises ``JournalError``; a directory that is refused is left as it was.
    """
    directory = await asyncio.to_thread(DataDirectory, path)
    reader = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
    loop = asyncio.get_running_loop()
    journal: LocalJournal | None = None
    try:
        database = path / schema.DATABASE

        def open_store() -> tuple[Store, Folded]:
            if directory.meta is not None and not database.exists():
                raise CorruptError(f"{database}: expected the store of folded batches, got none")
            schema.prepare(database)
            store = Store(database)
            return store, store.folded()

        store, folded = await loop.run_in_executor(reader, open_store)
        try:
            opening = await asyncio.to_thread(
                directory.begin,
                durability,
                store=bytes.fromhex(folded.store_id),
                folded=folded.position,
            )
        except BaseException:
            store.close()
            raise
        journal = LocalJournal(
            directory, opening, store, reader, folded=folded, durability=durability, options=options
        )
        await journal.start(on_progress)
    except BaseException:
        if journal is not None:
            await _give_up(journal)
        else:
            reader.shutdown(wait=False)
            directory.release()
        raise
    return journal


async def _give_up(journal: LocalJournal) -> None:
    try:
        await journal.close()
    except JournalError as error:
        _logger.debug("closing a journal that could not be opened: %s", error)
