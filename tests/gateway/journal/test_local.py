"""The journal of a data directory: the contract in both modes, real folding processes,
and disks that fail.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from panels_gateway.journal import fold_process, schema
from panels_gateway.journal.directory import DataDirectory, Durability
from panels_gateway.journal.fold import Retention
from panels_gateway.journal.fold_process import FoldProcess, RestartPolicy
from panels_gateway.journal.journal import (
    CorruptError,
    FencedError,
    FoldingState,
    InUseError,
    Journal,
    JournalError,
    LateError,
)
from panels_gateway.journal.local import LocalJournal, LocalOptions, open_local
from panels_gateway.journal.records import Batch
from panels_gateway.journal.segments import read_log, segment_paths
from panels_gateway.journal.store import Store
from tests.gateway.journal.batches import SOURCE, created, put, ran
from tests.gateway.journal.contract import Driver, JournalContract

#: A folding process that takes orders and does nothing: what is appended stays in the log.
IDLE = (sys.executable, "-c", "import sys; print(0, flush=True); sys.stdin.read()")
#: The times in the tests' records are of 1970.
KEEP = Retention(commits=1 << 40, age_ms=1 << 60, answer_ttl_ms=1 << 60)
SOON = LocalOptions(rotate_s=0.0, retention=KEEP, restart=RestartPolicy(initial_s=0.01))
LATE = LocalOptions(rotate_s=3_600.0, retention=KEEP)
HELD = LocalOptions(rotate_s=3_600.0, command=IDLE)


class TestLocalJournalOfProcesses(JournalContract):
    """Mode ``process``."""

    remembers = True
    durability: ClassVar[Durability] = "process"

    async def open(self, folder: Path) -> Journal:
        return await open_local(folder / "data", durability=self.durability, options=SOON)


class TestLocalJournalOfPower(TestLocalJournalOfProcesses):
    """Mode ``power``."""

    durability = "power"


def log_of(path: Path) -> list[int]:
    return [first for first, _ in segment_paths(path / "log")]


def kill(journal: LocalJournal) -> None:
    """Leaves the directory as a gateway does that is killed, as far as one process can:
    no close, no marker.
    """
    journal._directory.release()


async def fill(path: Path, count: int, *, durability: Durability = "process") -> None:
    """Leaves ``count`` commits in the log, unfolded, as a gateway that was killed."""
    journal = await open_local(path, durability=durability, options=HELD)
    driver = Driver(journal)
    driver.append(SOURCE, created(n=b"0"))
    for seq in range(1, count):
        driver.append(ran(1, seq, put("n", str(seq))))
    await driver.durable()
    await journal._log.close()
    await journal._folding.stop()
    await journal._read(journal._store.close)
    journal._stop_timer()
    journal._reader.shutdown()
    kill(journal)


# -- start


def test_what_was_left_unfolded_is_folded_before_anything_is_served(tmp_path: Path) -> None:
    async def run() -> None:
        await fill(tmp_path, 50)
        assert len(log_of(tmp_path)) == 1
        progress: list[tuple[int, int]] = []
        journal = await open_local(
            tmp_path,
            durability="process",
            options=LATE,
            on_progress=lambda done, total: progress.append((done, total)),
        )
        assert journal.position == journal.durable == journal.folded == 50
        assert journal.last_panel == 1
        panel = await journal.load("a")
        assert panel is not None
        assert (panel.seq, panel.state) == (49, {"n": b"49"})
        assert progress[0] == (0, 50)
        assert progress[-1] == (50, 50)
        await journal.close()
        assert log_of(tmp_path) == []

    asyncio.run(run())


@pytest.mark.parametrize("durability", ["process", "power"])
def test_batches_under_a_killed_gateway_are_all_there(tmp_path: Path, durability: Durability) -> None:
    """A real process, killed with SIGKILL while it appends; what it said was durable is there,
    and nothing after a gap.
    """
    script = """
import asyncio, sys
from pathlib import Path
from panels_gateway.journal.local import open_local
from tests.gateway.journal.batches import SOURCE, created, put, ran
from tests.gateway.journal.contract import Driver

async def run():
    journal = await open_local(Path(sys.argv[1]), durability=sys.argv[2])
    driver = Driver(journal)
    journal.on_durable = lambda position: print(position, flush=True)
    driver.append(SOURCE, created(n=b"0"))
    for seq in range(1, 1_000_000):
        driver.append(ran(1, seq, put("n", str(seq))))
        if sys.argv[2] == "process":
            print(journal.durable, flush=True)
        await asyncio.sleep(0)

