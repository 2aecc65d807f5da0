"""Who may write a data directory, and what an opening finds out about the time since the last one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from zlib import crc32

import pytest

from panels_gateway.journal.directory import DataDirectory, Durability, decode_meta, encode_meta
from panels_gateway.journal.frames import FrameEncoder
from panels_gateway.journal.journal import CorruptError, FencedError, JournalError
from panels_gateway.journal.segments import SegmentWriter, Tail, read_log, segment_path
from tests.gateway.journal.batches import run_of

STORE = b"s" * 16


def write(
    path: Path,
    count: int = 3,
    *,
    boot: str = "b1",
    durability: Durability = "process",
    close: bool = False,
) -> int:
    """Opens, appends ``count`` batches, and leaves, as a gateway that died unless ``close``.

    Returns the incarnation.
    """
    directory = DataDirectory(path, boot=boot)
    try:
        opening = directory.begin(durability, store=STORE, folded=0)
        encoder = FrameEncoder(opening.last, fence=opening.fence, salt=1)
        writer = SegmentWriter(directory.log, store=STORE, encoder=encoder, sync=False)
        for item in run_of(count, first=opening.last + 1, fence=opening.fence):
            writer.append(item)
        writer.rotate()
        if close:
            directory.closed(opening.last + count)
    finally:
        directory.release()
    return opening.incarnation


def test_directory_is_made_where_there_is_none(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "x" / "y")
    opening = directory.begin("process", store=STORE, folded=0)
    assert (opening.fence, opening.last, opening.unfolded, opening.notices) == (1, 0, [], [])
    assert (tmp_path / "x" / "y").stat().st_mode & 0o777 == 0o700
    directory.release()
    directory.release()


def test_each_writer_takes_a_higher_fence(tmp_path: Path) -> None:
    for fence in (1, 2, 3):
        directory = DataDirectory(tmp_path)
        assert directory.begin("process", store=STORE, folded=0).fence == fence
        directory.release()


def test_second_gateway_is_told_who_has_it(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    with pytest.raises(JournalError, match=rf"nobody uses, but the process {os.getpid()} has it open"):
        DataDirectory(tmp_path)
    first.release()
    DataDirectory(tmp_path).release()


def test_clean_close_keeps_the_incarnation_whatever_the_machine_did(tmp_path: Path) -> None:
    incarnation = write(tmp_path, close=True)
    directory = DataDirectory(tmp_path, boot="b2")
    assert directory.tail is Tail.WHOLE
    opening = directory.begin("process", store=STORE, folded=0)
    assert (opening.incarnation, opening.last) == (incarnation, 3)
    directory.release()


def test_death_of_the_process_keeps_the_incarnation(tmp_path: Path) -> None:
    incarnation = write(tmp_path)
    assert write(tmp_path) == incarnation


def test_death_of_the_machine_raises_the_incarnation_where_nothing_was_synced(tmp_path: Path) -> None:
    incarnation = write(tmp_path, boot="b1")
    second = write(tmp_path, boot="b2")
    assert second > incarnation
    assert write(tmp_path, boot="b2") == second
    assert write(tmp_path, boot="b3") > second


def test_death_of_the_machine_keeps_the_incarnation_where_everything_was_synced(tmp_path: Path) -> None:
    incarnation = write(tmp_path, durability="power")
    assert write(tmp_path, boot="b2", durability="process") == incarnation


def test_hole_after_a_death_of_the_machine_is_cut_and_said(tmp_path: Path) -> None:
    write(tmp_path)
    path = segment_path(tmp_path / "log", 1)
    path.write_bytes(path.read_bytes()[:-30] + bytes(30))
    with pytest.raises(CorruptError):
        write(tmp_path, boot="b1")
    directory = DataDirectory(tmp_path, boot="b2")
    opening = directory.begin("process", store=STORE, folded=0)
    directory.release()
    assert opening.last == 2
    assert [sentence.split(": ")[0] for sentence in opening.notices] == [
        str(path),
        "the machine went down and history may have been lost",
    ]


def test_crash_between_cut_and_meta_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next opening would find a new boot id, call the cut log whole, and keep the incarnation."""
    incarnation = write(tmp_path)
    path = segment_path(tmp_path / "log", 1)
    path.write_bytes(path.read_bytes()[:-30] + bytes(30))
    directory = DataDirectory(tmp_path, boot="b2")

    def crash(meta: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(directory, "_replace", crash)
    with pytest.raises(KeyboardInterrupt):
        directory.begin("process", store=STORE, folded=0)
    directory.release()
    assert write(tmp_path, boot="b2") > incarnation


def test_log_that_lost_its_end_after_a_close_is_corrupt(tmp_path: Path) -> None:
    write(tmp_path, close=True)
    segment_path(tmp_path / "log", 1).unlink()
    with pytest.raises(CorruptError, match="expected position 3 as the last, got 0"):
        write(tmp_path)


def test_files_of_two_journals_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    directory = DataDirectory(tmp_path)
    with pytest.raises(CorruptError, match="files of two journals"):
        directory.begin("process", store=b"t" * 16, folded=0)
    directory.release()


def test_log_or_store_without_meta_is_refused(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "b")
    with pytest.raises(CorruptError, match="expected this file beside a store"):
        directory.begin("process", store=STORE, folded=4)
    directory.release()
    write(tmp_path / "a")
    (tmp_path / "a" / "meta").unlink()
    with pytest.raises(CorruptError, match="expected this file beside a log"):
        DataDirectory(tmp_path / "a")


def test_meta_is_refused_when_any_bit_is_flipped(tmp_path: Path) -> None:
    write(tmp_path)
    data = (tmp_path / "meta").read_bytes()
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(CorruptError):
            decode_meta(bytes(flipped))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"version":2,"other":[]}', "expected at most version 1, got 2: a newer program wrote it"),
        (b'{"version":1}', "expected what is known of a journal"),
        (b"[]", "expected what is known of a journal"),
        (b"\xff", "expected what is known of a journal"),
    ],
)
def test_meta_of_another_kind_is_refused_and_stays(tmp_path: Path, line: bytes, sentence: str) -> None:
    data = b"%s\n%08x\n" % (line, crc32(line))
    (tmp_path / "meta").write_bytes(data)
    with pytest.raises(CorruptError, match=sentence):
        DataDirectory(tmp_path)
    assert (tmp_path / "meta").read_bytes() == data


