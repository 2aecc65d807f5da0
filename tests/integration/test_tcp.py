"""Workers on another host: a gateway and a pool with nothing in common but a TCP port and the key files that
the operator has copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.integration.guests import counter
from tests.integration.test_printed_commands import free_port
from tests.support.system import System, eventually

BUS_KEY = "0b" * 32 + "\n"


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