asyncio.run(run())
"""
    acknowledged = 0
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "data"), durability], stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        for line in gateway.stdout:
            if line.endswith("\n"):
                acknowledged = int(line)
            if acknowledged >= 300:
                gateway.kill()
    assert acknowledged >= 300

    async def run() -> None:
        journal = await open_local(tmp_path / "data", durability=durability, options=LATE)
        assert journal.position >= acknowledged
        panel = await journal.load("a")
        assert panel is not None
        assert panel.seq == journal.position - 1
        assert panel.state == {"n": b"%d" % panel.seq}
        history = await journal.history(1, since=0, limit_bytes=1 << 30)
        assert history is not None
        assert [commit.seq for commit in history.commits] == list(range(1, panel.seq + 1))
        assert journal.incarnation == 0
        await journal.close()

    asyncio.run(run())


def test_second_gateway_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=LATE)
        driver = Driver(journal)
        with pytest.raises(InUseError, match=f"the process {os.getpid()} has it open"):
            await open_local(tmp_path, durability="process")
        driver.append(SOURCE, created())
        await journal.close()
        assert driver.failures == []

    asyncio.run(run())


def test_directory_without_its_store_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=LATE)
        await journal.close()
        (tmp_path / schema.DATABASE).unlink()
        with pytest.raises(CorruptError, match="expected the store of folded batches, got none"):
            await open_local(tmp_path, durability="process")
        assert not (tmp_path / schema.DATABASE).exists()

    asyncio.run(run())


def test_store_of_another_time_is_refused(tmp_path: Path) -> None:
    """An older copy of the store, put beside a log that had been folded further and deleted."""

    async def run() -> None:
        for count in range(3):
            journal = await open_local(tmp_path, durability="process", options=SOON)
            driver = Driver(journal)
            driver.append(SOURCE, created(count + 1, f"p{count}"))
            await driver.folded()
            await journal.close()
            if count == 0:
                (tmp_path / "old").write_bytes((tmp_path / schema.DATABASE).read_bytes())
        (tmp_path / "old").rename(tmp_path / schema.DATABASE)
        with pytest.raises(CorruptError, match="expected position 3 as the last, got 1"):
            await open_local(tmp_path, durability="process")
        # it can be tried again: the lock is free, and nothing was changed
        with pytest.raises(CorruptError, match="expected position 3 as the last, got 1"):
            await open_local(tmp_path, durability="process")

    asyncio.run(run())


def test_damaged_log_is_refused_by_name_and_offset(tmp_path: Path) -> None:
    async def run() -> None:
        await fill(tmp_path, 5)
        ((_, path),) = segment_paths(tmp_path / "log")
        data = bytearray(path.read_bytes())
        data[100] ^= 4
        path.write_bytes(data)
        with pytest.raises(CorruptError, match=r"0001\.seg: offset 56: "):
            await open_local(tmp_path, durability="process")
        assert path.read_bytes() == data

    asyncio.run(run())


def test_machine_that_went_down_raises_the_incarnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await fill(tmp_path, 5)
        monkeypatch.setattr("panels_gateway.journal.directory.boot_id", lambda: "another")
        journal = await open_local(tmp_path, durability="process", options=LATE)
        assert journal.incarnation > 0
        assert journal.position == 5
        assert ["history may have been lost" in notice for notice in journal.notices] == [True]
        await journal.close()

    asyncio.run(run())


# -- segments and folding


def test_segments_end_by_size_and_go_when_folded(tmp_path: Path) -> None:
    async def run() -> None:
        options = LocalOptions(segment_bytes=1_000, rotate_s=0.0)
        journal = await open_local(tmp_path, durability="process", options=options)
        driver = Driver(journal)
        driver.append(SOURCE, created(n=b"0"))
        for seq in range(1, 200):
            driver.append(ran(1, seq, put("n", str(seq))))
        assert len(log_of(tmp_path)) > 10
        assert journal.backlog_bytes == sum(
            path.stat().st_size for _, path in segment_paths(tmp_path / "log")
        )
        await driver.folded()
        assert journal.backlog_bytes == 0
        await journal.close()
        assert log_of(tmp_path) == []

    asyncio.run(run())


def test_batches_wait_in_the_open_segment_until_its_time_has_come(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=LATE)
        driver = Driver(journal)
        driver.append(SOURCE, created())
        timer = journal._timer
        assert timer is not None
        driver.append(ran(1, 1, put("n", "1")))
        assert journal._timer is timer
        assert journal.folded == 0
        journal._rotate()
        await driver.folded()
        assert timer.cancelled()
        driver.append(ran(1, 2, put("n", "2")))
        assert journal._timer is not None
        assert not journal._timer.cancelled()
        await journal.close()

    asyncio.run(run())


def test_folding_process_that_dies_is_started_again(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=SOON)
        driver = Driver(journal)
        driver.append(SOURCE, created(n=b"0"))
        await driver.folded()
        for seq in range(1, 4):
            pid = journal._folding.pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            driver.append(ran(1, seq, put("n", str(seq))))
            await driver.folded()
        assert journal.folding_starts > 1
        assert driver.failures == []
        await journal.close()
        assert log_of(tmp_path) == []

    asyncio.run(run())


def test_read_that_waits_for_a_folding_process_that_stands_still_is_late(tmp_path: Path) -> None:
    async def run() -> None:
        options = LocalOptions(rotate_s=3_600.0, command=IDLE, patience_s=0.01)
        journal = await open_local(tmp_path, durability="process", options=options)
        driver = Driver(journal)
        driver.append(SOURCE, created(n=b"0"))
        with pytest.raises(LateError, match="bytes of the log wait to be folded"):
            await journal.state_at(1, 0)
        with pytest.raises(LateError):
            await journal.key_history(1, "n", limit=1)
        driver.append(ran(1, 1, put("n", "1")))  # nothing is wrong: appending goes on
        await journal.close()

    asyncio.run(run())


def test_reads_that_wait_for_folding_share_one_fold(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=LATE)
        driver = Driver(journal)
        driver.append(SOURCE, created(n=b"0"))
        rotations = 0
        rotate = journal._log.rotate

        def counted() -> None:
            nonlocal rotations
            rotations += 1
            rotate()

        journal._log.rotate = counted  # type: ignore[method-assign]
        reads = []
        for seq in range(1, 9):
            driver.append(ran(1, seq, put("n", str(seq))))
            reads.append(asyncio.create_task(journal.state_at(1, seq)))
            await asyncio.sleep(0)
        reads[0].cancel()
        found = await asyncio.gather(*reads[1:])
        assert found == [{"n": str(seq).encode()} for seq in range(2, 9)]
        assert rotations == 2  # the first's, and one for all who came while it was under way
        await journal.close()

    asyncio.run(run())


def test_folding_process_that_keeps_dying_is_counted_and_given_up(tmp_path: Path) -> None:
    async def run() -> None:
        restart = RestartPolicy(initial_s=0.0, attempts=3)
        failed: asyncio.Future[JournalError] = asyncio.get_running_loop().create_future()
        command = (sys.executable, "-c", "raise SystemExit(9)")
        options = LocalOptions(rotate_s=3_600.0, command=command, restart=restart)
        journal = await open_local(tmp_path, durability="process", options=options)
        journal.on_failed = failed.set_result
        assert "exit code 9 (attempt 3)" in str(await failed)
        assert journal.folding == FoldingState(up=False, deaths=3)
        with pytest.raises(JournalError, match="cannot go on"):
            journal.append(Batch(1, journal.fence, [SOURCE]))
        with pytest.raises(JournalError):
            await journal.close()

    asyncio.run(run())


def test_folding_process_that_cannot_go_on_is_a_failure(tmp_path: Path) -> None:
    async def run() -> None:
        options = LocalOptions(rotate_s=0.0, command=(sys.executable, "-c", "import sys; sys.exit(74)"))
        journal = await open_local(tmp_path, durability="process", options=options)
        driver = Driver(journal)
        await driver.until(lambda: bool(driver.failures))
        assert str(driver.failures[0]).startswith(
            "the folding process cannot go on: it ended with exit code 74"
        )
        with pytest.raises(JournalError, match="the folding process cannot go on"):
            driver.append(SOURCE, created())
        with pytest.raises(JournalError, match="the folding process cannot go on"):
            await journal.close()
        assert len(driver.failures) == 1

    asyncio.run(run())


def test_start_that_cannot_fold_is_refused_and_leaves_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        await fill(tmp_path, 5)
        dead = LocalOptions(
            command=(sys.executable, "-c", "pass"), restart=RestartPolicy(initial_s=0.001, attempts=3)
        )
        with pytest.raises(JournalError, match=r"ended with exit code 0 \(attempt 3\)"):
            await open_local(tmp_path, durability="process", options=dead)
        journal = await open_local(tmp_path, durability="process", options=LATE)
        assert journal.folded == 5
        await journal.close()

    asyncio.run(run())


def test_folding_process_that_hangs_is_killed_and_another_folds(tmp_path: Path) -> None:
    async def run() -> None:
        # one attempt: were the kill counted, it would be the last
        restart = RestartPolicy(initial_s=0.0, attempts=1, silence_s=0.3)
        options = LocalOptions(rotate_s=0.0, retention=KEEP, restart=restart)
        journal = await open_local(tmp_path, durability="process", options=options)
        driver = Driver(journal)
        while (pid := journal._folding.pid) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)
        driver.append(SOURCE, created(n=b"0"))
        for seq in range(1, 4):
            driver.append(ran(1, seq, put("n", str(seq))))
            await asyncio.sleep(0)
        while journal.folded < journal.position:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert journal._folding.pid != pid
        assert journal.folding == FoldingState(up=True, deaths=1)
        assert await journal.state_at(1, 3) == {"n": b"3"}
        await journal.close()

    asyncio.run(run())


def test_folding_process_that_has_nothing_to_do_is_silent_for_as_long_as_it_likes() -> None:
    async def run() -> None:
        heard = asyncio.Event()
        process = FoldProcess(
            [sys.executable, "-c", "import sys; print(0, flush=True); sys.stdin.read()"],
            on_folded=lambda position: heard.set(),
            on_failed=lambda error: None,
            policy=RestartPolicy(silence_s=0.01),
        )
        process.start()
        await heard.wait()
        await asyncio.sleep(0.1)
        assert (process.silent_s, process.starts) == (0.0, 1)
        process.sealed(5)
        while process.starts < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await process.stop()
        assert process.deaths >= 1

    asyncio.run(run())


def test_gateway_that_stood_still_does_not_take_it_for_silence() -> None:
    async def run() -> None:
        heard = asyncio.Event()
        process = FoldProcess(
            [
                sys.executable,
                "-c",
                "print(0, flush=True)\nfor line in iter(input, ''): print(line, flush=True)",
            ],
            on_folded=lambda position: heard.set(),
            on_failed=lambda error: None,
            policy=RestartPolicy(silence_s=0.2),
        )
        process.start()
        await heard.wait()
        heard.clear()
        process.sealed(5)
        time.sleep(0.2 + 2 * fold_process.LATE_S)  # noqa: ASYNC251 - nothing is read meanwhile
        await heard.wait()
        await asyncio.sleep(0.2)  # one that was killed would be gone by now
        assert (process.starts, process.deaths, process.silent_s) == (1, 0, 0.0)
        await process.stop(grace_s=0.0)

    asyncio.run(run())


def test_folding_process_that_talks_nonsense_is_ended(tmp_path: Path) -> None:
    async def run() -> None:
        failures: list[JournalError] = []
        failed = asyncio.Event()

        def on_failed(error: JournalError) -> None:
            failures.append(error)
            failed.set()

        process = FoldProcess(
            [sys.executable, "-c", "import sys; print('hello', flush=True); sys.stdin.read()"],
            on_folded=lambda position: None,
            on_failed=on_failed,
            policy=RestartPolicy(initial_s=0.0, attempts=2),
        )
        process.start()
        await failed.wait()
        await process.stop()
        assert process.starts == 2
        assert len(failures) == 1

    asyncio.run(run())


def test_folding_process_that_does_not_end_is_killed() -> None:
    async def run() -> None:
        heard = asyncio.Event()
        process = FoldProcess(
            [sys.executable, "-c", "import signal\nprint(0, flush=True)\nwhile True: signal.pause()"],
            on_folded=lambda position: heard.set(),
            on_failed=lambda error: None,
        )
        process.start()
        await heard.wait()
        pid = process.pid
        assert pid is not None
        await process.stop(grace_s=0.01)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(run())


def test_restart_waits_longer_each_time() -> None:
    policy = RestartPolicy(initial_s=0.1, maximum_s=1.0)
    assert [policy.delay_s(failures) for failures in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_backup_has_everything_that_was_durable(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path / "data", durability="process", options=LATE)
        driver = Driver(journal)
        driver.append(SOURCE, created(n=b"0"))
        for seq in range(1, 50):
            driver.append(ran(1, seq, put("n", str(seq))))
        progress: list[tuple[int, int]] = []
        backing = asyncio.ensure_future(
            journal.backup(tmp_path / "backup", lambda done, total: progress.append((done, total)))
        )
        await asyncio.sleep(0)
        driver.append(ran(1, 50, put("n", "50")))
        await backing
        copy = Store(tmp_path / "backup")
        panel = copy.load("a")
        assert panel is not None
        assert panel.seq >= 49
        copy.close()
        assert progress
        assert progress[-1][0] == progress[-1][1] > 0
        with pytest.raises(JournalError, match="expected no file there"):
            await journal.backup(tmp_path / "backup", lambda done, total: None)
        await journal.close()

    asyncio.run(run())


# -- the disk fails


def _refuse(*_: object) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_disk_that_fails_under_process_ends_appending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=HELD)
        driver = Driver(journal)
        driver.append(SOURCE, created())
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _refuse)
            with pytest.raises(JournalError, match="the log cannot be written: Input/output error"):
                driver.append(ran(1, 1))
        with pytest.raises(JournalError):
            driver.append(ran(1, 1))
        assert journal.durable == journal.position == 1
        with pytest.raises(JournalError, match="Input/output error"):
            await journal.close()
        # not closed cleanly: the next opening must look
        directory = DataDirectory(tmp_path)
        assert directory.meta is not None
        assert directory.meta.closed is None
        directory.release()

    asyncio.run(run())


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_disk_that_fails_under_power_is_told_in_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="power", options=HELD)
        driver = Driver(journal)
        driver.append(SOURCE, created())
        await driver.durable()
        with monkeypatch.context() as patch:
            real = getattr(os, call)

            def fail(fd: int, *rest: object) -> int:
                if threading.current_thread().name == "journal":
                    _refuse()
                result: int = real(fd, *rest)
                return result

            patch.setattr(os, call, fail)
            driver.append(ran(1, 1))
            await driver.until(lambda: bool(driver.failures))
        assert "Input/output error" in str(driver.failures[0])
        assert (journal.durable, journal.position) == (1, 2)
        with pytest.raises(JournalError, match="Input/output error"):
            driver.append(ran(1, 2))
        with pytest.raises(JournalError, match="Input/output error"):
            await journal.close()
        assert len(driver.failures) == 1
        assert driver.durables == [1]

    asyncio.run(run())


def test_writer_that_was_fenced_off_fails_at_its_next_segment(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="process", options=HELD)
        driver = Driver(journal)
        driver.append(SOURCE, created())
        (tmp_path / "lock").unlink()
        other = DataDirectory(tmp_path)
        assert other.meta is not None
        other.begin("process", store=bytes.fromhex(other.meta.store), folded=0)
        journal._rotate()
        with pytest.raises(FencedError, match="under fence 2"):
            driver.append(ran(1, 1))
        with pytest.raises(FencedError):
            await journal.close()
        other.release()

    asyncio.run(run())


# -- group commit


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Holds up the journal's fdatasync until it is called."""
    opened = threading.Event()
    real = os.fdatasync

    def sync(fd: int) -> None:
        if threading.current_thread().name == "journal":
            opened.wait()
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    yield opened.set
    opened.set()


