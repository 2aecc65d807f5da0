"""The processes under test: a gateway with workers, or the reference, started by command
line, and what CPU they use.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0


@dataclass(slots=True)
class System:
    """A server that is up.

    ``server`` is its process, ``workers`` the process that keeps the sandboxes, if any.
    """

    url: str
    name: str
    server: psutil.Process | None = None
    workers: psutil.Process | None = None
    token: str | None = None
    log: Path | None = None
    #: how the gateway keeps what is committed, "" where it is not ours or keeps nothing
    durability: str = ""
    data_dir: Path | None = None
    #: how the pool was started, to start another
    worker_command: list[str] = field(default_factory=list)

    def http(self, method: str, path: str, body: object = None) -> Any:
        """One HTTP request; the decoded body.

        Raises ``RuntimeError`` with the server's words when it is not 2xx.
        """
        text = self._request(method, path, None if body is None else json.dumps(body).encode())
        return json.loads(text) if text else None

    def text(self, path: str) -> str:
        """The body of a GET. Raises as ``http`` does."""
        return self._request("GET", path, None).decode()

    def _request(self, method: str, path: str, data: bytes | None) -> bytes:
        headers = {"content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as exc:
            raise RuntimeError(
                f"{method} {path}: {exc.code}: {exc.read()[:500].decode(errors='replace')}"
            ) from None

    def websocket_url(self, panel_id: str) -> str:
        """Where a panel's clients connect."""
        query = f"?token={self.token}" if self.token else ""
        return self.url.replace("http", "ws", 1) + f"/panels/{panel_id}/ws{query}"

    def server_cpu_s(self) -> float:
        """CPU seconds that the gateway's own threads have used."""
        return _cpu_s(self.server)

    def worker_cpu_s(self) -> float:
        """CPU seconds that the sandboxes have used, those that live now."""
        if self.workers is None:
            return 0.0
        return sum(_cpu_s(process) for process in self.workers.children(recursive=True))

    def server_rss_bytes(self) -> int:
        """Resident memory of the gateway."""
        return _rss_bytes(self.server)

    def worker_rss_bytes(self) -> int:
        """Resident memory of the pool and all sandboxes; pages that they share count in each."""
        if self.workers is None:
            return 0
        return sum(map(_rss_bytes, (self.workers, *self.workers.children(recursive=True))))


def _rss_bytes(process: psutil.Process | None) -> int:
    if process is None:
        return 0
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _cpu_s(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


@dataclass(slots=True)
class Options:
    """How a system is started.

    ``durability`` is the gateway's, and said with every figure. ``data_dir`` is a data directory that is
    there already, None for one that is made and removed. ``auth`` says how clients are known.
    """

    workers: int = 1
    durability: str = "process"
    data_dir: Path | None = None
    gateway_args: list[str] = field(default_factory=list)
    worker_args: list[str] = field(default_factory=list)
    auth: list[str] = field(default_factory=lambda: ["--no-auth"])


@contextlib.contextmanager
def panels(options: Options) -> Iterator[System]:
    """A gateway without authentication and one pool, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="panels-load-") as folder:
        port = free_port()
        endpoint = f"ipc://{folder}/workers.sock"
        log = Path(folder) / "gateway.log"
        data_dir = options.data_dir or Path(folder) / "data"
        gateway = [
            sys.executable,
            "-m",
            "panels_gateway",
            *options.auth,
            "--port",
            str(port),
            "--data-dir",
            str(data_dir),
            "--durability",
            options.durability,
        ]
        gateway += ["--workers-endpoint", endpoint, *options.gateway_args]
        cache = ROOT / ".panels" / "load-cache"
        worker = [sys.executable, "-m", "panels_worker", "--gateway", endpoint]
        worker += ["--processes", str(options.workers), "--cache-dir", str(cache), *options.worker_args]
        with log.open("wb") as out, _child(gateway, out) as server, _child(worker, out) as pool:
            system = System(
                f"http://127.0.0.1:{port}", "panels", psutil.Process(server.pid), psutil.Process(pool.pid)
            )
            system.log, system.worker_command = log, worker
            system.durability, system.data_dir = options.durability, data_dir
            try:
                _wait(system, [server, pool], lambda: system.http("GET", "/health"))
                yield system
            except BaseException:
                sys.stderr.write(log.read_text(errors="replace")[-4000:])
                raise


@contextlib.contextmanager
def reference() -> Iterator[System]:
    """The application that executes nothing, on the same server."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.reference.app:application", "--port", str(port)]
    command += ["--ws", "websockets-sansio", "--loop", "uvloop", "--log-level", "warning", "--no-access-log"]
    command += ["--ws-per-message-deflate", "false"]
    with tempfile.TemporaryFile() as out, _child(command, out) as server:
        system = System(f"http://127.0.0.1:{port}", "reference", psutil.Process(server.pid))
        _wait(system, [server], lambda: system.http("GET", "/"))
        yield system


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _child(command: list[str], out: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=out,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=os.environ.copy(),
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


def _wait(system: System, processes: list[subprocess.Popen[bytes]], probe: Any) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            probe()
        except (OSError, RuntimeError) as exc:
            for process in processes:
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{system.name}: process {process.args!r} ended with {process.returncode}"
                    ) from None
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{system.name} was not ready after {START_TIMEOUT_S:.0f} s: {exc}"
                ) from None
            time.sleep(0.05)
        else:
            return


def clear_cache() -> None:
    """Forgets compiled handlers of earlier load tests."""
    shutil.rmtree(ROOT / ".panels" / "load-cache", ignore_errors=True)
