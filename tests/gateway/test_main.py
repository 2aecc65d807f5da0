"""The command, as a process: start, signals, exit codes, and a log without tokens."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jwt
import pytest
import zmq
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from panels_gateway.commands.exits import EXIT_UNAVAILABLE
from panels_gateway.configuration.config import EXIT_CONFIG

FIRST, SECOND = "a" * 64, "b" * 64


class Gateway:
    """A gateway process and what it has logged."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        handle, name = tempfile.mkstemp(suffix=".log", dir=data_dir.parent)
        self.log_file = Path(name)
        with open(handle, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "panels_gateway", "--port=0", f"--data-dir={data_dir}", *flags],
                stderr=log,
                stdout=log,
                env={"PATH": os.environ["PATH"], "PANELS_LOG_FORMAT": "text"},
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def await_log(self, pattern: str) -> re.Match[str]:
        """Waits for a line that only the log can tell of."""
        give_up = time.monotonic() + 20
        while (found := re.search(pattern, self.log)) is None:
            if self.process.poll() is not None or time.monotonic() > give_up:
                raise AssertionError(f"no {pattern} in the log:\n{self.log}")
            time.sleep(0.02)
        return found

    @property
    def url(self) -> str:
        return self.await_log(r"listening on (http://\S+);")[1]

    def finish(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(15)


@contextmanager
def gateway(data_dir: Path, *flags: str) -> Iterator[Gateway]:
    running = Gateway(data_dir, *flags)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(FIRST)
    return path


def make_token(secret: str, **claims: object) -> str:
    return jwt.encode({"exp": time.time() + 60, **claims}, secret, algorithm="HS256")


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {make_token(secret)}"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_serves_and_exits_0_when_told_to_stop(tmp_path: Path, number: int) -> None:
    with gateway(tmp_path / "data", "--no-auth") as running:
        response = httpx.get(f"{running.url}/health")
        assert (response.status_code, response.json()["status"]) == (503, "unavailable")
        assert "server" not in response.headers
        running.process.send_signal(signal.SIGHUP)
        assert httpx.get(f"{running.url}/health").status_code == 503
        assert running.finish(number) == 0
        assert "authentication is off" in running.log
        assert "Traceback" not in running.log


def test_command_makes_its_directory_and_socket_for_its_user_alone(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", "--no-auth") as running:
        assert running.url
        assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "data" / "workers.sock").stat().st_mode & 0o177 == 0


def test_command_refuses_a_directory_that_another_gateway_uses(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", "--no-auth") as first:
        assert first.url
        with gateway(tmp_path / "data", "--no-auth", f"--workers-endpoint=ipc://{tmp_path}/other") as second:
            assert second.process.wait(15) == EXIT_UNAVAILABLE
            assert "in use by another gateway" in second.log
            assert second.log.count("\n") == 1
        assert httpx.get(f"{first.url}/health").status_code == 503


def test_command_starts_again_after_it_was_killed(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", "--no-auth") as first:
        assert first.url
        first.finish(signal.SIGKILL)
    with gateway(tmp_path / "data", "--no-auth") as second:
        assert httpx.get(f"{second.url}/health").status_code == 503


def test_command_refuses_a_port_that_is_in_use(tmp_path: Path) -> None:
    with gateway(tmp_path / "one", "--no-auth") as first:
        port = first.url.rpartition(":")[2]
        with gateway(tmp_path / "two", "--no-auth", f"--port={port}") as second:
            assert second.process.wait(15) == EXIT_UNAVAILABLE
            assert f"port {port}" in second.log
            assert second.log.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--no-auth", "--host=300.1.1.1"], "host: expected an address"),
        (["--jwt-secret-file=/nowhere/secret"], "jwt-secret-file: expected a readable file"),
        (["--no-auth", "--data-dir=/proc/panels"], "data-dir: expected a directory"),
        (
            [
                "--no-auth",
                "--workers-endpoint=tcp://127.0.0.1:9",
                "--curve-secret-key-file=/dev/null",
                "--curve-worker-keys-file=/dev/null",
                "--bus-key-file=/dev/null",
            ],
            "curve-secret-key-file: expected",
        ),
    ],
)
def test_command_refuses_what_it_finds_wrong_only_when_it_starts(
    tmp_path: Path, flags: list[str], expected: str
) -> None:
    with gateway(tmp_path / "data", *flags) as running:
        assert running.process.wait(15) == EXIT_CONFIG
        assert running.log.startswith(f"panels-gateway: {expected}")
        assert running.log.count("\n") == 1


def test_command_reads_keys_again_on_sighup(tmp_path: Path, secret_file: Path) -> None:
    with gateway(tmp_path / "data", f"--jwt-secret-file={secret_file}") as running:
        url = f"{running.url}/panels"
        assert httpx.get(url, headers=bearer(FIRST)).status_code == 200
        assert httpx.get(url, headers=bearer(SECOND)).status_code == 401
        secret_file.write_text(SECOND)
        running.process.send_signal(signal.SIGHUP)
        running.await_log("keys read again")
        assert httpx.get(url, headers=bearer(FIRST)).status_code == 401
        assert httpx.get(url, headers=bearer(SECOND)).status_code == 200
        secret_file.write_text("short")
        running.process.send_signal(signal.SIGHUP)
        running.await_log("keys not read again")
        assert httpx.get(url, headers=bearer(SECOND)).status_code == 200


def test_command_logs_no_token_at_any_level(tmp_path: Path, secret_file: Path) -> None:
    with gateway(tmp_path / "data", f"--jwt-secret-file={secret_file}", "--log-level=debug") as running:
        url = running.url
        tokens = [make_token(FIRST, sub="canary"), make_token(SECOND, sub="canary"), "canary-nonsense"]
        for token in tokens:
            for path in ("/panels", "/panels/p", "/nowhere"):
                httpx.get(url + path, params={"token": token})
                httpx.get(url + path, headers={"authorization": f"Bearer {token}"})
            for path in (f"/panels/p/ws?token={token}", f"/x/ws?token={token}"):
                with pytest.raises(InvalidStatus):
                    connect(url.replace("http", "ws") + path)
            httpx.get(url + "/panels", params={"token": token}, headers={"x": "y" * 9_000})
        assert running.finish() == 0
        for token in tokens:
            assert token not in running.log
            assert all(part not in running.log for part in token.split(".")[1:])


def test_command_serves_workers_over_tcp_with_curve_keys(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(zmq.curve_keypair()[1])
    (tmp_path / "workers").write_bytes(b"# a worker\n" + zmq.curve_keypair()[0] + b"\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "bus").touch(mode=0o600)
    (tmp_path / "bus").write_bytes(b"0a" * 32 + b"\n")
    flags = [
        "--no-auth",
        f"--bus-key-file={tmp_path / 'bus'}",
        f"--workers-endpoint=tcp://127.0.0.1:{port}",
        f"--curve-secret-key-file={tmp_path / 'secret'}",
        f"--curve-worker-keys-file={tmp_path / 'workers'}",
    ]
    with gateway(tmp_path / "data", *flags) as running:
        assert running.url
        assert running.finish() == 0


def test_second_signal_hurries(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", "--no-auth", "--shutdown-grace-s=60") as running:
        url = running.url

        async def half_a_request() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"POST /panels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
            await writer.drain()
            running.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(running.await_log, "stopping")
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.process.wait, 5) == 0
            writer.close()

        asyncio.run(half_a_request())


def test_command_serves_administrators_at_a_port_of_their_own(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", "--no-auth", "--admin-listen=127.0.0.1:0") as running:
        host, port = running.await_log(r"serving /metrics and /health at (\S+) port (\d+)").groups()
        admin = f"http://{host}:{port}"
        assert "panels_info" in httpx.get(f"{admin}/metrics").text
        assert "journal" in httpx.get(f"{admin}/health").json()
        assert httpx.get(f"{admin}/panels").status_code == 404
        assert httpx.get(f"{running.url}/metrics").status_code == 404
        assert running.finish() == 0
        assert "Traceback" not in running.log


def test_command_refuses_an_address_for_administrators_that_is_in_use(tmp_path: Path) -> None:
    with gateway(tmp_path / "one", "--no-auth") as first:
        port = first.url.rpartition(":")[2]
        flags = ("--no-auth", f"--admin-listen=127.0.0.1:{port}")
        with gateway(tmp_path / "two", *flags) as second:
            assert second.process.wait(15) == EXIT_UNAVAILABLE
            assert "give another --admin-listen" in second.log
