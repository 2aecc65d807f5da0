"""A whole system of real processes: one gateway, pools of workers, and what a test wants of them.

Everything of a system lies in one short-named directory under /tmp (a Unix socket's path may have 107 bytes),
which goes when the system is closed, as does every process, those of a pool that was killed included. A child
also dies with the test process itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import psutil

from tests.support.clients import Client, RawSocket
from tests.support.tokens import Grants, Issuer

START_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 25.0
PR_SET_PDEATHSIG: Final = 1

#: Tests read logs as people do, although nobody sits in front of them.
READABLE: Final = {"PANELS_LOG_FORMAT": "text", "PANELS_WORKER_LOG_FORMAT": "text"}

_LISTENING: Final = re.compile(r"listening on http://[^ ]*?:(\d+)")
_libc = ctypes.CDLL(None)

T = TypeVar("T")

#: What a service manager does between fork and exec: the socket becomes descriptor 3, and says whose it is.
HAND_OVER: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


def eventually(look: Callable[[], T], *, within_s: float = 20.0, what: str = "") -> T:
    """The first true answer of ``look``. Raises ``AssertionError`` when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"expected {what or look} within {within_s:g} s, got {found!r}")
        time.sleep(0.01)


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Process:
    """A child of the test, and the file that holds everything it wrote."""

    name: str
    log: Path
    child: subprocess.Popen[bytes] = field(repr=False)

    @classmethod
    def start(
        cls,
        name: str,
        folder: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        under: Sequence[str] = (),
        descriptors: Sequence[int] = (),
    ) -> Self:
        """Starts ``python -m`` with ``arguments``; ``under`` is the command that is to start it, strace for
        instance, and ``descriptors`` are those that it inherits.
        """
        log = folder / f"{name}.log"
        # variables of whoever runs the tests are about another installation
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*under, sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**inherited, **READABLE, **(environment or {})},
                start_new_session=True,
                pass_fds=descriptors,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one system call
            )
        return cls(name, log, child)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def text(self) -> str:
        """All it has written."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.child.poll() is None

    def children(self) -> list[psutil.Process]:
        """Its descendants."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        living: list[psutil.Process] = []
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended meanwhile
                if process.status() != psutil.STATUS_ZOMBIE:
                    living.append(process)
        return living

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.child.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status. Raises ``AssertionError`` when it does not end."""
        try:
            return self.child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s:\n{self.tail()}") from None

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL to it alone: its children see what they make of it."""
        self.child.kill()
        self.child.wait()

    def tail(self, lines: int = 40) -> str:
        """The end of what it wrote, with long lines cut."""
        return "\n".join(line[:300] for line in self.text.splitlines()[-lines:])


