"""Suspended handlers as data.

    ┌──────┬─────────┬──────┬───────┬───────┬─────────┬──────────┬───────┬───────────────────────────┐
    │ PNLS │ version │ kind │ zeros │ build │ handler │ baseline │ check │ body, compressed by zlib  │
    │   4  │    1    │   1  │   2   │  32   │   32    │    32    │  16   │                           │
    └──────┴─────────┴──────┴───────┴───────┴─────────┴──────────┴───────┴───────────────────────────┘
    body: calls made, 64 KiB pages of memory, numbers of open calls, globals and runs;
          the open calls; the globals as 64 bits each; (page, count) of each run; the runs' pages

The pages are those that differ from the memory that an instance of the handler begins with, combined with it
by exclusive or. ``build``, ``handler`` and ``baseline`` are digests of what an image fits to and nothing
else. ``check`` finds accidents. It does not authenticate: whoever keeps images does that, and everything is
checked here all the same, so that a forged image can only do what its handler could do to itself, in its own
memory.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

from panels_shared.limits import KIB, MAX_IMAGE_BYTES, MAX_OPEN_CALLS
from panels_worker.guest.pages import PAGE_BYTES, Baseline, Runs, exclusive_or

_MAGIC: Final = b"PNLS"
VERSION: Final = 1
#: Measured (benchmarks/suspension.py): level 6 saves a tenth of the bytes and costs three times as much.
LEVEL: Final = 1
WASM_PAGE_BYTES: Final = 64 * KIB
#: Globals that are carried: a security limit.
MAX_GLOBALS: Final = 32

_HEADER: Final = struct.Struct("<4sBBH32s32s32s16s")
_BODY: Final = struct.Struct("<QIHHI")
_PAGES_OF_64K: Final = WASM_PAGE_BYTES // PAGE_BYTES


class Kind(IntEnum):
    """What was suspended."""

    SCRIPT = 1
    MODULE = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What an image fits to: the engine that it ran in (``build``), and its handler. Digests of 32 bytes."""

    kind: Kind
    build: bytes
    handler: bytes


@dataclass(frozen=True, slots=True)
class Image:
    """A suspended handler: what ``Calls`` remembers, the size of the memory, its globals, its pages."""

    calls_made: int
    open_calls: tuple[int, ...]
    memory_bytes: int
    globals: tuple[int, ...]
    runs: Runs


class ImageError(Exception):
    """Bytes that are no image, or not one of this handler. The text is a sentence for the client."""


class OversizeError(Exception):
    """A handler that would take more than ``MAX_IMAGE_BYTES``."""

    def __init__(self) -> None:
        super().__init__(f"expected a suspended handler of at most {MAX_IMAGE_BYTES} bytes, got a larger one")


