"""The log: a folder of append-only segment files, each named after the position of its first batch.

``examine`` reads all of it and says what is there; what of a broken end is forgiven depends on what
happened since the log was last written, which the caller tells by a ``Tail``. ``cut`` removes what
was forgiven. ``SegmentWriter`` appends, ``read_segment`` and ``read_log`` read batches back. What the
bytes mean is in frames.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Final

from panels_gateway.journal.frames import (
    HEADER_BYTES,
    Break,
    Broken,
    Frame,
    FrameEncoder,
    Header,
    decode_batch,
    decode_header,
    encode_header,
    heads_behind,
    scan,
)
from panels_gateway.journal.journal import CorruptError, FencedError, JournalError
from panels_gateway.journal.records import Batch
from panels_gateway.journal.syncing import sync_folder

#: Bytes after which the next batch opens another segment.
SEGMENT_BYTES: Final = 8 * 1_048_576
SUFFIX: Final = ".seg"


class Tail(Enum):
    """What may be wrong with the end of a log, because of what happened since it was last written.

    - ``WHOLE``: it was closed; nothing may be wrong;
    - ``TORN``: the writer died and the machine did not: the last frame may be cut short, and
      nothing else may be wrong;
    - ``UNSYNCED``: the machine went down under a writer that synced: everything may be wrong that no
      later frame calls synced;
    - ``LOST``: the machine went down under a writer that did not sync: everything behind
      the first break is gone.
    """

    WHOLE = "whole"
    TORN = "torn"
    UNSYNCED = "unsynced"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file of ``size`` bytes, which holds the batches ``first`` to ``last``, at least one."""

    path: Path
    first: int
    last: int
    size: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What must be cut before the log can be used.

    ``path`` is cut to ``size`` bytes, or removed if that is None; the files ``behind`` are removed.

    ``reason`` is a sentence for the operator. ``lost`` is False if nothing that is cut
    can have been acknowledged.
    """

    path: Path
    size: int | None
    behind: tuple[Path, ...]
    reason: str
    lost: bool


@dataclass(frozen=True, slots=True)
class Examined:
    """A log that can be used once ``cut`` has been made.

    ``old`` are files that hold nothing which is not folded.
    """

    segments: list[Segment] = field(default_factory=list[Segment])
    old: list[Path] = field(default_factory=list[Path])
    cut: Cut | None = None

    def last(self, folded: int) -> int:
        """The last position there is, in the log or in what it was folded into."""
        return max([folded, *(segment.last for segment in self.segments)])


def segment_path(folder: Path, first: int) -> Path:
    """The path of the segment that begins with position ``first``."""
    return folder / f"{first:016d}{SUFFIX}"


def segment_paths(folder: Path) -> list[tuple[int, Path]]:
    """First position and path of each segment, in order.

    Raises ``CorruptError`` for a file whose name is not that of a segment, and ``JournalError``
    for an unreadable folder.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"{folder}: the log cannot be read: {error.strerror}") from error
    paths = []
    for name in names:
        stem = name.removesuffix(SUFFIX)
        if len(stem) != 16 or not (stem.isascii() and stem.isdigit()) or name == stem:
            raise CorruptError(f"{folder / name}: expected only segments of the log here, got this file")
        paths.append((int(stem), folder / name))
    return paths


def _read(path: Path) -> memoryview:
    try:
        return memoryview(path.read_bytes())
    except OSError as error:
        raise JournalError(f"{path}: the segment cannot be read: {error.strerror}") from error


def _header(data: memoryview, path: Path, first: int, store: bytes | None) -> Header | Broken:
    try:
        header = decode_header(data, first)
    except CorruptError as error:
        raise CorruptError(f"{path}: offset 0: {error}") from None
    if isinstance(header, Header) and store is not None and header.store != store:
        raise CorruptError(
            f"{path}: offset 0: expected a segment of store {store.hex()}, got {header.store.hex()}"
        )
    return header


def read_segment(path: Path, *, store: bytes | None = None, torn: bool = False) -> Iterator[Batch]:
    """The batches of one segment in order; ``store`` is the id that it must have, None for any.

    With ``torn`` the file may end inside a frame, or inside its header, and the batches before that are all
    there are. Raises ``CorruptError`` naming file and offset, after the batches in front of it, and
    ``JournalError`` if the file cannot be read.
    """
    stem = path.name.removesuffix(SUFFIX)
    if not (stem.isascii() and stem.isdigit()):
        raise CorruptError(f"{path}: expected a segment named after its first position")
    yield from decode_segment(_read(path), path, int(stem), store=store, torn=torn)


