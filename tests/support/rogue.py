"""A compromised worker: a pool and a sandbox that speak the wire and mean ill.

It has the bus key, so it is admitted. It registers as the real ones do, says that every handler compiled,
beats, and answers each job with whatever ``behave`` makes of it. One thread owns both sockets; what other
threads have to say goes through ``say`` and ``say_raw``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import zmq

from panels_shared.buskey import key_file_beside, parse_bus_key, pool_proof, sandbox_ticket
from panels_shared.errors import WireError
from panels_shared.messages import Drain, Heartbeat, Hello, Job, Prepare, Prepared, ToGateway, ToWorker
from panels_shared.wire import decode_to_worker, encode

BEAT_S: Final = 0.3

Behaviour = Callable[[Job], Sequence[ToGateway]]


def silence(job: Job) -> Sequence[ToGateway]:
    """Takes the job and says nothing."""
    return ()


def bus_socket(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, identity: bytes) -> zmq.Socket[bytes]:
    """A DEALER that is connected to ``endpoint`` under ``identity``."""
    dealer = context.socket(zmq.DEALER)
    dealer.set(zmq.IDENTITY, identity)
    dealer.set(zmq.LINGER, 0)
    dealer.set(zmq.SNDHWM, 0)
    dealer.connect(endpoint)
    return dealer


def bus_key(endpoint: str) -> bytes:
    """The key that the gateway of an ipc endpoint has made."""
    path = key_file_beside(endpoint)
    return parse_bus_key(Path(path).read_bytes(), path=path)


def pool_hello(key: bytes, pool: bytes) -> Hello:
    """What a pool that has the key says first."""
    return Hello("pool", pool, os.getpid(), {}, pool_proof(key, pool))


def sandbox_hello(key: bytes, worker: bytes, pool: bytes) -> Hello:
    """What a sandbox of ``pool`` says first."""
    return Hello("sandbox", pool, os.getpid(), {}, sandbox_ticket(key, worker, pool))


@contextlib.contextmanager
def stranger(endpoint: str, identity: bytes | None = None) -> Iterator[zmq.Socket[bytes]]:
    """A bare socket on the bus that nobody was told of."""
    with zmq.Context() as context, bus_socket(context, endpoint, identity or os.urandom(16)) as dealer:
        yield dealer


@contextlib.contextmanager
def admitted(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """The socket of an admitted sandbox whose pool is not there, so that it is given no jobs."""
    worker = os.urandom(16)
    with stranger(endpoint, worker) as dealer:
        dealer.send(encode([sandbox_hello(bus_key(endpoint), worker, os.urandom(16))]))
        assert dealer.poll(10_000), "expected a Welcome"
        dealer.recv()
        yield dealer


class Rogue:
    """See the module's docstring. Use it as a context; ``jobs`` has every job it was sent, in order.

    ``key`` is the bus key; without it, it is read from where the gateway of an ipc endpoint keeps it.
    """

    def __init__(
        self,
        endpoint: str,
        behave: Behaviour = silence,
        *,
        beating: bool = True,
        key: bytes | None = None,
    ) -> None:
        self.behave = behave
        self.key = bus_key(endpoint) if key is None else key
        self.pool = os.urandom(16)
        self.sandbox = os.urandom(16)
        self.jobs: list[Job] = []
        self.heard: list[ToWorker] = []
        self._beating = beating
        self._outbound: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pool_socket = bus_socket(self._context, endpoint, self.pool)
        self._sandbox_socket = bus_socket(self._context, endpoint, self.sandbox)
        self._thread = threading.Thread(target=self._serve, name="rogue", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.vanish()

    def hello(self) -> Hello:
        """What the sandbox says first, and may say again."""
        return sandbox_hello(self.key, self.sandbox, self.pool)

    def vanish(self) -> None:
        """Ends without a word, as a killed process does. Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self._context.term()

    def say(self, *messages: ToGateway) -> None:
        """Has the sandbox send these in one frame."""
        self.say_raw(encode(messages))

    def say_raw(self, *parts: bytes) -> None:
        """Has the sandbox send these parts."""
        self._outbound.put(list(parts))

    def _serve(self) -> None:
        pool, sandbox = self._pool_socket, self._sandbox_socket
        poller = zmq.Poller()
        poller.register(pool, zmq.POLLIN)
        poller.register(sandbox, zmq.POLLIN)
        pool.send(encode([pool_hello(self.key, self.pool)]))
        sandbox.send(encode([self.hello()]))
        next_beat_s = 0.0
        while not self._stop.is_set():
            ready = dict(poller.poll(10))
            if pool in ready:
                self._prepare(pool)
            if sandbox in ready:
                self._work(sandbox)
            with contextlib.suppress(queue.Empty):
                while True:
                    sandbox.send_multipart(self._outbound.get_nowait())
            if self._beating and time.monotonic() > next_beat_s:
                next_beat_s = time.monotonic() + BEAT_S
                pool.send(encode([Heartbeat(self.pool, 0)]))
                sandbox.send(encode([Heartbeat(self.sandbox, 0)]))
        pool.close()
        sandbox.close()

    def _prepare(self, pool: zmq.Socket[bytes]) -> None:
        for message in _decode(pool.recv()):
            if isinstance(message, Prepare):
                pool.send(encode([Prepared(message.digest, None)]))

    def _work(self, sandbox: zmq.Socket[bytes]) -> None:
        for message in _decode(sandbox.recv()):
            self.heard.append(message)
            if isinstance(message, Drain):  # it is to go; a compromised one comes back
                sandbox.send(encode([self.hello()]))
            if isinstance(message, Job):
                self.jobs.append(message)
                answer = self.behave(message)
                if answer:
                    sandbox.send(encode(list(answer)))


def _decode(frame: bytes) -> list[ToWorker]:
    try:
        return decode_to_worker(frame)
    except WireError as exc:
        raise AssertionError(f"the gateway sent a bad frame: {exc}") from exc