class System:
    """A gateway and pools on one machine. Nothing runs until it is started; ``close`` ends all of it."""

    def __init__(
        self,
        *,
        gateway: Sequence[str] = (),
        pool: Sequence[str] = (),
        auth: bool = True,
        cache_dir: Path | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))
        # a pool that runs as root drops its rights, and its sandboxes have to reach the socket and the cache
        self.folder.chmod(0o755)
        self.issuer = Issuer()
        self.auth = auth
        self.port = 0
        self.endpoint = f"ipc://{self.folder}/w.sock"
        self.cache_dir = cache_dir or self.folder / "cache"
        self.gateway: Process | None = None
        self.pools: list[Process] = []
        self._gateway_arguments = tuple(gateway)
        self._pool_arguments = tuple(pool)
        self._everyone: dict[int, psutil.Process] = {}
        self._started = 0
        self._http: httpx.Client | None = None
        secret_file = self.folder / "secret"
        secret_file.touch(mode=0o600)
        secret_file.write_text(self.issuer.secret + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.report())
        self.close()

    # -- processes -----------------------------------------------------------------------------------

    def start(self, *, processes: int = 2) -> Self:
        """A gateway and a pool, ready to run jobs."""
        self.start_gateway(wait=False)
        self.start_pool(processes=processes)
        self.await_listening()
        self.await_ready()
        return self

    def start_gateway(
        self,
        *,
        wait: bool = True,
        under: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> Process:
        """Starts the gateway, by the command ``under`` if there is one; on the port it had, when it had one
        before.
        """
        arguments = ["panels_gateway", "--port", str(self.port), "--data-dir", str(self.folder / "data")]
        arguments += ["--workers-endpoint", self.endpoint]
        arguments += ["--jwt-secret-file", str(self.folder / "secret")] if self.auth else ["--no-auth"]
        self._started += 1
        name = f"gateway-{self._started}"
        self.gateway = Process.start(
            name,
            self.folder,
            [*arguments, *self._gateway_arguments],
            environment,
            under=under,
            descriptors=descriptors,
        )
        if wait:
            self.await_listening()
        return self.gateway

    def start_gateway_behind(self, listener: socket.socket) -> Process:
        """Starts the gateway with ``listener``, as a service manager does, and does not wait for it."""
        descriptor = listener.fileno()
        under = (sys.executable, "-c", HAND_OVER, str(descriptor))
        return self.start_gateway(wait=False, under=under, descriptors=[descriptor])

    def start_pool(
        self,
        *,
        processes: int = 2,
        under: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts another pool, by the command ``under`` if there is one."""
        arguments = ["panels_worker", "--gateway", self.endpoint, "--processes", str(processes)]
        arguments += ["--cache-dir", str(self.cache_dir), *self._pool_arguments]
        self._started += 1
        pool = Process.start(f"pool-{self._started}", self.folder, arguments, environment, under=under)
        self.pools.append(pool)
        return pool

    @property
    def pool(self) -> Process:
        """The pool that was started last."""
        return self.pools[-1]

    def the_gateway(self) -> Process:
        """The gateway; fails the test when it has not been started."""
        assert self.gateway is not None
        return self.gateway

    def await_listening(self) -> None:
        """Returns once the gateway answers requests."""
        gateway = self.the_gateway()

        def look() -> bool:
            if not gateway.running:
                raise AssertionError(f"the gateway ended with {gateway.child.returncode}:\n{gateway.tail()}")
            found = _LISTENING.search(gateway.text)
            if found is None:
                return False
            self.port = int(found[1])
            return self.health() is not None

        eventually(look, within_s=START_TIMEOUT_S, what="a gateway that listens")

    def health(self) -> int | None:
        """The status of /health, None when nobody answers."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=5, trust_env=False).status_code
        return None

    def await_ready(self) -> None:
        """Returns once a job can be run."""

        def look() -> bool:
            for pool in self.pools:
                if not pool.running and pool is self.pool:
                    raise AssertionError(f"the pool ended with {pool.child.returncode}:\n{pool.tail()}")
            return self.health() == 200

        eventually(look, within_s=START_TIMEOUT_S, what="/health to answer 200")

    def sandboxes(self) -> list[psutil.Process]:
        """The sandbox processes of all pools that run."""
        found = []
        for pool in self.pools:
            for process in pool.children():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    if any("sandbox" in word for word in process.cmdline()):
                        found.append(process)
        return found

    def kill_sandbox(self, which: int = 0) -> psutil.Process:
        """kill -9 of one sandbox process; that process."""
        victim = self.sandboxes()[which]
        victim.kill()
        return victim

    def processes(self) -> list[Process]:
        """The gateway and all pools, also those that have ended."""
        return [*([self.gateway] if self.gateway is not None else []), *self.pools]

    # -- clients -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base of the HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, *, grants: Grants | None = None, subject: str | None = "tester") -> str:
        """A good token."""
        return self.issuer.mint(subject, grants=grants)

    @property
    def http(self) -> httpx.Client:
        """The HTTP API with a token that may do everything."""
        if self._http is None:
            self._http = self.http_client(self.token() if self.auth else None)
        return self._http

    def close_http(self) -> None:
        """Closes the connections that ``http`` keeps open."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def http_client(self, token: str | None) -> httpx.Client:
        """The HTTP API with any token or none; the caller closes it."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=40, trust_env=False)

    def socket_url(self, panel: str) -> str:
        """Where a client of ``panel`` connects."""
        return f"ws://127.0.0.1:{self.port}/panels/{panel}/ws"

    def socket_path(self, panel: str) -> str:
        """The same as the target of a request, with a token where one is needed."""
        return f"/panels/{panel}/ws" + (f"?token={self.token()}" if self.auth else "")

    def connect(self, panel: str, *, token: str | None = None, **options: Any) -> Client:
        """A client of ``panel``, with a token that may do everything unless another is given."""
        chosen = token if token is not None or not self.auth else self.token()
        return Client.connect(self.socket_url(panel), token=chosen, **options)

    def connect_raw(self, panel: str, *, receive_buffer_bytes: int | None = None) -> RawSocket:
        """An upgraded socket that sends any bytes. Its CONNECTED is still to be read."""
        path = self.socket_path(panel)
        return RawSocket.upgraded(self.port, path, receive_buffer_bytes=receive_buffer_bytes)

    def make_panel(
        self,
        *tools: Mapping[str, object],
        state: Mapping[str, object] | None = None,
        panel_id: str | None = None,
        **fields: object,
    ) -> str:
        """Makes a panel with a name that no other has, and gives its id; fails the test
        when it is refused.
        """
        response = self.post_panel(*tools, state=state, panel_id=panel_id, **fields)
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def post_panel(
        self,
        *tools: Mapping[str, object],
        state: Mapping[str, object] | None = None,
        panel_id: str | None = None,
        **fields: object,
    ) -> httpx.Response:
        """What POST /panels answers to such a definition."""
        body: dict[str, object] = {
            "id": panel_id or f"t-{secrets.token_hex(6)}",
            "kind": "test",
            "tools": tools,
        }
        if state is not None:
            body["initialState"] = state
        return self.http.post("/panels", json={**body, **fields})

    def state(self, panel: str) -> dict[str, Any]:
        """The panel's state, as GET says."""
        return dict(self.http.get(f"/panels/{panel}/state").json()["state"])

    def seq(self, panel: str) -> int:
        """The panel's version, as GET says."""
        return int(self.http.get(f"/panels/{panel}/state").json()["seq"])

    def clients_of(self, panel: str) -> int:
        """How many clients the gateway counts in the panel."""
        return int(self.http.get(f"/panels/{panel}").json()["clients"])

    # -- the end -------------------------------------------------------------------------------------

    def report(self) -> str:
        """The end of every log."""
        return "\n".join(f"---- {process.name}\n{process.tail()}" for process in self.processes())

    def defects(self) -> list[str]:
        """Lines of the logs that no input may cause."""
        bad = re.compile(r"Traceback \(most recent|never retrieved|core dumped|Fatal Python|\bCRITICAL\b")
        return [
            f"{process.name}: {line[:300]}"
            for process in self.processes()
            for line in process.text.splitlines()
            if bad.search(line)
        ]

    def remember_children(self) -> None:
        """Notes who runs now, so that ``close`` finds those whose parent is gone by then."""
        for process in self.processes():
            for child in process.children():
                self._everyone[child.pid] = child

    def close(self) -> None:
        """Ends every process and removes the directory. Idempotent."""
        self.remember_children()
        self.close_http()
        for process in self.processes():
            if process.running:
                process.child.kill()
                process.child.wait()
        for child in self._everyone.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()  # psutil looks at the start time as well: never someone else's process
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_system(
    *,
    processes: int = 2,
    gateway: Sequence[str] = (),
    pool: Sequence[str] = (),
    auth: bool = True,
    cache_dir: Path | None = None,
) -> Iterator[System]:
    """A system that is ready; it must end without a defect in its logs."""
    with System(gateway=gateway, pool=pool, auth=auth, cache_dir=cache_dir) as system:
        if processes:
            system.start(processes=processes)
        else:
            system.start_gateway()
        yield system
        assert not system.defects(), "\n".join(system.defects()) + "\n" + system.report()
