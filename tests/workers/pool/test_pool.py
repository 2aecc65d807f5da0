"""A real pool and its sandbox processes against a fake gateway: what happens when things end, hang or lie."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from panels_shared.buskey import beat_id, key_file_beside, pool_proof, sandbox_ticket
from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.messages import (
    Drain,
    Exited,
    Goodbye,
    Heartbeat,
    Hello,
    Job,
    Missing,
    PoolReport,
    Replace,
    Result,
    Revoke,
    Snapshot,
    Tool,
    ToWorker,
)
from panels_shared.outcome import Completed, Failed, Outcome, Reason
from panels_worker.artifacts import MAX_CACHE_BYTES, ArtifactStore
from panels_worker.pool.pool import Pool
from panels_worker.settings import PoolConfig
from panels_worker.status import Exit
from tests.support.fake_gateway import FakeGateway, make_bus_key
from tests.support.pool_process import PoolProcess

COUNTER = b"""(module
  (import "panels" "state_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_set" (func $set (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "n")
  (func (export "alloc") (param i32) (result i32) i32.const 1024)
  ;; one digit that goes round: n = (n + 1) % 10
  (func (export "handle") (param i32 i32) (result i32)
    (if (i32.lt_s (call $get (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 1)) (i32.const 1))
      (then (i32.store8 (i32.const 8) (i32.const 48))))
    (i32.store8 (i32.const 8)
      (i32.add (i32.const 48)
        (i32.rem_u (i32.sub (i32.load8_u (i32.const 8)) (i32.const 47)) (i32.const 10))))
    (drop (call $set (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 1)))
    i32.const 0)
  (func (export "spin") (param i32 i32) (result i32) (loop $on (br $on)) i32.const 0))"""

LIMITS = (10**10, 5_000, 1 << 25, 10_000, 1 << 20, 1_000, 1 << 16)


@pytest.fixture(scope="module")
def cache_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="panels-cache-") as folder:
        yield Path(folder)


@pytest.fixture
def endpoint() -> Iterator[str]:
    # pytest's own folders have paths too long for a socket
    folder = tempfile.mkdtemp(prefix="panels-")
    yield f"ipc://{folder}/s"
    shutil.rmtree(folder)


@pytest.fixture
def gateway(endpoint: str) -> Iterator[FakeGateway]:
    with FakeGateway(endpoint) as gateway:
        yield gateway


def jobs(count: int, *, first: int = 0, panel: int = 1, epoch: int = 1) -> list[Job]:
    return [Job(first + i, panel, epoch, first + i, first - 1, 1, b"{}", b"{}", 0.0, 1) for i in range(count)]


def counter(gateway: FakeGateway, *, entry: str = "handle", deadline_ms: int = 5_000) -> Tool:
    digest = gateway.prepare("wat", COUNTER, entry)
    return Tool(1, digest, "wat", entry, "count", (LIMITS[0], deadline_ms, *LIMITS[2:]), DEFAULT_CAPABILITIES)


def run(gateway: FakeGateway, worker: bytes, *messages: ToWorker, count: int) -> list[Outcome]:
    gateway.send(worker, *messages)
    return [result.outcome for result in gateway.results(worker, count)]


def pid(gateway: FakeGateway, worker: bytes) -> int:
    return gateway.sandboxes[worker].pid


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_pool_runs_jobs_on_a_replica(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        outcomes = run(gateway, worker, counter(gateway), Snapshot(1, 1, {"n": b"4"}), *jobs(40), count=40)
        last = outcomes[-1]
        assert isinstance(last, Completed)
        assert last.mutations == b'[{"op":"set","key":"n","value":4}]'


def test_pool_runs_scripts_though_strictly_confined(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir, "--confinement", "strict"):
        (worker,) = gateway.wait_for_sandboxes()
        digest = gateway.prepare("javascript", b"$state.n = ($state.n ?? 0) + 1; return $state.n")
        tool = Tool(1, digest, "javascript", "handle", "count", LIMITS, DEFAULT_CAPABILITIES)
        outcome = run(gateway, worker, tool, Snapshot(1, 1, {"n": b"4"}), *jobs(20), count=20)[-1]
        assert isinstance(outcome, Completed)
        assert outcome.return_value == b"24"


def test_pool_serves_a_gateway_over_tcp_with_keys(cache_dir: Path, tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    (tmp_path / "server").write_bytes(public)
    (tmp_path / "own").write_bytes(zmq.curve_keypair()[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    keys = (
        "--curve-secret-key-file",
        str(tmp_path / "own"),
        "--curve-server-key-file",
        str(tmp_path / "server"),
        "--bus-key-file",
        str(tmp_path / "bus"),
    )
    make_bus_key(tmp_path / "bus")
    with (
        FakeGateway(endpoint, curve=(public, secret)) as gateway,
        PoolProcess(endpoint, cache_dir, *keys, "--confinement", "strict"),
    ):
        (worker,) = gateway.wait_for_sandboxes()
        outcomes = run(gateway, worker, counter(gateway), Snapshot(1, 1, {}), *jobs(20), count=20)
        assert all(isinstance(outcome, Completed) for outcome in outcomes)


def test_pool_serves_a_gateway_that_starts_later(endpoint: str, cache_dir: Path) -> None:
    with PoolProcess(endpoint, cache_dir, processes=2), FakeGateway(endpoint) as gateway:
        gateway.wait_for_sandboxes(2)


def test_pool_waits_for_a_bus_key_and_proves_that_it_has_it(endpoint: str, cache_dir: Path) -> None:
    with PoolProcess(endpoint, cache_dir, processes=2) as pool:
        until_s = time.monotonic() + 15
        while not pool.logged("waiting for a bus key")() and time.monotonic() < until_s:
            assert not pool.ended()
        with FakeGateway(endpoint) as gateway:
            workers = gateway.wait_for_sandboxes(2)
            gateway.wait(lambda: bool(gateway.pools))
            key = make_bus_key(Path(key_file_beside(endpoint)))
            ((pool_id, hello),) = gateway.pools.items()
            assert hello.credential == pool_proof(key, pool_id)
            for worker in workers:
                hello = gateway.sandboxes[worker]
                assert hello.credential == sandbox_ticket(key, worker, pool_id)
                assert {"no_new_privs", "rlimits", "dumpable"} <= set(hello.active)
            gateway.wait(lambda: {beat_id(worker) for worker in workers} == {who for who, _ in gateway.beats}
                         - {pool_id})  # fmt: skip
        assert sum("waiting for a bus key" in line for line in pool.log) == 1


@pytest.mark.parametrize("confinement", ["auto", "off"])
def test_pool_takes_a_changed_key_and_gives_its_sandboxes_new_tickets(
    endpoint: str, cache_dir: Path, confinement: str
) -> None:
    path = Path(key_file_beside(endpoint))
    with PoolProcess(endpoint, cache_dir, "--confinement", confinement):
        with FakeGateway(endpoint) as gateway:
            gateway.wait_for_sandboxes()
            gateway.wait(lambda: bool(gateway.pools))
        path.unlink()
        with FakeGateway(endpoint) as gateway:
            key = make_bus_key(path)

            def admitted() -> bool:
                return any(
                    hello.credential == sandbox_ticket(key, worker, hello.pool)
                    for worker, hello in gateway.sandboxes.items()
                )

            gateway.wait(admitted)
            ((pool_id, hello),) = gateway.pools.items()
            assert hello.credential == pool_proof(key, pool_id)


@pytest.mark.parametrize("confinement", ["auto", "off"])
def test_pool_serves_a_gateway_that_was_restarted(endpoint: str, cache_dir: Path, confinement: str) -> None:
    with PoolProcess(endpoint, cache_dir, "--confinement", confinement) as pool:
        with FakeGateway(endpoint) as gateway:
            (worker,) = gateway.wait_for_sandboxes()
            run(gateway, worker, counter(gateway), Snapshot(1, 1, {}), *jobs(3), count=3)
            first_pid = pid(gateway, worker)
        with FakeGateway(endpoint) as gateway:
            (worker,) = gateway.wait_for_sandboxes()
            gateway.wait(lambda: bool(gateway.pools))
            assert (pid(gateway, worker) == first_pid) == (confinement == "off")
            # what the first gateway said is void for the second
            gateway.send(worker, *jobs(1, first=3))
            assert gateway.wait_for(Missing) == [Missing(3, "tool")]
            outcome = run(gateway, worker, counter(gateway), Snapshot(1, 1, {}), *jobs(1), count=1)[-1]
            assert isinstance(outcome, Completed)
        assert not pool.ended()


def test_pool_reports_and_replaces_a_sandbox_that_is_killed(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        gateway.send(worker, counter(gateway), Snapshot(1, 1, {}), *jobs(300))
        os.kill(pid(gateway, worker), signal.SIGKILL)
        killed_s = time.monotonic()
        assert gateway.wait_for(Exited) == [Exited(worker)]
        (successor,) = gateway.wait_for_sandboxes()
        # 0.2 s when this machine does nothing else
        assert time.monotonic() - killed_s < 3.0
        assert successor != worker
        assert isinstance(
            run(gateway, successor, counter(gateway), Snapshot(1, 1, {}), *jobs(1), count=1)[0], Completed
        )


def test_pool_heals_when_sandboxes_are_killed_again_and_again(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir, processes=2):
        killed: set[bytes] = set()
        for _ in range(6):
            gateway.wait(lambda: any(worker not in killed for worker in gateway.sandboxes))
            worker = next(worker for worker in gateway.sandboxes if worker not in killed)
            killed.add(worker)
            os.kill(pid(gateway, worker), signal.SIGKILL)
        gateway.wait(lambda: {exited.worker for exited in gateway.all(Exited)} == killed)
        gateway.wait_for_sandboxes(2)


def test_pool_takes_its_sandboxes_along_when_it_is_killed(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir, processes=2) as pool:
        workers = gateway.wait_for_sandboxes(2)
        pids = [pid(gateway, worker) for worker in workers]
        gateway.wait(lambda: sum("ready; confined" in line for line in pool.log) == 2)
        os.kill(pool.pid, signal.SIGKILL)
        gateway.wait(lambda: all(gone(number) for number in pids))


def test_pool_drains_and_exits_with_zero_when_terminated(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir) as pool:
        (worker,) = gateway.wait_for_sandboxes()
        gateway.send(worker, counter(gateway), Snapshot(1, 1, {}), *jobs(2_000))
        gateway.results(worker, 1)
        pool.terminate()
        gateway.wait(pool.ended)
        assert pool.process.returncode == 0
        gateway.wait(lambda: len(gateway.all(Goodbye)) == 3)
        assert [r.job for r in gateway.all(Result)] == list(range(2_000))
        said = [m for who, m in gateway.heard if who == worker and not isinstance(m, Result)]
        assert said[-2:] == [Goodbye(draining=True), Goodbye(draining=False)]
        assert gateway.all(Exited) == [Exited(worker)]


def test_pool_ends_when_terminated_without_a_gateway(endpoint: str, cache_dir: Path) -> None:
    with FakeGateway(endpoint) as gateway:
        pass
    with PoolProcess(endpoint, cache_dir) as pool:
        until_s = time.monotonic() + 10
        while not pool.logged("started")() and time.monotonic() < until_s:
            pool.process.poll()
        pool.terminate()
        assert pool.process.wait(10) == 0
    assert gateway.heard == []


def test_pool_kills_at_once_when_terminated_twice(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir) as pool:
        (worker,) = gateway.wait_for_sandboxes()
        spin = counter(gateway, entry="spin", deadline_ms=60_000)
        gateway.send(worker, spin, Snapshot(1, 1, {}), *jobs(1))
        gateway.wait(lambda: psutil.Process(pid(gateway, worker)).cpu_times().user > 0.4)
        pool.terminate()
        gateway.wait(pool.logged("stopping"))
        pool.terminate()
        gateway.wait(pool.ended)
        assert pool.process.returncode == 0


def test_sandbox_ends_a_guest_at_its_deadline_and_goes_on(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        spin = counter(gateway, entry="spin", deadline_ms=100)
        first, second = run(gateway, worker, spin, Snapshot(1, 1, {}), *jobs(2), count=2)
        for outcome in (first, second):
            assert isinstance(outcome, Failed)
            assert outcome.reason is Reason.TIMEOUT
            assert 80_000 <= outcome.usage.execution_us < 1_000_000


def test_sandbox_keeps_beating_while_a_long_job_runs(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        spin = counter(gateway, entry="spin", deadline_ms=2_000)
        gateway.send(worker, spin, Snapshot(1, 1, {}), *jobs(1))
        gateway.beats.clear()
        gateway.results(worker, 1)
        beats = [(who, m) for who, m in gateway.beats if isinstance(m, Heartbeat) and m.worker == worker]
        assert len(beats) >= 4
        # from a socket of its own
        assert all(who != worker and m.rss_bytes > 10_000_000 for who, m in beats)


def test_sandbox_leaves_and_is_replaced_when_the_gateway_drains_it(
    gateway: FakeGateway, cache_dir: Path
) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        gateway.send(worker, counter(gateway), Snapshot(1, 1, {}), *jobs(5), Drain())
        gateway.results(worker, 5)
        gateway.wait(lambda: gateway.all(Exited) == [Exited(worker)])
        assert gateway.wait_for_sandboxes() != [worker]


def test_sandbox_begins_anew_after_a_bad_frame(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        gateway.send(worker, counter(gateway), Snapshot(1, 1, {}))
        gateway.send_raw(worker, b"\xc1\xc1")
        gateway.wait(lambda: (worker, Goodbye(draining=False)) in gateway.heard)
        gateway.wait(lambda: sum(isinstance(m, Hello) for who, m in gateway.heard if who == worker) == 2)
        gateway.send(worker, *jobs(1))
        assert gateway.wait_for(Missing) == [Missing(0, "tool")]


def test_sandbox_skips_revoked_jobs(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir):
        (worker,) = gateway.wait_for_sandboxes()
        tool = counter(gateway)
        spin = counter(gateway, entry="spin", deadline_ms=300)
        blocker = Job(9_000, 2, 1, 0, -1, 2, b"{}", b"{}", 0.0, 1)
        spin = Tool(2, spin.digest, "wat", "spin", "spin", spin.limits, ())
        gateway.send(worker, tool, spin, Snapshot(2, 1, {}), blocker, Snapshot(1, 1, {}), *jobs(50))
        gateway.send(worker, Revoke(1, 1), Snapshot(1, 2, {}), *jobs(1, epoch=2))
        assert [r.job for r in gateway.results(worker, 2)] == [9_000, 0]


def test_sandbox_that_was_stopped_says_hello_when_it_goes_on(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir) as pool:
        (worker,) = gateway.wait_for_sandboxes()
        gateway.wait(pool.logged("ready; confined"))
        hellos = len([m for who, m in gateway.heard if who == worker and isinstance(m, Hello)])
        os.kill(pid(gateway, worker), signal.SIGSTOP)
        until_s = time.monotonic() + 1.5
        gateway.wait(lambda: time.monotonic() > until_s)
        os.kill(pid(gateway, worker), signal.SIGCONT)
        gateway.wait(
            lambda: len([m for who, m in gateway.heard if who == worker and isinstance(m, Hello)]) > hellos
        )


def test_pool_replaces_a_sandbox_that_has_run_enough_jobs_without_losing_one(
    gateway: FakeGateway, cache_dir: Path
) -> None:
    with PoolProcess(gateway.endpoint, cache_dir, "--max-jobs", "100"):
        (worker,) = gateway.wait_for_sandboxes()
        run(gateway, worker, counter(gateway), Snapshot(1, 1, {}), *jobs(200), count=200)
        gateway.wait(lambda: (worker, Goodbye(draining=True)) in gateway.heard)
        # its successor was there before it left
        assert len(gateway.sandboxes) == 2
        gateway.send(worker, *jobs(20, first=200))
        gateway.results(worker, 220)
        gateway.wait(lambda: gateway.all(Exited) == [Exited(worker)])


def test_sandbox_inherits_nothing_of_the_pools_environment(gateway: FakeGateway, cache_dir: Path) -> None:
    secret = {"PANELS_TEST_SECRET": "canary-7f3a"}
    with PoolProcess(gateway.endpoint, cache_dir, "--confinement", "off", environ=secret):
        (worker,) = gateway.wait_for_sandboxes()
        process = psutil.Process(pid(gateway, worker))
        assert set(process.environ()) == {"LANG", "PATH", "MALLOC_ARENA_MAX"}
        assert "canary" not in " ".join(process.cmdline())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_sandbox_of_a_pool_that_is_root_is_somebody_else(gateway: FakeGateway, cache_dir: Path) -> None:
    with PoolProcess(gateway.endpoint, cache_dir, "--confinement", "strict", "--user", "61234") as pool:
        (worker,) = gateway.wait_for_sandboxes()
        gateway.wait(pool.logged("ready; confined"))
        process = psutil.Process(pid(gateway, worker))
        assert set(process.uids()) == {61234}
        assert set(process.gids()) == {61234}
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "CapEff:\t0000000000000000" in status
        assert "Groups:\t \n" in status


def test_pool_refuses_a_cache_dir_that_it_cannot_make(endpoint: str, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with PoolProcess(endpoint, blocker / "cache") as pool:
        assert pool.process.wait(10) == Exit.BOOT
    assert any("cache-dir: expected" in line for line in pool.log)


def test_pool_trims_its_cache_at_the_start_and_keeps_what_it_prepares(
    gateway: FakeGateway, cache_dir: Path
) -> None:
    old = cache_dir / ("0" * 64)
    with old.open("wb") as file:
        file.truncate(MAX_CACHE_BYTES + 1)  # a hole: it takes no room
    os.utime(old, (1, 1))
    with PoolProcess(gateway.endpoint, cache_dir):
        gateway.wait_for_sandboxes()
        assert not old.exists()
        assert (cache_dir / gateway.prepare("wat", COUNTER, "handle").hex()).exists()


def test_pool_trims_after_preparations_and_never_what_it_has_just_prepared(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[frozenset[bytes]] = []
    monkeypatch.setattr(ArtifactStore, "trim", lambda self, *, keep: kept.append(keep))
    pool = Pool(PoolConfig(gateway=endpoint, processes=1, cache_dir=tmp_path))
    monkeypatch.setattr(pool._compiler, "collect", lambda now_s: [(b"d" * 32, None)])
    pool._collect(0.0)
    pool._shutdown()
    assert kept == [pool._compiler.pinned, pool._compiler.pinned | {b"d" * 32}]


def test_pool_kills_the_sandbox_that_the_gateway_names_and_counts_it(
    gateway: FakeGateway, cache_dir: Path
) -> None:
    with PoolProcess(gateway.endpoint, cache_dir, processes=2):
        first, second = gateway.wait_for_sandboxes(2)
        (pool,) = gateway.pools
        assert gateway.pools[pool].replaces
        gateway.send(pool, Replace(first))
        gateway.wait(lambda: (pool, Exited(first)) in gateway.heard)
        gateway.wait(lambda: len(gateway.sandboxes) == 2)
        assert first not in gateway.sandboxes
        assert not gone(pid(gateway, second))

        def report() -> PoolReport | None:
            beats = [beat for peer, beat in gateway.beats if peer == pool]
            return beats[-1].report if beats and isinstance(beats[-1], Heartbeat) else None

        gateway.wait(lambda: (told := report()) is not None and told.ready == 2 and told.started == 3)
        told = report()
        assert told is not None
        assert (told.processes, told.killed, told.crashed) == (2, 1, 0)
        assert told.rss_bytes > 10_000_000
        assert told.cpu_ms > 0
