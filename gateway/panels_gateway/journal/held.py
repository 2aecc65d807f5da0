"""The log of a directory that another process may be writing, held so that nothing of it goes away while it
is read.

A segment is deleted once it is folded, and a file that is open outlives its name. So all segments are opened
first, and whoever looks at the store after that finds each batch in one of the two: a segment that was gone
before it could be opened had been folded. Nothing is written, locked or left behind, whatever becomes of this
process.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.records import Batch
from panels_gateway.journal.segments import decode_segment, segment_paths


@dataclass(frozen=True, slots=True)
class _Held:
    first: int
    path: Path
    descriptor: int


class HeldLog:
    """The segments that were in ``folder`` when this was made, as a context.

    ``store`` is the id that each must have, None for any. With ``torn`` the last one may end inside a frame,
    as it does while it is being written and after its writer died. Holds a descriptor for each segment and
    raises the process's limit for that.
    Raises ``JournalError`` where the folder cannot be read, and ``CorruptError`` for a file in it that is no
    segment.
    """

    def __init__(self, folder: Path, *, store: bytes | None = None, torn: bool) -> None:
        self._folder = folder
        self._store = store
        self._torn = torn
        self._held: list[_Held] = []
        _allow_many_files()
        try:
            for first, path in segment_paths(folder):
                with suppress(FileNotFoundError):  # folded and deleted since the folder was read
                    self._held.append(_Held(first, path, os.open(path, os.O_RDONLY)))
        except OSError as error:
            self.close()
            raise JournalError(f"{error.filename}: the segment cannot be read: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def batches(self, after: int) -> Iterator[Batch]:
        """The batches behind position ``after``, in order.

        At least those that had been appended when the log was held; it may have a few more of the segment
        that was being written. Raises ``CorruptError`` where batches are missing or do not pass their checks.
        """
        position = after
        held = self._held
        for index, segment in enumerate(held):
            last = index + 1 == len(held)
            if not last and held[index + 1].first <= after + 1:
                continue
            batches = decode_segment(
                self._read(segment), segment.path, segment.first, store=self._store, torn=self._torn and last
            )
            for batch in batches:
                if batch.position <= position:
                    continue
                if batch.position != position + 1:
                    raise CorruptError(
                        f"{segment.path}: expected position {position + 1} next, got {batch.position}"
                    )
                position = batch.position
                yield batch

    def close(self) -> None:
        """Lets the segments go. Idempotent."""
        for segment in self._held:
            os.close(segment.descriptor)
        self._held.clear()

    def _read(self, segment: _Held) -> memoryview:
        try:
            with os.fdopen(os.dup(segment.descriptor), "rb") as file:
                file.seek(0)
                return memoryview(file.read())
        except OSError as error:
            raise JournalError(f"{segment.path}: the segment cannot be read: {error.strerror}") from error


def _allow_many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
