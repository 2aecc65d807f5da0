"""The log that is being written, in two modes behind one face.

    ProcessLog    writes in the loop's thread; what is written survives the end of every process
    PowerLog      gives frames to a thread, which writes all that wait and syncs once; the durable survives
                  the loss of power, and later batches go on being appended meanwhile

Both report in the loop what has become durable and which segments have ended, and both stop for
good at the first error.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from panels_gateway.journal.frames import HEADER_BYTES, FrameEncoder
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.records import Batch
from panels_gateway.journal.segments import Segment, SegmentWriter
from panels_gateway.observe.histogram import Histogram

#: How many bytes the writing thread takes at once, so that no segment outgrows its bound by more than this.
GROUP_BYTES: Final = 4 * 1_048_576
#: How long a busy thread waits between a sync and the next, in seconds: what an answer makes its client send
#: next then shares that one. A thread that has nothing to do syncs what comes at once.
GATHER_S: Final = 0.000_15


@dataclass(slots=True)
class LogCounters:
    """What has been done since the start.

    ``batches / syncs`` is how many turns share an fdatasync (mode ``power``), and ``sync_seconds`` how long
    each group took to be written and synced.
    """

    batches: int = 0
    bytes: int = 0
    syncs: int = 0
    sync_seconds: Histogram = field(default_factory=Histogram)


class Log(Protocol):
    """Where batches are appended. All methods are called, and all callbacks come, in the loop's thread."""

    counters: LogCounters

    @property
    def durable(self) -> int:
        """See ``Journal.durable``."""
        ...

    @property
    def unsealed_bytes(self) -> int:
        """Bytes that wait for the disk or lie in the segment that has not ended."""
        ...

    def append(self, batch: Batch) -> None:
        """See ``Journal.append``."""
        ...

    def rotate(self) -> None:
        """Ends the segment, if there is one; ``on_sealed`` tells when it has ended."""
        ...

    def ping(self, pinged: Callable[[], None]) -> None:
        """Has ``pinged`` called once all that was appended is durable and whoever writes has shown that it
        is alive; writes nothing. Raises ``JournalError`` if nothing can be written any more; after a later
        failure ``pinged`` is not called.
        """
        ...

    async def close(self) -> None:
        """Writes what waits, ends the segment, and gives the file back.

        Raises ``JournalError``. Idempotent.
        """
        ...


class ProcessLog:
    """The log of mode ``process``. ``on_sealed`` may be called within ``append``."""

    def __init__(self, writer: SegmentWriter, *, durable: int, on_sealed: Callable[[Segment], None]) -> None:
        self.counters = LogCounters()
        self._writer = writer
        self._durable = durable
        self._on_sealed = on_sealed

    @property
    def durable(self) -> int:
        return self._durable

    @property
    def unsealed_bytes(self) -> int:
        return self._writer.open_bytes

    def append(self, batch: Batch) -> None:
        if self._writer.full:
            self.rotate()
        counters = self.counters
        counters.bytes += self._writer.append(batch)
        counters.batches += 1
        self._durable = batch.position

    def rotate(self) -> None:
        sealed = self._writer.rotate()
        if sealed is not None:
            self._on_sealed(sealed)

    def ping(self, pinged: Callable[[], None]) -> None:
        if self._writer.failure is not None:
            raise self._writer.failure
        pinged()

    async def close(self) -> None:
        if self._writer.failure is not None:
            self._writer.abandon()
            raise self._writer.failure
        self.rotate()


