"""A gateway of the simplest kind, for tests of workers: a ROUTER that welcomes everybody and
remembers what it heard.

Nothing happens between calls: tests say what they wait for, and the gateway reads, answers
Hello and beats meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import zmq

from panels_shared.buskey import BUS_KEY_BYTES, format_bus_key, key_file_beside, parse_bus_key
from panels_shared.handlers import handler_digest
from panels_shared.messages import (
    Exited,
    Goodbye,
    Heartbeat,
    Hello,
    Language,
    Prepare,
    Prepared,
    Result,
    ToGateway,
    ToWorker,
    Welcome,
)
from panels_shared.wire import decode_to_gateway, encode

M = TypeVar("M", bound=ToGateway)

#: No test waits longer, in seconds.
PATIENCE_S = 15.0
HEARTBEAT_MS = 200


def make_bus_key(path: Path) -> bytes:
    """A bus key in a file of its own, made if missing."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(format_bus_key(os.urandom(BUS_KEY_BYTES)))
    return parse_bus_key(path.read_bytes(), path=str(path))


class FakeGateway:
    """Use it as a context. ``heard`` has every message with the routing id it came from, in order. It makes
    the bus key of an ipc endpoint, as the real one does, and believes every Hello.

    ``curve`` is a key pair (public, secret); whoever knows the public one may connect.
    """

    def __init__(
        self, endpoint: str, *, welcoming: bool = True, curve: tuple[bytes, bytes] | None = None
    ) -> None:
        self.endpoint = endpoint
        if endpoint.startswith("ipc://"):
            make_bus_key(Path(key_file_beside(endpoint)))
        self.session = os.urandom(16)
        self.welcoming = welcoming
        self.heard: list[tuple[bytes, ToGateway]] = []
        #: Heartbeats are kept apart, for they come all the time.
        self.beats: list[tuple[bytes, ToGateway]] = []
        self.sandboxes: dict[bytes, Hello] = {}
        self.pools: dict[bytes, Hello] = {}
        self._next_beat_s = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        if curve is not None:
            self._socket.set(zmq.CURVE_SERVER, 1)
            self._socket.set(zmq.CURVE_PUBLICKEY, curve[0])
            self._socket.set(zmq.CURVE_SECRETKEY, curve[1])
        self._socket.bind(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, as if it had been killed."""
        if not self._socket.closed:
            self._socket.close(linger=0)
            self._context.term()

    def send(self, worker: bytes, *messages: ToWorker) -> None:
        self.send_raw(worker, encode(messages))

    def send_raw(self, worker: bytes, frame: bytes) -> None:
        self._socket.send_multipart([worker, frame])

    def pump(self, wait_ms: int = 20) -> None:
        """Reads what is there, or what comes within ``wait_ms``."""
        now_s = time.monotonic()
        if self.welcoming and now_s >= self._next_beat_s:
            self._next_beat_s = now_s + HEARTBEAT_MS / 1000
            for peer in [*self.sandboxes, *self.pools]:
                self._welcome(peer)
        if not self._socket.poll(wait_ms):
            return
        while self._socket.poll(0):
            peer, frame = self._socket.recv_multipart()
            for message in decode_to_gateway(frame):
                self._hear(peer, message)

    def wait(self, done: Callable[[], bool], *, seconds: float = PATIENCE_S) -> None:
        """Goes on until ``done``; fails the test after ``seconds``."""
        until_s = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until_s, f"waited {seconds} s; heard {self.heard[-20:]}"
            self.pump()

    def wait_for_sandboxes(self, count: int = 1, *, seconds: float = PATIENCE_S) -> list[bytes]:
        """The routing ids of ``count`` sandboxes that are there."""
        self.wait(lambda: len(self.sandboxes) >= count, seconds=seconds)
        return list(self.sandboxes)

    def wait_for(self, kind: type[M], *, seconds: float = PATIENCE_S, count: int = 1) -> list[M]:
        """All messages of ``kind``, once there are ``count``."""
        self.wait(lambda: len(self.all(kind)) >= count, seconds=seconds)
        return self.all(kind)

    def all(self, kind: type[M]) -> list[M]:
        return [message for _, message in self.heard if isinstance(message, kind)]

    def results(self, worker: bytes, count: int, *, seconds: float = PATIENCE_S) -> list[Result]:
        """The first ``count`` results of ``worker``."""

        def found() -> list[Result]:
            return [m for who, m in self.heard if who == worker and isinstance(m, Result)]

        self.wait(lambda: len(found()) >= count, seconds=seconds)
        return found()

    def prepare(self, language: Language, source: bytes, entry: str = "handle") -> bytes:
        """Has every pool prepare a handler; its digest."""
        digest = handler_digest(language, entry, source)
        self.wait(lambda: bool(self.pools))
        for pool in self.pools:
            self.send(pool, Prepare(digest, language, entry, source))
        self.wait(lambda: any(p.digest == digest for p in self.all(Prepared)))
        refusals = [p.refusal for p in self.all(Prepared) if p.digest == digest]
        assert refusals == [None] * len(refusals), refusals
        return digest

    def _hear(self, peer: bytes, message: ToGateway) -> None:
        self.heard.append((peer, message))
        if isinstance(message, Hello):
            (self.pools if message.role == "pool" else self.sandboxes)[peer] = message
            if self.welcoming:
                self._welcome(peer)
        elif isinstance(message, Goodbye) and not message.draining:
            self._lose(peer)
        elif isinstance(message, Exited):
            self._lose(message.worker)
        elif isinstance(message, Heartbeat):
            self.beats.append(self.heard.pop())

    def _welcome(self, peer: bytes) -> None:
        try:
            self.send(peer, Welcome(self.session, HEARTBEAT_MS))
        except zmq.ZMQError:  # it is gone: ROUTER_MANDATORY says so
            self._lose(peer)

    def _lose(self, peer: bytes) -> None:
        self.sandboxes.pop(peer, None)
        self.pools.pop(peer, None)


def spread(messages: Sequence[ToWorker], size: int) -> list[Sequence[ToWorker]]:
    """``messages`` in runs of ``size``."""
    return [messages[start : start + size] for start in range(0, len(messages), size)]
