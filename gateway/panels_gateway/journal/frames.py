"""The bytes of a segment: its header, its frames, and what is wrong with a broken frame.

Pure: bytes in, values or verdicts out. The layout stands in docs/journal.md, with test vectors
in tests/vectors/journal.

The heads of frames are checksummed by themselves, seeded with a random salt that the segment's header holds.
A head that passes proves three things that recovery depends on: how long the frame is, that the writer put it
there (a client who smuggles the bytes of a frame into its arguments does not know the salt), and, behind a
damaged frame, that more had been written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final
from zlib import crc32

import msgspec

from panels_gateway.journal import records
from panels_gateway.journal.journal import CorruptError, FencedError, JournalError, PositionError
from panels_gateway.journal.records import Batch

MAGIC: Final = b"PANELSEG"
#: The version of headers and frames; that of the payloads is ``records.FORMAT_VERSION``.
SEGMENT_VERSION: Final = 1
#: Bytes of one payload; a security limit. The kernel keeps what one turn may bring below it.
MAX_PAYLOAD_BYTES: Final = 256 * 1_048_576

# magic, version of the layout, version of the records, store id, fence, first position,
# salt, crc of all before
_HEADER: Final = struct.Struct("<8sII16sQQII")
# length of the payload, its crc, position, synced, crc of all before
_HEAD: Final = struct.Struct("<IIQQI")
_CRC: Final = struct.Struct("<I")
_WORD: Final = struct.Struct("<Q")

HEADER_BYTES: Final = _HEADER.size
HEAD_BYTES: Final = _HEAD.size


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a segment.

    ``store`` is 16 bytes that name the journal, ``first`` the position of its first frame.
    """

    store: bytes
    fence: int
    first: int
    salt: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that passed its checks.

    ``synced`` is a position that was known to be on the disk when it was written.
    """

    offset: int
    end: int
    position: int
    synced: int
    payload: memoryview


class Break(Enum):
    """How a frame is broken.

    - ``TORN``: the data ends inside it, as it does when a write stops half way;
    - ``DAMAGED``: it is all there and does not pass its checks.
    """

    TORN = "torn"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a segment breaks. ``position`` is that of the frame which should have been there."""

    offset: int
    position: int
    kind: Break
    problem: str


def encode_header(header: Header) -> bytes:
    """The ``HEADER_BYTES`` that a segment begins with."""
    data = _HEADER.pack(
        MAGIC,
        SEGMENT_VERSION,
        records.FORMAT_VERSION,
        header.store,
        header.fence,
        header.first,
        header.salt,
        0,
    )
    return data[:-4] + _CRC.pack(crc32(data[:-4]))


def decode_header(data: bytes | memoryview, first: int) -> Header | Broken:
    """The header of the segment named after position ``first``, or how it is broken.

    Raises ``CorruptError`` for what this program must never touch: another program's file, or a newer one.
    """
    known = bytes(data[:HEADER_BYTES])
    if not MAGIC.startswith(known[:8]) and any(known):
        raise CorruptError(f"expected the magic {MAGIC!r}, got {known[:8]!r}: the file is not a journal's")
    if len(known) < HEADER_BYTES:
        problem = f"expected a header of {HEADER_BYTES} bytes, got {len(known)}"
        return Broken(0, first, Break.TORN, problem)
    if not any(known):
        return Broken(0, first, Break.DAMAGED, "expected a header, got zeros")
    _, version, record_version, store, fence, named, salt, crc = _HEADER.unpack(known)
    if version > SEGMENT_VERSION or record_version > records.FORMAT_VERSION:
        raise CorruptError(
            f"expected at most version {SEGMENT_VERSION} with records of version {records.FORMAT_VERSION}, "
            f"got {version} with {record_version}: a newer program wrote the file"
        )
    if crc32(known[:-4]) != crc:
        return Broken(0, first, Break.DAMAGED, "the header does not match its checksum")
    if named != first:
        return Broken(0, first, Break.DAMAGED, f"expected first position {first}, got {named}")
    return Header(store, fence, named, salt)