class PowerLog:
    """The log of mode ``power``, with a thread of its own.

    The bytes that wait for the thread have no bound here: the kernel keeps ``Journal.backlog_bytes`` below
    its own by taking no more triggers. ``on_failed`` gets the first error, after which ``append`` raises it.
    """

    def __init__(
        self,
        writer: SegmentWriter,
        encoder: FrameEncoder,
        *,
        on_durable: Callable[[int], None],
        on_sealed: Callable[[Segment], None],
        on_failed: Callable[[JournalError], None],
    ) -> None:
        self.counters = LogCounters()
        self._writer = writer
        self._encoder = encoder
        self._durable = encoder.position
        self._on_durable = on_durable
        self._on_sealed = on_sealed
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._failure: JournalError | None = None
        self._unsealed_bytes = 0
        # what follows is shared with the thread, under _wake
        self._wake = threading.Condition()
        self._waiting: list[tuple[int, bytes]] = []
        self._pings: list[Callable[[], None]] = []
        self._rotate = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def durable(self) -> int:
        return self._durable

    @property
    def unsealed_bytes(self) -> int:
        return self._unsealed_bytes

    def append(self, batch: Batch) -> None:
        if self._failure is not None:
            raise self._failure
        # the loop's idea of what is on the disk may lag behind the thread's: a frame then
        # claims less than it could
        frame = self._encoder.encode(batch, synced=self._durable)
        self._unsealed_bytes += len(frame)
        with self._wake:
            self._waiting.append((batch.position, frame))
            self._wake.notify()

    def rotate(self) -> None:
        with self._wake:
            self._rotate = True
            self._wake.notify()

    def ping(self, pinged: Callable[[], None]) -> None:
        if self._failure is not None:
            raise self._failure
        with self._wake:
            self._pings.append(pinged)
            self._wake.notify()

    async def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        # the thread's last report is still in the loop's queue
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        """The thread's body: takes all that waits, writes it, syncs once, and reports it."""
        try:
            while self._turn():
                pass
        except (JournalError, MemoryError) as error:
            self._writer.abandon()
            failure = (
                error
                if isinstance(error, JournalError)
                else JournalError("the log has no memory to write with")
            )
            self._say(self._failed, failure)

    def _turn(self) -> bool:
        """One group. False when there is nothing left to do. Raises ``JournalError``."""
        with self._wake:
            while not (self._waiting or self._pings or self._rotate or self._closing):
                self._wake.wait()
            taken = self._take()
            pings: list[Callable[[], None]] = []
            if not self._waiting:
                pings, self._pings = self._pings, pings
            rotate = self._rotate and not self._waiting
            if rotate:
                self._rotate = False
            end = self._closing and not self._waiting
        if taken:
            last = taken[-1][0]
            data = taken[0][1] if len(taken) == 1 else b"".join([frame for _, frame in taken])
            began_s = time.monotonic()
            self._writer.write(data, last=last)
            self._writer.sync()
            self._say(self._synced, last, len(taken), len(data), time.monotonic() - began_s)
            if self._waiting:
                # more has come meanwhile, so it is busy: what the answers bring may share the next one
                time.sleep(GATHER_S)
        elif pings:
            self._writer.sync()  # nothing is dirty, but a disk that hangs would hang here
        for pinged in pings:
            self._say(pinged)
        if rotate or end or self._writer.full:
            sealed = self._writer.rotate()
            if sealed is not None:
                self._say(self._sealed, sealed)
        return not end

    def _take(self) -> list[tuple[int, bytes]]:
        """The oldest frames that wait, at least one if there are any, at most about ``GROUP_BYTES``."""
        waiting = self._waiting
        size = 0
        for count, (_, frame) in enumerate(waiting, 1):
            size += len(frame)
            if size >= GROUP_BYTES:
                self._waiting = waiting[count:]
                return waiting[:count]
        self._waiting = []
        return waiting

    def _say(self, callback: Callable[..., None], *values: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *values)
        except RuntimeError:
            # the loop has been closed without the journal: nobody is left to hear it
            with self._wake:
                self._closing = True

    def _synced(self, last: int, batches: int, size: int, took_s: float) -> None:
        counters = self.counters
        counters.batches += batches
        counters.bytes += size
        counters.syncs += 1
        counters.sync_seconds.add(took_s)
        self._durable = last
        self._on_durable(last)

    def _sealed(self, segment: Segment) -> None:
        self._unsealed_bytes -= segment.size - HEADER_BYTES
        self._on_sealed(segment)

    def _failed(self, error: JournalError) -> None:
        self._failure = error
        self._on_failed(error)