def pack(image: Image, identity: Identity, baseline: Baseline) -> bytes:
    """The bytes of an image. Raises ``OversizeError`` as soon as there are too many."""
    counts = len(image.open_calls), len(image.globals), len(image.runs)
    parts = [
        _BODY.pack(image.calls_made, image.memory_bytes // WASM_PAGE_BYTES, *counts),
        struct.pack(f"<{counts[0] + counts[1]}Q", *image.open_calls, *image.globals),
    ]
    parts += [struct.pack("<2I", at // PAGE_BYTES, len(data) // PAGE_BYTES) for at, data in image.runs]
    stream = zlib.compressobj(LEVEL)
    packed = [stream.compress(b"".join(parts))]
    size = _HEADER.size + len(packed[0])
    for at, data in image.runs:
        packed.append(stream.compress(exclusive_or(data, at, baseline)))
        size += len(packed[-1])
        if size > MAX_IMAGE_BYTES:
            raise OversizeError
    body = b"".join((*packed, stream.flush()))
    if _HEADER.size + len(body) > MAX_IMAGE_BYTES:
        raise OversizeError
    return _header(identity, baseline, body) + body


def build_of(data: bytes) -> bytes:
    """The build that an image says it was made in; anything for bytes that are no image."""
    return data[8:40]


def unpack(data: bytes, identity: Identity, baseline: Baseline, *, memory_bytes: int) -> Image:
    """The image of this handler in ``data``, whose memory is at most ``memory_bytes``. Raises
    ``ImageError``.
    """
    if not _HEADER.size < len(data) <= MAX_IMAGE_BYTES:
        raise ImageError("expected the image of a suspended handler, got something else")
    magic, version, kind, zeros, build, handler, begins, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC or zeros or version != VERSION:
        raise ImageError("expected the image of a suspended handler in the format of this worker")
    if kind != identity.kind or build != identity.build:
        raise ImageError(
            "the handler was suspended in another build of the engine, and cannot go on in this one"
        )
    if handler != identity.handler or begins != baseline.digest():
        raise ImageError("the image is that of another handler, or of another version of this one")
    body = data[_HEADER.size :]
    if data[: _HEADER.size] != _header(identity, baseline, body):
        raise ImageError("the image of the suspended handler is damaged")
    return _unpack_body(_decompress(body, memory_bytes), baseline)


def _header(identity: Identity, baseline: Baseline, body: bytes) -> bytes:
    fields = identity.build, identity.handler, baseline.digest()
    head = _HEADER.pack(_MAGIC, VERSION, identity.kind, 0, *fields, bytes(16))
    check = hashlib.blake2b(head, digest_size=16)
    check.update(body)
    return head[:-16] + check.digest()


def _decompress(body: bytes, memory_bytes: int) -> bytes:
    """The body, never more than a memory of that size and the tables of its pages take."""
    most = (
        memory_bytes + 8 * (memory_bytes // PAGE_BYTES + 1) + 8 * (MAX_OPEN_CALLS + MAX_GLOBALS) + _BODY.size
    )
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(body, most + 1)
    except zlib.error:
        raise ImageError("the image of the suspended handler is damaged") from None
    if len(text) > most:
        raise ImageError(f"expected an image of at most {memory_bytes} bytes of memory")
    if not stream.eof or stream.unused_data:
        raise ImageError("the image of the suspended handler is damaged")
    return text


def _unpack_body(body: bytes, baseline: Baseline) -> Image:
    try:
        made, size, open_count, global_count, run_count = _BODY.unpack_from(body)
        at = _BODY.size
        numbers = struct.unpack_from(f"<{open_count + global_count}Q", body, at)
        at += 8 * len(numbers)
        table = struct.unpack_from(f"<{2 * run_count}I", body, at)
        at += 4 * len(table)
    except struct.error:
        raise ImageError("the image of the suspended handler is cut off") from None
    open_calls, kept = numbers[:open_count], numbers[open_count:]
    if open_count > MAX_OPEN_CALLS or global_count > MAX_GLOBALS:
        raise ImageError("the image of the suspended handler has more calls or globals than there may be")
    bounds = (0, *open_calls, made + 1)
    if any(before >= after for before, after in pairwise(bounds)):
        raise ImageError("the image of the suspended handler has open calls that it did not make")
    starts, counts = table[::2], table[1::2]
    _check_runs(starts, counts, size * _PAGES_OF_64K)
    if size * WASM_PAGE_BYTES < baseline.size or len(body) != at + sum(counts) * PAGE_BYTES:
        raise ImageError("the image of the suspended handler has another size than its pages")
    runs = []
    for start, count in zip(starts, counts, strict=True):
        end = at + count * PAGE_BYTES
        runs.append((start * PAGE_BYTES, exclusive_or(body[at:end], start * PAGE_BYTES, baseline)))
        at = end
    return Image(made, open_calls, size * WASM_PAGE_BYTES, kept, tuple(runs))


def _check_runs(starts: tuple[int, ...], counts: tuple[int, ...], pages: int) -> None:
    """Raises unless the runs are ascending, do not touch each other and lie in a memory of so many pages."""
    end = -1
    for start, count in zip(starts, counts, strict=True):
        if start <= end or not count:
            raise ImageError("the image of the suspended handler has pages that overlap")
        end = start + count
    if end > pages:
        raise ImageError("the image of the suspended handler has pages outside its memory")
