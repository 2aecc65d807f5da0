"""Workers on another host: a gateway and a pool with nothing in common but a TCP port and the key files that
the operator has copied.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
import zmq

from panels_shared import wire
from tests.integration.guests import counter
from tests.integration.test_printed_commands import free_port
from tests.support.rogue import pool_hello, stranger
from tests.support.system import System, eventually

BUS_KEY = "0b" * 32 + "\n"
#: Pieces of this size and more hold handlers and states, and not greetings or heartbeats.
LARGE_BYTES = 400


class Relay:
    """Somebody between gateway and workers, who keeps all that passes, and changes a byte in each of the next
    ``to_change`` large pieces.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.seen = bytearray()
        self.to_change = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                worker, _ = self._listener.accept()
                gateway = socket.create_connection(self._target)
                for source, sink in ((worker, gateway), (gateway, worker)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := bytearray(source.recv(65_536)):
                self.seen += piece
                if self.to_change and len(piece) >= LARGE_BYTES:
                    self.to_change -= 1
                    piece[len(piece) // 2] ^= 1
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def write(path: Path, content: bytes | str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.fixture
def system(tmp_path: Path, cache_dir: Path) -> Iterator[System]:
    """Nothing runs yet. The gateway reads its keys from the folder ``a``, pools read theirs from ``b``."""
    (gateway_public, gateway_secret), (worker_public, worker_secret) = (
        zmq.curve_keypair(),
        zmq.curve_keypair(),
    )
    a, b = tmp_path / "a", tmp_path / "b"
    gateway = [
        f"--curve-secret-key-file={write(a / 'secret', gateway_secret)}",
        f"--curve-worker-keys-file={write(a / 'workers', worker_public)}",
        f"--bus-key-file={write(a / 'bus.key', BUS_KEY)}",
    ]
    pool = [
        f"--curve-secret-key-file={write(b / 'secret', worker_secret)}",
        f"--curve-server-key-file={write(b / 'gateway', gateway_public)}",
        f"--bus-key-file={write(b / 'bus.key', BUS_KEY)}",
        "--confinement=strict",
    ]
    with System(gateway=gateway, pool=pool, auth=False, cache_dir=cache_dir) as system:
        system.endpoint = f"tcp://127.0.0.1:{free_port()}"
        yield system


def test_pool_on_another_host_runs_handlers(system: System) -> None:
    system.start(processes=1)
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        assert client.call("count") == 1
    assert system.defects() == []


def test_pool_with_an_unknown_curve_key_is_refused_and_both_sides_say_so(
    system: System, tmp_path: Path
) -> None:
    public, secret = zmq.curve_keypair()
    write(tmp_path / "b" / "secret", secret)
    gateway = system.start_gateway()
    pool = system.start_pool(processes=1)
    assert pool.wait() == 78
    assert "refuses this pool's CURVE key" in pool.text
    assert public.decode() in gateway.text
    assert system.health() == 503


def test_pool_with_another_bus_key_is_given_nothing_and_both_sides_say_so(
    system: System, tmp_path: Path
) -> None:
    write(tmp_path / "b" / "bus.key", "0c" * 32 + "\n")
    gateway = system.start_gateway()
    pool = system.start_pool(processes=1)
    eventually(lambda: "has not welcomed this pool" in pool.text, within_s=30)
    assert "is not admitted" in gateway.text
    assert system.health() == 503


def start_behind_a_relay(system: System) -> Relay:
    """A gateway, and a pool that reaches it by the relay alone."""
    system.start_gateway()
    relay = Relay(system.endpoint)
    system.endpoint = relay.endpoint
    system.start_pool(processes=1)
    system.await_ready()
    return relay


def test_relay_between_gateway_and_pool_reads_nothing(system: System) -> None:
    with start_behind_a_relay(system) as relay:
        panel = system.make_panel(counter(), state={"count": 0, "secret": "a secret state"})
        with system.connect(panel) as client:
            assert client.call("count") == 1
    seen = bytes(relay.seen)
    assert len(seen) > LARGE_BYTES
    for text in (b"a secret state", b"(module", b"sandbox", bytes.fromhex(BUS_KEY)):
        assert text not in seen


def test_relay_that_changes_a_byte_ends_the_connection_and_no_trigger_is_lost(system: System) -> None:
    with start_behind_a_relay(system) as relay:
        panel = system.make_panel(counter(), state={"count": 0, "ballast": "b" * LARGE_BYTES})
        with system.connect(panel) as client:
            relay.to_change = 1
            assert [client.call("count") for _ in range(3)] == [1, 2, 3]
    assert relay.to_change == 0


def test_pool_without_curve_is_given_nothing(system: System) -> None:
    """Though it has the bus key."""
    system.start_gateway()
    pool = os.urandom(16)
    with (
        stranger(system.endpoint, pool) as dealer,
        dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as broken,
    ):
        dealer.send(wire.encode([pool_hello(bytes.fromhex(BUS_KEY), pool)]))
        assert broken.poll(20_000)
        assert not dealer.poll(0)
        dealer.disable_monitor()
    assert system.health() == 503