def decode_segment(
    data: memoryview, path: Path, first: int, *, store: bytes | None = None, torn: bool = False
) -> Iterator[Batch]:
    """The batches in ``data``, what stands in the segment ``path`` whose first position is ``first``. See
    ``read_segment``.
    """
    header = _header(data, path, first, store)
    for found in [header] if isinstance(header, Broken) else scan(data, header):
        if isinstance(found, Frame):
            try:
                batch = decode_batch(found)
            except CorruptError as error:
                raise CorruptError(f"{path}: {error}") from None
            yield batch
        elif not (torn and found.kind is Break.TORN):
            raise CorruptError(f"{path}: offset {found.offset}: {found.problem}")


def read_log(
    folder: Path, *, store: bytes | None = None, after: int = 0, upto: int | None = None
) -> Iterator[Batch]:
    """The batches behind position ``after``, as far as ``upto``, of a log that has been examined and cut.

    ``upto`` must be the last position of a segment: those behind it are not opened, so that a writer may be
    busy there. Raises ``CorruptError`` where batches are missing or do not pass their checks.
    """
    paths = segment_paths(folder)
    position = after
    for index, (first, path) in enumerate(paths):
        if upto is not None and first > upto:
            break
        if index + 1 < len(paths) and paths[index + 1][0] <= after + 1:
            continue
        if first > position + 1:
            raise CorruptError(f"{path}: expected a segment with position {position + 1}, got {first} next")
        for batch in read_segment(path, store=store):
            if batch.position > position:
                position = batch.position
                yield batch
    if upto is not None and position < upto:
        raise CorruptError(
            f"{folder}: expected batches as far as position {upto}, got {position} as the last"
        )


def examine(folder: Path, *, store: bytes, folded: int, tail: Tail) -> Examined:
    """Reads the whole log behind position ``folded`` and changes nothing.

    Raises ``CorruptError`` for whatever ``tail`` does not forgive.
    """
    paths = segment_paths(folder)
    old = [path for (_, path), (following, _) in pairwise(paths) if following <= folded + 1]
    paths = paths[len(old) :]
    segments: list[Segment] = []
    expected = folded + 1
    for index, (first, path) in enumerate(paths):
        behind = paths[index + 1 :]
        data = _read(path)
        if (first > expected) if not segments else (first != expected):
            missing = Broken(0, expected, Break.DAMAGED, f"expected position {expected} next, got {first}")
            cut = _forgive(data, missing, None, path, behind, tail)
            return Examined(segments, old, cut)
        header = _header(data, path, first, store)
        broken: Broken | None = None
        last, end = first - 1, HEADER_BYTES
        for found in [header] if isinstance(header, Broken) else scan(data, header):
            if isinstance(found, Broken):
                broken = found
            else:
                last, end = found.position, found.end
        if last >= first:
            segments.append(Segment(path, first, last, end))
        if broken is not None:
            cut = _forgive(data, broken, header if isinstance(header, Header) else None, path, behind, tail)
            return Examined(_without(segments, folded, old), old, cut)
        if last < first:
            if behind:
                problem = f"expected batches from position {first} on, got none and a further segment"
                cut = _forgive(
                    data, Broken(len(data), first, Break.DAMAGED, problem), None, path, behind, tail
                )
                return Examined(segments, old, cut)
            # a writer that died between creating a segment and appending to it
            old.append(path)
        expected = last + 1
    return Examined(_without(segments, folded, old), old, None)


def _without(segments: list[Segment], folded: int, old: list[Path]) -> list[Segment]:
    """Moves what is folded entirely from ``segments`` to ``old``."""
    old.extend(segment.path for segment in segments if segment.last <= folded)
    return [segment for segment in segments if segment.last > folded]


def _forgive(
    data: memoryview,
    broken: Broken,
    header: Header | None,
    path: Path,
    behind: list[tuple[int, Path]],
    tail: Tail,
) -> Cut:
    """The cut at ``broken``, if ``tail`` allows one. Raises ``CorruptError`` if not."""
    where = f"{path}: offset {broken.offset}: {broken.problem}"
    if tail is Tail.WHOLE:
        raise CorruptError(f"{where}; the journal had been closed, so nothing may be missing")
    if tail is Tail.TORN and (behind or broken.kind is not Break.TORN):
        raise CorruptError(f"{where}; a write that was interrupted does not leave this behind")
    later = _later(data, broken, header, behind)
    if tail is Tail.UNSYNCED and any(synced >= broken.position for _, synced in later):
        raise CorruptError(
            f"{where}; position {broken.position} had been on the disk, and later frames say so"
        )
    if tail is Tail.UNSYNCED and header is None and len(data) > HEADER_BYTES:
        raise CorruptError(f"{where}; the header had been on the disk before there were frames")
    size = broken.offset if header is not None and broken.offset > HEADER_BYTES else None
    lost = tail is Tail.LOST
    verdict = "it and what is behind it are lost" if lost else "nothing that was acknowledged is lost"
    return Cut(path, size, tuple(name for _, name in behind), f"{where}; cut there, {verdict}", lost)


