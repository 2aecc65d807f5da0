"""The loop of a sandbox process, on a thread, with fake programs and a fake gateway."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import zmq

from panels_shared.messages import Answered, Goodbye, Hello, Job, Prepare, Result, Snapshot, Tool
from panels_shared.outcome import Completed, Usage
from panels_worker.bus import link
from panels_worker.bus.peer import Peer
from panels_worker.guest.task import Execution, Task
from panels_worker.sandbox.loop import LARGE_FRAME_BYTES, Loop
from panels_worker.sandbox.replica import Replicas
from panels_worker.sandbox.sandbox import Sandbox
from panels_worker.sandbox.spin import Spin
from panels_worker.sandbox.ticker import Shared
from panels_worker.status import Exit
from tests.support.fake_gateway import FakeGateway
from tests.support.programs import FakeLoader, FunctionProgram

WORKER = b"w" * 16
TOOL = Tool(1, b"d", "wasm", "handle", "t", (1, 1, 1, 1, 1, 1, 1), ())


def jobs(count: int, *, first: int = 0) -> list[Job]:
    return [Job(first + i, 1, 1, first + i, first - 1, 1, b"1", b"{}", 0.0, 1) for i in range(count)]


class LoopThread:
    """A loop on a thread of its own. ``end`` is how it ended."""

    def __init__(self, endpoint: str, loader: FakeLoader, *, spin_us: float = 0.0) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.shared = Shared()
        self.end: Exit | None = None
        self._read_fd, self._write_fd = os.pipe()
        self._endpoint = endpoint
        self.sandbox = Sandbox(loader, replicas=Replicas())
        self._socket = link.connect(self.context, endpoint, WORKER, None)
        self._watch = link.watch(self._socket)
        hello = Hello("sandbox", b"p" * 16, os.getpid(), {})
        self.loop = Loop(
            self._socket,
            watch=self._watch,
            peer=Peer(lambda: hello, now_s=time.monotonic()),
            sandbox=self.sandbox,
            spin=Spin(spin_us),
            shared=self.shared,
            wakeup_fd=self._read_fd,
            can_reconnect=True,
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.end = self.loop.join() or self.loop.serve()
        link.close(self._socket, self.context, self._watch)

    def terminate(self) -> None:
        self.loop.terminating = True
        os.write(self._write_fd, b"x")

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def close(self) -> None:
        self.terminate()
        self._thread.join(10)
        assert self.ended()
        os.close(self._read_fd)
        os.close(self._write_fd)


@pytest.fixture
def endpoint() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="panels-")
    yield f"ipc://{folder}/s"
    shutil.rmtree(folder)


@pytest.fixture
def gateway(endpoint: str) -> Iterator[FakeGateway]:
    with FakeGateway(endpoint) as gateway:
        yield gateway


Start = Callable[..., LoopThread]


@pytest.fixture
def start(gateway: FakeGateway) -> Iterator[Start]:
    started: list[LoopThread] = []

    def start(program: object = None, *, spin_us: float = 0.0) -> LoopThread:
        loader = FakeLoader({b"d": program or FunctionProgram(no_change)})  # type: ignore[dict-item]
        thread = LoopThread(gateway.endpoint, loader, spin_us=spin_us)
        started.append(thread)
        gateway.wait_for_sandboxes()
        gateway.send(WORKER, TOOL, Snapshot(1, 1, {}))
        return thread

    yield start
    for thread in started:
        thread.close()


def no_change(state: Mapping[str, bytes], args: object) -> dict[str, bytes | None]:
    return {}


def test_loop_sends_results_in_batches_and_in_order(gateway: FakeGateway, start: Start) -> None:
    start()
    frames = 0
    receive = gateway._socket.recv_multipart

    def counted() -> list[bytes]:
        nonlocal frames
        frames += 1
        return receive()

    gateway._socket.recv_multipart = counted  # type: ignore[method-assign,assignment]
    gateway.send(WORKER, *jobs(160))
    assert [result.job for result in gateway.results(WORKER, 160)] == list(range(160))
    assert frames <= 40


class NeverSuspended:
    """Half of a program: what a test that resumes nothing does not use."""

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        raise AssertionError("nothing was suspended")


def test_loop_sends_a_large_batch_as_one_frame_per_result(gateway: FakeGateway, start: Start) -> None:
    class Large(NeverSuspended):
        def run(self, task: Task) -> Execution:
            return Execution(Completed(Usage(), b'"' + b"x" * (LARGE_FRAME_BYTES // 4) + b'"'), {})

    start(Large())
    gateway.send(WORKER, *jobs(8))
    assert [result.job for result in gateway.results(WORKER, 8)] == list(range(8))


@pytest.mark.parametrize("spin_us", [0.0, 500.0])
def test_loop_answers_one_job_at_a_time(gateway: FakeGateway, start: Start, spin_us: float) -> None:
    start(spin_us=spin_us)
    for number in range(50):
        gateway.send(WORKER, *jobs(1, first=number))
        gateway.results(WORKER, number + 1)


def test_loop_finishes_what_it_has_when_terminated(gateway: FakeGateway, start: Start) -> None:
    thread = start()
    gateway.send(WORKER, *jobs(500))
    gateway.results(WORKER, 1)
    thread.terminate()
    gateway.wait(thread.ended)
    assert thread.end is Exit.OK
    assert [result.job for result in gateway.results(WORKER, 500)] == list(range(500))
    gateway.wait(lambda: gateway.all(Goodbye) == [Goodbye(draining=True), Goodbye(draining=False)])


def test_loop_answers_and_ends_when_a_program_raises(gateway: FakeGateway, start: Start) -> None:
    class Defect(NeverSuspended):
        def run(self, task: Task) -> Execution:
            raise KeyError("ours")

    thread = start(Defect())
    gateway.send(WORKER, *jobs(3))
    gateway.wait(thread.ended)
    assert thread.end is Exit.DEFECT
    gateway.wait(lambda: gateway.all(Goodbye) == [Goodbye(draining=False)])
    assert [result.job for result in gateway.all(Result)] == [0]


def test_loop_begins_anew_after_a_message_that_no_gateway_sends(gateway: FakeGateway, start: Start) -> None:
    start()
    gateway.send(WORKER, Prepare(b"d", "wasm", "handle", b""))
    gateway.wait(lambda: len(gateway.all(Hello)) == 2)
    gateway.send(WORKER, TOOL, Snapshot(1, 1, {}), *jobs(1))
    gateway.results(WORKER, 1)


def test_loop_gives_up_a_gateway_that_speaks_another_language(gateway: FakeGateway, start: Start) -> None:
    thread = start()
    for _ in range(10):
        gateway.send_raw(WORKER, b"\xc1")
    gateway.wait(thread.ended)
    assert thread.end is Exit.PROTOCOL


def test_loop_that_cannot_reconnect_ends_when_the_gateway_is_gone(gateway: FakeGateway, start: Start) -> None:
    thread = start()
    gateway.send(WORKER, *jobs(1))
    gateway.results(WORKER, 1)
    thread.loop.can_reconnect = False
    gateway.close()
    until_s = time.monotonic() + 10
    while not thread.ended() and time.monotonic() < until_s:
        thread._thread.join(0.1)
    assert thread.end is Exit.LOST


def test_loop_waits_for_a_gateway_that_is_not_there(endpoint: str) -> None:
    thread = LoopThread(endpoint, FakeLoader())
    thread.terminate()
    thread.close()
    assert thread.end is Exit.OK


def test_loop_that_cannot_connect_again_ends_though_results_wait(gateway: FakeGateway, start: Start) -> None:
    """The gateway goes while a job runs: its result has nowhere to go, and must not keep the process here."""
    begun, gone = threading.Event(), threading.Event()

    def outlive(state: Mapping[str, bytes], args: object) -> dict[str, bytes | None]:
        begun.set()
        assert gone.wait(10)
        return {}

    thread = start(FunctionProgram(outlive))
    thread.loop.can_reconnect = False
    gateway.send(WORKER, *jobs(1))
    gateway.wait(begun.is_set)
    gateway.close()
    until_s = time.monotonic() + 10
    while int(thread._socket.get(zmq.EVENTS)) & zmq.POLLOUT and time.monotonic() < until_s:
        pass
    gone.set()
    thread._thread.join(20)
    assert thread.end is Exit.LOST


def test_loop_waits_for_a_connection_and_says_nothing(endpoint: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = link.connect(context, endpoint, WORKER, None)
    watch = link.watch(socket)
    read_fd, write_fd = os.pipe()
    loop = Loop(
        socket,
        watch=watch,
        peer=Peer(lambda: None, now_s=0.0),
        sandbox=Sandbox(FakeLoader({}), replicas=Replicas()),
        spin=Spin(0.0),
        shared=Shared(),
        wakeup_fd=read_fd,
        can_reconnect=True,
    )
    loop.terminating = True
    assert loop.connect() is Exit.OK
    loop.terminating = False
    with FakeGateway(endpoint) as gateway:
        assert loop.connect() is None
        gateway.pump()
        assert gateway.heard == []
    loop.can_reconnect = False
    assert loop.join() is Exit.LOST
    link.close(socket, context, watch)
    os.close(read_fd)
    os.close(write_fd)
