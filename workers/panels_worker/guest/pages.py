"""Linear memory as pages: what a memory is compared with, and what differs.

A page has ``PAGE_BYTES``. What differs is kept as runs of neighbouring pages, (offset, bytes), ascending.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

PAGE_BYTES: Final = 4_096
#: A memory is compared by such pieces first, of which most are equal.
_CHUNK_BYTES: Final = 16 * PAGE_BYTES
#: What is combined at a time: the numbers in between take several times the room of the bytes.
_SLICE_BYTES: Final = 64 * PAGE_BYTES
#: Most of a page that differs is as it was. Such pieces are compared, which costs less than to combine them;
#: measured (docs/decisions/0024-confined-waiting.md), twice or half as many bytes cost more.
_BLOCK_BYTES: Final = 512
_BLOCK_OF_ZEROS: Final = bytes(_BLOCK_BYTES)
_CHUNK_OF_ZEROS: Final = bytes(_CHUNK_BYTES)

Runs = tuple[tuple[int, bytes], ...]


class Baseline:
    """The memory that an instance begins with: ``shared``, with the pages ``runs`` laid over it.

    It has ``size`` bytes; those behind ``shared`` are zero.
    """

    __slots__ = ("_digest", "_own", "_shared", "_touched", "size")

    def __init__(self, size: int, shared: bytes, runs: Iterable[tuple[int, bytes]]) -> None:
        self.size = size
        self._shared = shared
        self._own = {
            start + at: data[at : at + PAGE_BYTES]
            for start, data in runs
            for at in range(0, len(data), PAGE_BYTES)
        }
        self._touched = frozenset(at - at % _CHUNK_BYTES for at in self._own)
        self._digest = b""

    def page(self, at: int) -> bytes:
        """The page at offset ``at``, a multiple of ``PAGE_BYTES``."""
        own = self._own.get(at)
        if own is not None:
            return own
        return self._shared[at : at + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")

    def read(self, at: int, length: int) -> bytes:
        """A range of any place and length."""
        first = at - at % PAGE_BYTES
        pages = b"".join(self.page(offset) for offset in range(first, at + length, PAGE_BYTES))
        return pages[at - first : at - first + length]

    def differs(self, at: int, chunk: bytes) -> bool:
        """Whether ``chunk``, at a multiple of its length, may have a page that differs."""
        if at in self._touched:
            return True
        return chunk != (self._shared[at : at + _CHUNK_BYTES] or _CHUNK_OF_ZEROS)

    def digest(self) -> bytes:
        """SHA-256 of what was laid over ``shared``, and of the size; computed once."""
        if not self._digest:
            digest = hashlib.sha256(self.size.to_bytes(8, "little"))
            for at in sorted(self._own):
                digest.update(at.to_bytes(8, "little"))
                digest.update(self._own[at])
            self._digest = digest.digest()
        return self._digest


def difference(
    read: Callable[[int, int], bytes], spans: Iterable[tuple[int, int]], baseline: Baseline
) -> Runs:
    """The pages that differ from ``baseline`` within ``spans``, which are (start, end) at multiples of a
    page.

    ``read`` copies a range of the memory.
    """
    return tuple(run for start, end in spans for run in _runs(read, start, end, baseline))


def _runs(
    read: Callable[[int, int], bytes], start: int, end: int, baseline: Baseline
) -> Iterator[tuple[int, bytes]]:
    first = -1
    pages: list[bytes] = []
    for at, page in _changed(read, start, end, baseline):
        if pages and at != first + len(pages) * PAGE_BYTES:
            yield first, b"".join(pages)
            pages = []
        if not pages:
            first = at
        pages.append(page)
    if pages:
        yield first, b"".join(pages)


def _changed(
    read: Callable[[int, int], bytes], start: int, end: int, baseline: Baseline
) -> Iterator[tuple[int, bytes]]:
    at = start
    while at < end:
        length = min(_CHUNK_BYTES - at % _CHUNK_BYTES, end - at)
        chunk = read(at, length)
        if length < _CHUNK_BYTES or baseline.differs(at, chunk):
            for offset in range(0, length, PAGE_BYTES):
                page = chunk[offset : offset + PAGE_BYTES]
                if page != baseline.page(at + offset):
                    yield at + offset, page
        at += length


def exclusive_or(data: bytes, at: int, baseline: Baseline) -> bytes:
    """``data``, pages from offset ``at`` on, combined with the baseline's: mostly zeros, which compress well.

    Applied twice it gives ``data`` again.
    """
    return b"".join(
        _mixed(data[start : start + _SLICE_BYTES], at + start, baseline)
        for start in range(0, len(data), _SLICE_BYTES)
    )


def _mixed(data: bytes, at: int, baseline: Baseline) -> bytes:
    other = baseline.read(at, len(data))
    mixed: list[bytes] = []
    for start in range(0, len(data), _BLOCK_BYTES):
        one, two = data[start : start + _BLOCK_BYTES], other[start : start + _BLOCK_BYTES]
        if one == two:
            mixed.append(_BLOCK_OF_ZEROS)
        elif one == _BLOCK_OF_ZEROS:
            mixed.append(two)
        elif two == _BLOCK_OF_ZEROS:
            mixed.append(one)
        else:
            number = int.from_bytes(one, "little") ^ int.from_bytes(two, "little")
            mixed.append(number.to_bytes(_BLOCK_BYTES, "little"))
    return b"".join(mixed)
