"""A machine that misbehaves: files that were tampered with, folders that vanish, no file
descriptors, no disk, no time.
"""

from __future__ import annotations

import os
import resource
import secrets
import select
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from panels_shared.handlers import handler_digest
from tests.integration.guests import counter, returns, script, tool
from tests.support.clients import RawSocket, refused_status, upgrade_request
from tests.support.system import System, eventually, running_system
from tests.support.tokens import Issuer


@pytest.fixture(scope="module")
def cached() -> Iterator[System]:
    """A system with a cache of its own, that tests here may damage; its pool is replaced time and again."""
    with running_system(processes=1) as system:
        yield system


def artifacts(system: System) -> list[Path]:
    """The files in the cache, but for the key."""
    return sorted(path for path in system.cache_dir.rglob("*") if path.is_file() and path.name != "key")


def artifact(system: System, made: dict[str, Any]) -> Path:
    """The file of a tool that ``guests.tool`` made."""
    digest = handler_digest("wat", "handle", str(made["handler"]["source"]).encode())
    return system.cache_dir / digest.hex()


def flipped(content: bytes, at: float) -> bytes:
    """``content`` with one bit turned over, at this part of it."""
    position = min(len(content) - 1, int(len(content) * at))
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "replaced": lambda content: content[:33] + Path("/bin/true").read_bytes(),
    **{f"bit-{at}": partial(flipped, at=at) for at in (0.0, 0.0005, 0.002, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9,
    0.99, 1.0)},
}  # fmt: skip


def test_damaged_artifact_is_never_loaded_but_made_again(cached: System) -> None:
    asks = {kind: tool(kind, returns(secrets.token_hex(4))) for kind in [*DAMAGES, "linked", "gone"]}
    paths = {kind: artifact(cached, ask) for kind, ask in asks.items()}
    panel = cached.make_panel(*asks.values())
    with cached.connect(panel) as client:
        answers = {kind: client.call(kind) for kind in asks}
        assert cached.pool.stop() == 0
        for kind, damage in DAMAGES.items():
            paths[kind].write_bytes(damage(paths[kind].read_bytes()))
        paths["linked"].unlink()
        paths["linked"].symlink_to(paths["bit-0.5"])
        paths["gone"].unlink()
        cached.start_pool(processes=1)
        assert {kind: client.call(kind) for kind in asks} == answers
    assert cached.pool.text.count("not authentic") >= len(DAMAGES)


def test_damaged_script_engine_is_never_loaded_but_made_again(cached: System) -> None:
    panel = cached.make_panel(
        script("say", "return $args + 1"),
        script("typed", "return ($args as number) + 2", language="typescript"),
    )
    with cached.connect(panel) as client:
        assert (client.call("say", 1), client.call("typed", 1)) == (2, 3)
        assert cached.pool.stop() == 0
        for path in artifacts(cached):
            path.write_bytes(flipped(path.read_bytes(), 0.6))
        cached.start_pool(processes=1)
        assert (client.call("say", 1), client.call("typed", 1)) == (2, 3)


def test_artifacts_that_were_swapped_are_never_loaded(cached: System) -> None:
    """Each is authentic, but for another digest."""
    first, second = (
        tool("first", returns(secrets.token_hex(4))),
        tool("second", returns(secrets.token_hex(4))),
    )
    with cached.connect(cached.make_panel(first, second)) as client:
        answers = client.call("first"), client.call("second")
        assert cached.pool.stop() == 0
        one, other = artifact(cached, first), artifact(cached, second)
        a, b = one.read_bytes(), other.read_bytes()
        one.write_bytes(b)
        other.write_bytes(a)
        cached.start_pool(processes=1)
        assert (client.call("first"), client.call("second")) == answers


def test_cache_with_another_key_is_made_anew(cached: System) -> None:
    panel = cached.make_panel(tool("ask", returns("authentic")))
    with cached.connect(panel) as client:
        assert cached.pool.stop() == 0
        (cached.cache_dir / "key").write_bytes(secrets.token_bytes(32))
        cached.start_pool(processes=1)
        assert client.call("ask") == "authentic"


def test_cache_that_vanishes_from_under_the_workers_is_made_again(cached: System) -> None:
    panel = cached.make_panel(counter())
    with cached.connect(panel) as client:
        client.call("count")
        for path in artifacts(cached):
            path.unlink()
        assert client.call("count") == 2
        for process in cached.sandboxes():
            process.kill()
        assert client.call("count") == 3
        assert cached.post_panel(tool("new", returns(secrets.token_hex(4)))).status_code == 201


def test_full_disk_is_said_and_not_remembered_against_the_handler(cached: System) -> None:
    unique = secrets.token_hex(4)
    pool = psutil.Process(cached.pool.pid)
    hard = pool.rlimit(resource.RLIMIT_FSIZE)[1]
    pool.rlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        response = cached.post_panel(tool("ask", returns(unique)))
    finally:
        pool.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert response.status_code == 503, response.text
    with cached.connect(cached.make_panel(tool("ask", returns(unique)))) as client:
        assert client.call("ask") == unique