def _later(
    data: memoryview, broken: Broken, header: Header | None, behind: list[tuple[int, Path]]
) -> Iterator[tuple[int, int]]:
    """(position, synced) of what stands behind a break, in its own segment and in the later ones."""
    if header is not None:
        yield from heads_behind(data, broken, header.salt)
    for first, path in behind:
        later = _read(path)
        known = decode_header(later, first)
        if isinstance(known, Header):
            # a segment is begun only when the one before it is on the disk, under a writer that syncs
            yield first, first - 1
            yield from (
                (frame.position, frame.synced) for frame in scan(later, known) if isinstance(frame, Frame)
            )


def cut(examined: Examined) -> None:
    """Makes the cut that ``examined`` asks for.

    It begins at the end, so that the next start asks for the same cut if this one is interrupted.

    Raises ``JournalError`` if the disk does not allow it.
    """
    work = examined.cut
    try:
        if work is not None:
            for path in reversed(work.behind):
                path.unlink()
            if work.size is None:
                work.path.unlink()
            else:
                fd = os.open(work.path, os.O_WRONLY)
                try:
                    os.ftruncate(fd, work.size)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            sync_folder(work.path.parent)
        for path in examined.old:
            path.unlink()
    except OSError as error:
        raise JournalError(f"{error.filename}: the log cannot be cut: {error.strerror}") from error


class SegmentWriter:
    """Appends to the log of a folder, in one thread at a time.

    A segment is created by the batch that it begins with.

    With ``sync`` a new segment, and one that is left, are put on the disk, which blocks; without it nothing
    here waits for the disk. ``check`` is called before a segment is created and raises ``JournalError`` if
    none may be. After an error nothing is appended any more: what the disk holds is not known then.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: bytes,
        encoder: FrameEncoder,
        sync: bool,
        segment_bytes: int = SEGMENT_BYTES,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self._store = store
        self._encoder = encoder
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._check = check
        self._fd: int | None = None
        self._path = folder
        self._first = 0
        self._last = encoder.position
        self._size = 0
        #: The reason why nothing can be written any more.
        self.failure: JournalError | None = None

    @property
    def open_bytes(self) -> int:
        """Bytes of the segment that is being written, 0 if there is none."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether the segment has reached its size, and ``rotate`` should be called before the next batch."""
        return self._size >= self._segment_bytes

    def append(self, batch: Batch, *, synced: int = 0) -> int:
        """Appends one batch and returns the bytes that it took.

        See ``FrameEncoder.encode`` and ``write`` for errors.
        """
        if self.failure is not None:
            raise self.failure
        data = self._encoder.encode(batch, synced=synced)
        self.write(data, last=batch.position)
        return len(data)

    def write(self, data: bytes, *, last: int) -> None:
        """Appends the frames in ``data``, which follow what is there and end with position
        ``last``, in one system call.

        Raises ``JournalError`` for any error of the disk and for a write that stops
        short, from then on always.
        """
        if self.failure is not None:
            raise self.failure
        try:
            fd = self._fd
            if fd is None:
                fd = self._create()
            written = os.write(fd, data)
        except OSError as error:
            raise self._fail(f"cannot be written: {error.strerror}") from error
        self._size += written
        if written != len(data):
            # writing the rest would say why; it is not tried, because a frame is appended whole or never
            raise self._fail(f"took only {written} of {len(data)} bytes: the disk or a quota is full")
        self._last = last

    def sync(self) -> None:
        """Puts everything on the disk.

        Raises ``JournalError``, from then on always: a second fsync would hide the loss.
        """
        if self.failure is not None:
            raise self.failure
        if self._fd is not None:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                raise self._fail(f"cannot be synced: {error.strerror}") from error

    def rotate(self) -> Segment | None:
        """Ends the segment that is being written and returns it, None if nothing has been
        written since the last time.
        """
        if self._fd is None:
            return None
        if self._sync:
            self.sync()
        try:
            os.close(self._fd)
        except OSError as error:
            raise self._fail(f"cannot be closed: {error.strerror}") from error
        finally:
            self._fd = None
        sealed = Segment(self._path, self._first, self._last, self._size)
        self._size = 0
        return sealed

    def abandon(self) -> None:
        """Closes the file after an error, whatever state it is in. Idempotent."""
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _create(self) -> int:
        self._first = self._last + 1
        self._path = segment_path(self.folder, self._first)
        try:
            self._check()
        except JournalError as error:
            self.failure = error
            raise
        header = encode_header(Header(self._store, self._encoder.fence, self._first, self._encoder.salt))
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError:
            raise self._fail("is there already: another writer has appended", kind=FencedError) from None
        self._fd = fd
        written = os.write(fd, header)
        if written != len(header):
            raise self._fail(f"took only {written} of {len(header)} bytes: the disk or a quota is full")
        self._size = written
        if self._sync:
            os.fdatasync(fd)
            sync_folder(self.folder)
        return fd

    def _fail(self, problem: str, *, kind: type[JournalError] = JournalError) -> JournalError:
        self.failure = kind(f"{self._path}: the log {problem}")
        return self.failure
