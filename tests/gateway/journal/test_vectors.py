"""The test vectors of the log: bytes, and what they decode to or are called."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from panels_gateway.journal import records
from panels_gateway.journal.frames import (
    Broken,
    Frame,
    Header,
    decode_batch,
    decode_header,
    encode_frame,
    encode_header,
    scan,
)
from panels_gateway.journal.journal import CorruptError

FILE = Path(__file__).resolve().parents[2] / "vectors" / "journal" / "segments.json"


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A segment in hexadecimal, and what it holds.

    ``batches`` are the payloads in front of the ``verdict``: whole, torn, damaged, refused.
    ``offset`` is where it applies.
    """

    name: str
    first: int
    segment: str
    batches: list[object]
    synced: list[int]
    verdict: str
    offset: int
    problem: str


VECTORS = msgspec.json.decode(FILE.read_bytes(), type=list[Vector])


def read(vector: Vector) -> Vector:
    """What this program makes of a vector's bytes."""
    data = bytes.fromhex(vector.segment)
    batches: list[object] = []
    synced: list[int] = []
    verdict, offset, problem = "whole", len(data), ""
    try:
        header = decode_header(data, vector.first)
        for found in [header] if isinstance(header, Broken) else scan(memoryview(data), header):
            if isinstance(found, Frame):
                # through JSON, as the file has it: bytes in base64
                batches.append(msgspec.json.decode(msgspec.json.encode(decode_batch(found))))
                synced.append(found.synced)
            else:
                verdict, offset, problem = found.kind.value, found.offset, found.problem
    except CorruptError as error:
        verdict, offset, problem = "refused", 0, str(error)
    return Vector(vector.name, vector.first, vector.segment, batches, synced, verdict, offset, problem)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_vector_decodes_to_what_it_says(vector: Vector) -> None:
    assert read(vector) == vector


def test_vectors_cover_every_verdict_and_every_record() -> None:
    assert {vector.verdict for vector in VECTORS} == {"whole", "torn", "damaged", "refused"}
    tags = {record[0] for vector in VECTORS for batch in vector.batches for record in batch[2]}  # type: ignore[index]
    assert tags == set(range(1, 13))


def test_whole_vectors_are_what_this_program_writes() -> None:
    """A change of the layout shows here, and needs another version."""
    for vector in VECTORS:
        if vector.verdict == "whole":
            data = bytes.fromhex(vector.segment)
            header = decode_header(data, vector.first)
            assert isinstance(header, Header)
            written = encode_header(header)
            for found in scan(memoryview(data), header):
                assert isinstance(found, Frame)
                payload = records.encode(decode_batch(found))
                written += encode_frame(payload, found.position, synced=found.synced, salt=header.salt)
            assert written == data