# -- the gateway's own resources ----------------------------------------------------------------------------


def test_gateway_without_file_descriptors_serves_who_is_there_and_recovers(cached: System) -> None:
    panel = cached.make_panel(counter())
    gateway = psutil.Process(cached.the_gateway().pid)
    hard = gateway.rlimit(resource.RLIMIT_NOFILE)[1]
    crowd: list[RawSocket] = []
    with cached.connect(panel) as client:
        gateway.rlimit(resource.RLIMIT_NOFILE, (gateway.num_fds() + 20, hard))
        try:
            for _ in range(60):
                raw = RawSocket.open(cached.port)
                crowd.append(raw)
                raw.send(upgrade_request(cached.socket_path(panel)))
            before = gateway.cpu_times()
            assert [client.call("count") for _ in range(50)] == list(range(1, 51))
            spent = gateway.cpu_times()
            assert spent.user + spent.system - before.user - before.system < 1.0
        finally:
            for raw in crowd:
                raw.socket.close()
            gateway.rlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with eventually(lambda: cached.connect(panel), what="a new client to be let in") as late:
            assert late.call("count") == 51
    eventually(lambda: cached.clients_of(panel) == 0)


def test_connections_above_the_limit_are_refused_and_others_are_served() -> None:
    with running_system(processes=1, gateway=["--max-connections", "20"]) as system:
        panel = system.make_panel(counter())
        with system.connect(panel) as client:
            system.close_http()
            crowd = [RawSocket.open(system.port) for _ in range(40)]
            for raw in crowd:
                raw.send(upgrade_request(system.socket_path(panel)))
            answers = [raw.read_head()[:12] for raw in crowd]
            assert client.call("count") == 1
            for raw in crowd:
                raw.socket.close()
        assert answers.count(b"HTTP/1.1 101") <= 20
        assert all(answer in (b"HTTP/1.1 101", b"HTTP/1.1 503", b"") for answer in answers), answers
        assert b"HTTP/1.1 503" in answers
        eventually(lambda: system.health() == 200)


def test_stopped_gateway_carries_on_where_it_was(cached: System) -> None:
    """SIGSTOP for longer than anyone's patience: workers and clients find their places again."""
    panel = cached.make_panel(counter())
    gateway = cached.the_gateway()
    with cached.connect(panel) as client:
        client.call("count")
        gateway.signal(signal.SIGSTOP)
        sent = [client.send_trigger("count") for _ in range(5)]
        assert not client_hears(client.connection.socket, 3.0)
        gateway.signal(signal.SIGCONT)
        assert [answer.value for answer in client.await_answers(sent)] == [2, 3, 4, 5, 6]
    assert cached.state(panel) == {"count": 6}


def client_hears(connection: socket.socket, timeout_s: float) -> bool:
    """Whether anything comes in that time: here the passing of time is the fault that is tested."""
    return bool(select.select([connection], [], [], timeout_s)[0])


def test_keys_are_read_again_on_sighup(cached: System) -> None:
    """Rotation: new tokens count at once, old ones no more, who is connected stays."""
    panel = cached.make_panel(counter())
    old, new = cached.issuer, Issuer()
    with cached.connect(panel) as client:
        (cached.folder / "secret").write_text(new.secret)
        cached.the_gateway().signal(signal.SIGHUP)
        eventually(lambda: _accepted(cached, panel, new.mint()), what="the new key to count")
        assert refused_status(lambda: cached.connect(panel, token=old.mint()))[0] == 401
        assert client.call("count") == 1
        (cached.folder / "secret").write_text("short")
        cached.the_gateway().signal(signal.SIGHUP)
        eventually(lambda: "expected a secret of at least" in cached.the_gateway().text)
        assert _accepted(cached, panel, new.mint())
        (cached.folder / "secret").write_text(old.secret)
        cached.the_gateway().signal(signal.SIGHUP)
        eventually(lambda: _accepted(cached, panel, old.mint()))
    assert new.secret not in cached.the_gateway().text


def _accepted(system: System, panel: str, token: str) -> bool:
    with system.http_client(token) as http:
        return http.get(f"/panels/{panel}").status_code == 200


def test_socket_of_the_bus_is_for_its_owner_alone(cached: System) -> None:
    mode = os.stat(cached.endpoint.removeprefix("ipc://")).st_mode & 0o777
    assert mode & 0o077 == 0


def test_sandboxes_hold_no_secret_and_no_other_socket(cached: System) -> None:
    for process in cached.sandboxes():
        environment = " ".join(f"{key}={value}" for key, value in process.environ().items())
        assert cached.issuer.secret not in environment
        assert "PANELS_JWT" not in environment
        assert not process.net_connections(kind="inet")
        assert not [
            file.path for file in process.open_files() if "secret" in file.path or "data" in file.path
        ]
