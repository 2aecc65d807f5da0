"""Records that are not what they should be, behind checksums that are right: one kind of error."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from panels_gateway.journal import chunks, records
from panels_gateway.journal.frames import Header, encode_frame, encode_header
from panels_gateway.journal.journal import CorruptError
from panels_gateway.journal.records import Batch, Changed, Deleted
from panels_gateway.journal.segments import decode_segment

#: What msgspec does not raise its own errors for: text that is not UTF-8, and deep nesting that is skipped.
NO_TEXT = b"\x93\x01\x01\x91\x96\x02\x01\xa1\xff\xa1e\x01\xc4\x00"
TOO_DEEP = b"\x94\x01\x01\x90" + b"\x91" * 5_000 + b"\xc0"


@pytest.mark.parametrize("payload", [NO_TEXT, TOO_DEEP, b"", b"\xc1", b"\x93\x01\x01"])
def test_payload_that_is_no_batch_is_one_kind_of_error(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        records.decode(payload)
    segment = encode_header(Header(b"s" * 16, 1, 1, 7)) + encode_frame(payload, 1, synced=0, salt=7)
    with pytest.raises(CorruptError, match="expected a batch"):
        list(decode_segment(memoryview(segment), Path("segment"), 1))


def test_batch_comes_back_as_it_was() -> None:
    batch = Batch(1, 2, [Deleted(3, 4)])
    assert records.decode(records.encode(batch)) == batch


def test_undo_whose_key_is_no_text_is_corrupt() -> None:
    undo = b"\x81\xa1\xff\xc0"
    with pytest.raises(CorruptError, match="versions 1 to 2"):
        chunks.checked_row(1, 1, 2, chunks.chunk_crc(b"", undo), undo, b"")


def test_commits_one_of_which_has_no_mutations_at_all_are_corrupt() -> None:
    commits = [Changed(1, 1, 2, "replace", "", b""), Changed(1, 2, 2, "replace", "", b"[]")]
    with pytest.raises(CorruptError, match="mutations in commits 1"):
        chunks.last_changes(commits[:1])
    with pytest.raises(CorruptError, match="mutations in commits 1"):
        chunks.last_changes([commits[1], commits[0]][::-1])
