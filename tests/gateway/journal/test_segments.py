"""The log's files: what is written is read, and what is broken is called by its name and place."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panels_gateway.journal import frames, segments
from panels_gateway.journal.frames import (
    HEAD_BYTES,
    HEADER_BYTES,
    Frame,
    FrameEncoder,
    Header,
    decode_batch,
    decode_header,
    encode_frame,
    encode_header,
    scan,
)
from panels_gateway.journal.journal import CorruptError, FencedError, JournalError, PositionError
from panels_gateway.journal.records import Batch
from panels_gateway.journal.records import encode as encode_batch
from panels_gateway.journal.segments import (
    SegmentWriter,
    Tail,
    cut,
    examine,
    read_log,
    read_segment,
    segment_path,
    segment_paths,
)
from tests.gateway.journal.batches import batch, run_of, runs

STORE = b"s" * 16
SALT = 0x5EED


def writer_of(
    folder: Path, *, position: int = 0, fence: int = 1, sync: bool = False, segment_bytes: int = 1 << 20
) -> SegmentWriter:
    encoder = FrameEncoder(position, fence=fence, salt=SALT)
    return SegmentWriter(folder, store=STORE, encoder=encoder, sync=sync, segment_bytes=segment_bytes)


def write(
    folder: Path, batches: list[Batch], *, per_segment: int = 1_000, synced: int | None = None
) -> list[int]:
    """Writes ``batches`` and returns the offset at which each of the last segment ends.

    ``synced`` None: the one before.
    """
    writer = writer_of(folder, position=batches[0].position - 1)
    ends: list[int] = []
    for count, item in enumerate(batches):
        if count % per_segment == 0:
            writer.rotate()
            ends = []
        writer.append(item, synced=item.position - 1 if synced is None else synced)
        ends.append(writer.open_bytes)
    writer.rotate()
    return ends


def only_path(folder: Path) -> Path:
    ((_, path),) = segment_paths(folder)
    return path


def flip(path: Path, offset: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def image_of(batches: list[Batch]) -> tuple[bytes, list[int]]:
    """A segment in memory, and where its frames end."""
    data = encode_header(Header(STORE, 1, batches[0].position, SALT))
    ends = []
    for item in batches:
        data += encode_frame(encode_batch(item), item.position, synced=item.position - 1, salt=SALT)
        ends.append(len(data))
    return data, ends


def batches_in(data: bytes, first: int = 1) -> list[Batch]:
    """The batches before the first break."""
    header = decode_header(data, first)
    if not isinstance(header, Header):
        return []
    return [decode_batch(found) for found in scan(memoryview(data), header) if isinstance(found, Frame)]


# -- what is written is read


@given(runs())
def test_segment_gives_back_what_was_appended(batches: list[Batch]) -> None:
    with TemporaryDirectory() as name:
        write(Path(name), batches, per_segment=2)
        assert list(read_log(Path(name), store=STORE)) == batches


def test_log_is_read_from_any_position_to_the_end_of_any_segment(tmp_path: Path) -> None:
    batches = run_of(9)
    write(tmp_path, batches, per_segment=3)
    for after in range(10):
        assert list(read_log(tmp_path, after=after)) == batches[after:]
    # what lies behind the last one asked for is not even looked at
    segment_path(tmp_path, 7).write_bytes(b"being written")
    assert list(read_log(tmp_path, after=2, upto=6)) == batches[2:6]


def test_log_that_is_too_short_for_what_was_sealed_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, run_of(3))
    with pytest.raises(CorruptError, match="expected batches as far as position 5, got 3"):
        list(read_log(tmp_path, upto=5))


def test_log_without_a_segment_in_the_middle_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, run_of(9), per_segment=3)
    segment_path(tmp_path, 4).unlink()
    with pytest.raises(CorruptError, match="expected a segment with position 4, got 7 next"):
        list(read_log(tmp_path))
    for tail in (Tail.WHOLE, Tail.TORN, Tail.UNSYNCED):
        with pytest.raises(CorruptError, match=r"0007\.seg: offset 0: expected position 4 next, got 7"):
            examine(tmp_path, store=STORE, folded=0, tail=tail)


def test_writer_begins_a_segment_when_the_last_is_full(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, segment_bytes=HEADER_BYTES + 300)
    sealed = []
    for item in run_of(7, size=50):
        if writer.full:
            sealed.append(writer.rotate())
        writer.append(item)
    sealed.append(writer.rotate())
    assert writer.rotate() is None
    assert [(found.first, found.last) for found in sealed if found] == [(1, 3), (4, 6), (7, 7)]
    assert [found.size for found in sealed if found] == [
        path.stat().st_size for _, path in segment_paths(tmp_path)
    ]


def test_writer_refuses_a_batch_that_is_not_the_next(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, position=4)
    for position in (4, 6):
        with pytest.raises(PositionError, match=f"expected a batch of position 5, got {position}"):
            writer.append(batch(position))
    writer.append(batch(5))
    writer.abandon()
    assert [found.position for found in read_log(tmp_path, after=4)] == [5]


def test_writer_refuses_a_batch_of_another_fence(tmp_path: Path) -> None:
    writer = writer_of(tmp_path, fence=3)
    with pytest.raises(FencedError, match="expected a batch under fence 3, got 2"):
        writer.append(batch(1, fence=2))


def test_writer_refuses_a_batch_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_PAYLOAD_BYTES", 100)
    writer = writer_of(tmp_path)
    with pytest.raises(JournalError, match="expected a batch of at most 100 bytes"):
        writer.append(run_of(1, size=200)[0])
    assert segment_paths(tmp_path) == []


def test_writer_never_touches_a_segment_that_is_there(tmp_path: Path) -> None:
    write(tmp_path, run_of(2))
    before = only_path(tmp_path).read_bytes()
    writer = writer_of(tmp_path)
    for _ in range(2):
        with pytest.raises(FencedError, match="another writer has appended"):
            writer.write(b"frame", last=1)
    assert only_path(tmp_path).read_bytes() == before


def test_writer_creates_no_segment_that_the_check_forbids(tmp_path: Path) -> None:
    def check() -> None:
        raise FencedError("another writer")

    encoder = FrameEncoder(0, fence=1, salt=SALT)
    writer = SegmentWriter(tmp_path, store=STORE, encoder=encoder, sync=False, check=check)
    with pytest.raises(FencedError):
        writer.append(batch(1))
    assert segment_paths(tmp_path) == []


def test_writer_that_syncs_puts_a_new_segment_on_the_disk_before_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_write = os.fdatasync, os.write
    monkeypatch.setattr(segments, "sync_folder", lambda folder: calls.append("folder"))

    def sync(fd: int) -> None:
        calls.append("sync")
        real_sync(fd)

    def note_write(fd: int, data: bytes) -> int:
        calls.append("write")
        return real_write(fd, data)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "write", note_write)
    writer = writer_of(tmp_path, sync=True)
    writer.append(batch(1))
    writer.rotate()
    assert calls == ["write", "sync", "folder", "write", "sync"]


# -- torn and damaged


@given(st.data())
def test_any_truncation_leaves_exactly_the_whole_batches_before_it(data: st.DataObject) -> None:
    batches = data.draw(runs())
    image, ends = image_of(batches)
    size = data.draw(st.integers(0, len(image)))
    whole = [item for item, end in zip(batches, ends, strict=True) if end <= size]
    assert batches_in(image[:size]) == whole
    with TemporaryDirectory() as name:
        path = segment_path(Path(name), 1)
        path.write_bytes(image[:size])
        examined = examine(Path(name), store=STORE, folded=0, tail=Tail.TORN)
        assert examined.last(0) == len(whole)
        # a header alone, or a whole frame at the end, is nothing to speak of
        assert (examined.cut is None) == (size in (HEADER_BYTES, *ends))
        cut(examined)
        assert list(read_log(Path(name), store=STORE)) == whole
        assert examine(Path(name), store=STORE, folded=0, tail=Tail.WHOLE).last(0) == len(whole)


@given(st.data())
@settings(max_examples=300)
def test_any_flipped_bit_is_found_and_never_a_wrong_batch(data: st.DataObject) -> None:
    batches = data.draw(runs(max_size=3))
    image, ends = image_of(batches)
    place = data.draw(st.integers(0, len(image) * 8 - 1))
    flipped = bytearray(image)
    flipped[place // 8] ^= 1 << place % 8
    whole = [item for item, end in zip(batches, ends, strict=True) if end <= place // 8]
    with TemporaryDirectory() as name:
        segment_path(Path(name), 1).write_bytes(flipped)
        # no death of a process leaves this behind, not even in the last frame
        for tail in (Tail.WHOLE, Tail.TORN):
            with pytest.raises(CorruptError, match="offset"):
                examine(Path(name), store=STORE, folded=0, tail=tail)
        reading = read_segment(segment_path(Path(name), 1), torn=True)
        assert [next(reading) for _ in whole] == whole
        with pytest.raises(CorruptError, match="offset"):
            next(reading)


def test_every_bit_of_a_segment_is_covered() -> None:
    """Not a sample: each bit of a header and of two frames."""
    batches = run_of(2)
    image, ends = image_of(batches)
    for place in range(len(image) * 8):
        flipped = bytearray(image)
        flipped[place // 8] ^= 1 << place % 8
        whole = sum(end <= place // 8 for end in ends)
        try:
            found = batches_in(bytes(flipped))
        except CorruptError:
            found = []  # foreign, or newer
        assert found == (batches[:whole] if place // 8 >= HEADER_BYTES else [])


def test_torn_frame_is_forgiven_in_the_last_segment_only(tmp_path: Path) -> None:
    write(tmp_path, run_of(6), per_segment=3)
    first = segment_path(tmp_path, 1)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(CorruptError, match=r"0001\.seg: offset \d+: expected \d+ bytes of payload"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.TORN)


def test_nothing_is_forgiven_after_a_close(tmp_path: Path) -> None:
    write(tmp_path, run_of(3))
    path = only_path(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptError, match="had been closed"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.WHOLE)


@pytest.mark.parametrize("tail", [Tail.UNSYNCED, Tail.LOST])
def test_damaged_last_frame_is_cut_after_the_machine_went_down(tmp_path: Path, tail: Tail) -> None:
    batches = run_of(3)
    ends = write(tmp_path, batches)
    flip(only_path(tmp_path), ends[-1] - 1)
    examined = examine(tmp_path, store=STORE, folded=0, tail=tail)
    assert examined.cut is not None
    assert examined.cut.size == ends[-2]
    assert examined.cut.lost == (tail is Tail.LOST)
    cut(examined)
    assert list(read_log(tmp_path)) == batches[:2]


def test_hole_among_frames_that_were_not_synced_is_cut(tmp_path: Path) -> None:
    """Pages of one group may reach the disk in any order: nobody had been told of any of these batches."""
    ends = write(tmp_path, run_of(5), synced=1)
    flip(only_path(tmp_path), ends[1] - 1)
    examined = examine(tmp_path, store=STORE, folded=0, tail=Tail.UNSYNCED)
    assert examined.cut is not None
    assert not examined.cut.lost
    assert examined.last(0) == 1


def test_hole_that_a_later_frame_calls_synced_is_corrupt(tmp_path: Path) -> None:
    ends = write(tmp_path, run_of(5), synced=2)
    flip(only_path(tmp_path), ends[1] - 1)
    with pytest.raises(CorruptError, match="position 2 had been on the disk, and later frames say so"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.UNSYNCED)


def test_hole_in_a_segment_that_a_synced_one_follows_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, run_of(6), per_segment=3, synced=0)
    flip(segment_path(tmp_path, 1), -1)
    with pytest.raises(CorruptError, match="position 3 had been on the disk"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.UNSYNCED)


def test_everything_behind_the_first_hole_goes_under_a_writer_that_did_not_sync(tmp_path: Path) -> None:
    batches = run_of(9)
    write(tmp_path, batches, per_segment=3)
    flip(segment_path(tmp_path, 4), -1)
    examined = examine(tmp_path, store=STORE, folded=0, tail=Tail.LOST)
    cut(examined)
    assert list(read_log(tmp_path)) == batches[:5]
    assert [first for first, _ in segment_paths(tmp_path)] == [1, 4]


def test_cut_that_was_interrupted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = run_of(9)
    write(tmp_path, batches, per_segment=3)
    flip(segment_path(tmp_path, 1), -1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", _refuse)
        with pytest.raises(JournalError, match="cannot be cut"):
            cut(examine(tmp_path, store=STORE, folded=0, tail=Tail.LOST))
    cut(examine(tmp_path, store=STORE, folded=0, tail=Tail.LOST))
    assert list(read_log(tmp_path)) == batches[:2]


@pytest.mark.parametrize("content", [b"", b"PAN", bytes(HEADER_BYTES - 1), bytes(HEADER_BYTES), bytes(4_096)])
def test_segment_that_never_came_to_be_is_removed_after_the_machine_went_down(
    tmp_path: Path, content: bytes
) -> None:
    write(tmp_path, run_of(3))
    segment_path(tmp_path, 4).write_bytes(content)
    tail = Tail.UNSYNCED if len(content) <= HEADER_BYTES else Tail.LOST
    cut(examine(tmp_path, store=STORE, folded=0, tail=tail))
    assert [first for first, _ in segment_paths(tmp_path)] == [1]


def test_damaged_header_with_frames_behind_it_is_corrupt_under_a_writer_that_synced(tmp_path: Path) -> None:
    write(tmp_path, run_of(3))
    flip(only_path(tmp_path), 20)
    with pytest.raises(CorruptError, match="the header had been on the disk"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.UNSYNCED)


def test_client_cannot_forge_a_frame_within_its_arguments(tmp_path: Path) -> None:
    """Else a torn write of a clever payload would look like damage with more behind it, and the
    gateway would not start.
    """
    forged = encode_frame(b"x" * 10, 2, synced=2, salt=SALT + 1)
    payload = forged * 20
    data = encode_header(Header(STORE, 1, 1, SALT)) + encode_frame(payload, 1, synced=0, salt=SALT)
    damaged = data[: HEADER_BYTES + HEAD_BYTES] + b"\xff" + data[HEADER_BYTES + HEAD_BYTES + 1 :]
    segment_path(tmp_path, 1).write_bytes(damaged)
    assert examine(tmp_path, store=STORE, folded=0, tail=Tail.UNSYNCED).cut is not None
    own = data[:HEADER_BYTES] + encode_frame(forged * 2, 1, synced=0, salt=SALT + 1)
    segment_path(tmp_path, 1).write_bytes(own)
    segment_path(tmp_path, 1).write_bytes(own + encode_frame(b"y", 2, synced=1, salt=SALT))
    with pytest.raises(CorruptError, match="had been on the disk"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.UNSYNCED)


# -- foreign, newer, misplaced


@pytest.mark.parametrize("tail", list(Tail))
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"SQLite format 3\0" + bytes(100), "the file is not a journal's"),
        (b"#!", "the file is not a journal's"),
        (b"PANELSEG" + (2).to_bytes(4, "little") + bytes(100), "a newer program wrote the file"),
        (
            b"PANELSEG" + (1).to_bytes(4, "little") + (9).to_bytes(4, "little") + bytes(100),
            "a newer program wrote the file",
        ),
        (encode_header(Header(b"t" * 16, 1, 1, SALT)), "expected a segment of store 7373"),
    ],
)
def test_foreign_and_newer_segments_are_refused_whatever_happened(
    tmp_path: Path, tail: Tail, content: bytes, sentence: str
) -> None:
    segment_path(tmp_path, 1).write_bytes(content)
    with pytest.raises(CorruptError, match=rf"0001\.seg: offset 0: .*{sentence}"):
        examine(tmp_path, store=STORE, folded=0, tail=tail)
    assert segment_path(tmp_path, 1).read_bytes() == content


@pytest.mark.parametrize(
    "name", ["notes.txt", "1.seg", "000000000000000x.seg", "0000000000000001", "²" * 16 + ".seg"]
)
def test_file_that_is_no_segment_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CorruptError, match="expected only segments"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.LOST)


def test_segment_under_another_name_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, run_of(3))
    only_path(tmp_path).rename(segment_path(tmp_path, 2))
    with pytest.raises(CorruptError, match="expected first position 2, got 1"):
        examine(tmp_path, store=STORE, folded=1, tail=Tail.TORN)


def test_payload_that_is_no_batch_is_corrupt(tmp_path: Path) -> None:
    header = encode_header(Header(STORE, 1, 1, SALT))
    path = segment_path(tmp_path, 1)
    path.write_bytes(header + encode_frame(b"\xc1", 1, synced=0, salt=SALT))
    with pytest.raises(CorruptError, match=rf"0001\.seg: offset {HEADER_BYTES}: expected a batch"):
        list(read_segment(path))
    path.write_bytes(header + encode_frame(encode_batch(batch(2)), 1, synced=0, salt=SALT))
    with pytest.raises(CorruptError, match="expected a batch of position 1, got 2"):
        list(read_segment(path))


# -- what is folded


def test_folded_segments_are_not_read_and_go(tmp_path: Path) -> None:
    write(tmp_path, run_of(9), per_segment=3)
    segment_path(tmp_path, 1).write_bytes(b"never looked at")
    examined = examine(tmp_path, store=STORE, folded=6, tail=Tail.TORN)
    assert [segment.first for segment in examined.segments] == [7]
    cut(examined)
    assert [first for first, _ in segment_paths(tmp_path)] == [7]


def test_store_may_be_ahead_of_the_log(tmp_path: Path) -> None:
    write(tmp_path, run_of(3))
    examined = examine(tmp_path, store=STORE, folded=5, tail=Tail.TORN)
    assert examined.last(5) == 5
    cut(examined)
    assert segment_paths(tmp_path) == []


def test_folder_that_is_not_there_is_an_empty_log(tmp_path: Path) -> None:
    assert examine(tmp_path / "log", store=STORE, folded=0, tail=Tail.WHOLE).last(0) == 0


# -- the disk fails


def _refuse(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(os, name, _refuse)
        yield


def test_writer_stops_for_good_at_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_of(tmp_path)
    writer.append(batch(1))
    with (
        failing(monkeypatch, "write"),
        pytest.raises(JournalError, match="cannot be written: Input/output error"),
    ):
        writer.append(batch(2))
    for again in (lambda: writer.append(batch(3)), writer.sync):
        with pytest.raises(JournalError, match="Input/output error"):
            again()
    writer.abandon()
    assert [found.position for found in read_log(tmp_path)] == [1]


def test_sync_that_failed_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel forgets a page that it could not write, and the next fsync succeeds."""
    writer = writer_of(tmp_path)
    writer.append(batch(1))
    with failing(monkeypatch, "fdatasync"), pytest.raises(JournalError, match="cannot be synced"):
        writer.sync()
    with pytest.raises(JournalError, match="cannot be synced"):
        writer.sync()
    with pytest.raises(JournalError, match="cannot be synced"):
        writer.append(batch(2))
    writer.abandon()