def test_meta_that_was_half_replaced_is_the_old_one(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "meta.new").write_bytes(b"{")
    assert write(tmp_path) == 0


def test_writer_that_was_fenced_off_is_told_before_its_next_segment(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    directory.begin("process", store=STORE, folded=0)
    directory.check_fence()
    # as where the lock does not hold: a network file system, a lock file that was deleted
    (tmp_path / "lock").unlink()
    DataDirectory(tmp_path).begin("process", store=STORE, folded=0)
    with pytest.raises(FencedError, match="under fence 2"):
        directory.check_fence()


def test_restored_store_gets_another_incarnation_each_time(tmp_path: Path) -> None:
    found = set()
    for name in ("a", "b"):
        directory = DataDirectory(tmp_path / name)
        directory.adopt("process", store=STORE, position=7)
        directory.release()
        directory = DataDirectory(tmp_path / name)
        opening = directory.begin("process", store=STORE, folded=7)
        assert opening.last == 7
        found.add(opening.incarnation)
        with pytest.raises(JournalError, match="expected an empty directory to restore into"):
            directory.adopt("process", store=STORE, position=7)
        directory.release()
    assert len(found - {0}) == 2


@pytest.mark.parametrize("call", ["mkdir", "ftruncate", "pwrite", "fsync", "rename"])
def test_directory_that_fails_is_an_error_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(JournalError, match=r"data directory cannot be .*: No space left on device"):
        write(tmp_path / "d")


def test_path_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    with pytest.raises(JournalError, match="cannot be used: File exists"):
        DataDirectory(tmp_path / "d")


def test_close_puts_every_file_on_the_disk_before_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path)
    directory.begin("process", store=STORE, folded=0)
    segment_path(directory.log, 1).touch()
    synced: list[str] = []

    def note(fd: int) -> None:
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))

    monkeypatch.setattr(os, "fsync", note)
    directory.closed(0)
    directory.release()
    assert {"log/0000000000000001.seg", "log", "."} <= set(synced[: synced.index("meta.new")])


def test_meta_round_trips(tmp_path: Path) -> None:
    write(tmp_path, close=True)
    meta = decode_meta((tmp_path / "meta").read_bytes())
    assert decode_meta(encode_meta(meta)) == meta
    assert meta.closed == 3


def test_process_to_power_syncs_what_a_dead_writer_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only the page cache has must not be shown as durable by the next writer."""
    write(tmp_path)
    synced: list[str] = []
    real = os.fsync

    def note(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    monkeypatch.setattr(os, "fsync", note)
    write(tmp_path, durability="power")
    assert "0000000000000001.seg" in synced
    assert [item.position for item in read_log(tmp_path / "log")] == [1, 2, 3, 4, 5, 6]