def encode_frame(payload: bytes, position: int, *, synced: int, salt: int) -> bytes:
    """A frame.

    Raises ``JournalError`` for a payload of more than ``MAX_PAYLOAD_BYTES``; nothing has been written then.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise JournalError(f"expected a batch of at most {MAX_PAYLOAD_BYTES} bytes, got {len(payload)}")
    head = _HEAD.pack(len(payload), crc32(payload), position, synced, 0)[:-4]
    return b"".join((head, _CRC.pack(crc32(head, salt)), payload))


def read_frame(data: memoryview, offset: int, position: int, salt: int) -> Frame | Broken:
    """The frame at ``offset``, which must be that of ``position``, or how it is broken.

    ``offset`` is not at the data's end.
    """
    if len(data) - offset < HEAD_BYTES:
        left = len(data) - offset
        return Broken(
            offset, position, Break.TORN, f"expected {HEAD_BYTES} bytes of a frame's head, got {left}"
        )
    length, payload_crc, named, synced, crc = _HEAD.unpack_from(data, offset)
    start = offset + HEAD_BYTES
    if crc32(data[offset : start - 4], salt) != crc:
        return Broken(offset, position, Break.DAMAGED, "a frame's head does not match its checksum")
    if named != position:
        return Broken(offset, position, Break.DAMAGED, f"expected position {position}, got {named}")
    if length > MAX_PAYLOAD_BYTES:
        problem = f"expected a payload of at most {MAX_PAYLOAD_BYTES} bytes, got {length}"
        return Broken(offset, position, Break.DAMAGED, problem)
    if start + length > len(data):
        problem = f"expected {length} bytes of payload, got {len(data) - start}"
        return Broken(offset, position, Break.TORN, problem)
    payload = data[start : start + length]
    if crc32(payload) != payload_crc:
        return Broken(offset, position, Break.DAMAGED, "a payload does not match its checksum")
    return Frame(offset, start + length, position, synced, payload)


def scan(data: memoryview, header: Header) -> Iterator[Frame | Broken]:
    """The frames of a segment in order. A ``Broken`` comes last, if at all."""
    offset, position = HEADER_BYTES, header.first
    while offset < len(data):
        found = read_frame(data, offset, position, header.salt)
        yield found
        if isinstance(found, Broken):
            return
        offset, position = found.end, position + 1


def heads_behind(data: memoryview, broken: Broken, salt: int) -> Iterator[tuple[int, int]]:
    """(position, synced) of every later frame whose head stands behind ``broken``, at whatever offset.

    It looks at every byte, which takes about half a second per MiB, and runs only if something is broken.
    """
    for start in range(broken.offset + 1, len(data) - HEAD_BYTES + 1):
        (position,) = _WORD.unpack_from(data, start + 8)
        # a frame takes HEAD_BYTES at least, so the bytes between leave room for so many positions and no more
        if broken.position < position <= broken.position + len(data) // HEAD_BYTES:
            _, _, _, synced, crc = _HEAD.unpack_from(data, start)
            if crc32(data[start : start + HEAD_BYTES - 4], salt) == crc:
                yield position, synced


def decode_batch(frame: Frame) -> Batch:
    """The batch in a frame.

    Raises ``CorruptError`` where a payload that passed its checks is no batch of that position.
    """
    try:
        batch = records.decode(bytes(frame.payload))
    except msgspec.MsgspecError as error:
        raise CorruptError(f"offset {frame.offset}: expected a batch, got something else: {error}") from None
    if batch.position != frame.position:
        raise CorruptError(
            f"offset {frame.offset}: expected a batch of position {frame.position}, got {batch.position}"
        )
    return batch


class FrameEncoder:
    """Turns one writer's batches into frames, in order and without a gap.

    ``position`` is that of the last batch, ``fence`` the writer's own. ``salt`` is the one in the
    headers of its segments.
    """

    def __init__(self, position: int, *, fence: int, salt: int) -> None:
        self.position = position
        self.fence = fence
        self.salt = salt

    def encode(self, batch: Batch, *, synced: int) -> bytes:
        """The frame of ``batch``.

        Raises ``PositionError``, ``FencedError``, or ``JournalError`` for one that is too large.
        """
        if batch.fence != self.fence:
            raise FencedError(f"expected a batch under fence {self.fence}, got {batch.fence}")
        if batch.position != self.position + 1:
            raise PositionError(f"expected a batch of position {self.position + 1}, got {batch.position}")
        frame = encode_frame(records.encode(batch), batch.position, synced=synced, salt=self.salt)
        self.position = batch.position
        return frame