def test_batches_that_wait_for_the_disk_share_the_next_sync(tmp_path: Path, gate: Callable[[], None]) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="power", options=HELD)
        driver = Driver(journal)
        for panel in range(1, 101):
            driver.append(SOURCE, created(panel, f"p{panel}"))
        assert journal.durable == 0
        assert journal.backlog_bytes > 100 * 100
        assert driver.durables == []
        gate()
        await driver.durable()
        assert journal.counters.batches == 100
        # the first may have gone alone, the others came while the disk was busy
        assert 1 <= journal.counters.syncs <= 2
        await journal.close()
        assert [item.position for item in read_log(tmp_path / "log")] == list(range(1, 101))

    asyncio.run(run())


def test_ping_waits_for_the_disk(tmp_path: Path, gate: Callable[[], None]) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path, durability="power", options=HELD)
        Driver(journal).append(SOURCE, created())
        ping = asyncio.create_task(journal.ping())
        done, _ = await asyncio.wait([ping], timeout=0.05)
        assert not done, "the disk has not answered"
        gate()
        await ping
        assert journal.durable == journal.position
        await journal.close()

    asyncio.run(run())


def test_frames_say_only_what_was_synced(tmp_path: Path) -> None:
    from panels_gateway.journal.frames import Frame, Header, decode_header, scan

    async def run() -> None:
        journal = await open_local(tmp_path, durability="power", options=HELD)
        driver = Driver(journal)
        for panel in range(1, 20):
            driver.append(SOURCE, created(panel, f"p{panel}"))
            if panel % 5 == 0:
                await driver.durable()
        await journal.close()

    asyncio.run(run())
    ((first, path),) = segment_paths(tmp_path / "log")
    data = path.read_bytes()
    header = decode_header(data, first)
    assert isinstance(header, Header)
    synced = [found.synced for found in scan(memoryview(data), header) if isinstance(found, Frame)]
    assert synced == [(position - 1) // 5 * 5 for position in range(1, 20)]