def test_full_device_is_an_error(tmp_path: Path) -> None:
    segment_path(tmp_path, 1).touch()
    writer = writer_of(tmp_path)
    writer._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(JournalError, match="No space left on device"):
        writer.append(batch(1))
    writer.abandon()


_SHORT = """
import resource, signal, sys
from pathlib import Path
from panels_gateway.journal.journal import JournalError
from tests.gateway.journal.batches import run_of
from tests.gateway.journal.test_segments import writer_of

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
writer = writer_of(Path(sys.argv[1]))
for item in run_of(50):
    try:
        writer.append(item)
    except JournalError as error:
        print(item.position, error)
        break
"""


def test_write_that_stops_short_is_an_error_and_is_cut(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", _SHORT, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    position, _, sentence = run.stdout.partition(" ")
    assert "the disk or a quota is full" in sentence
    assert only_path(tmp_path).stat().st_size == 1_000
    examined = examine(tmp_path, store=STORE, folded=0, tail=Tail.TORN)
    assert examined.cut is not None
    assert examined.last(0) == int(position) - 1
    cut(examined)
    assert [found.position for found in read_log(tmp_path)] == list(range(1, int(position)))


def test_unreadable_segment_is_an_error(tmp_path: Path) -> None:
    segment_path(tmp_path, 1).mkdir()
    with pytest.raises(JournalError, match="cannot be read: Is a directory"):
        examine(tmp_path, store=STORE, folded=0, tail=Tail.LOST)
