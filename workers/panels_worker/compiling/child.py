"""One compile child: a disposable process that handles one request.

The request and the answer are files in memory, so neither process ever waits for the other. A child is
bounded by the limits that it sets itself (``compile``) and by a wall clock here.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from panels_shared.messages import Refusal
from panels_worker.artifacts import Artifact, Kind
from panels_worker.compiling.compile import CPU_S, OUTPUT_BYTES
from panels_worker.settings import ConfinementMode

logger = logging.getLogger("panels.worker.compiling")

#: Wall clock of one child. With the CPU limit of the child and two at a time, every answer comes within 6 s.
TIMEOUT_S: Final = 5.5
#: The same for an engine, which is ours: how long a busy machine may take for it.
ENGINE_TIMEOUT_S: Final = 240.0
#: A child that got less CPU than this in its time shows how busy the machine is and says nothing about its
#: handler.
STARVED_S: Final = CPU_S / 2


@dataclass(frozen=True, slots=True)
class Request:
    """A handler or an engine to compile. ``language`` is a handler's language, or ``engine`` with its name in
    ``entry``.
    """

    digest: bytes
    language: str
    entry: str
    source: bytes

    @property
    def engine(self) -> str:
        """The engine that this compiles, "" for a handler."""
        return self.entry if self.language == "engine" else ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a request: an artifact or a refusal. ``lasting`` refusals hold if the handler is tried
    again.
    """

    artifact: Artifact | None = None
    refusal: Refusal | None = None
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Jail:
    """How children that compile handlers lock themselves in: see ``confinement.compile_child``."""

    mode: ConfinementMode = "auto"
    uid: int = -1
    gid: int = -1


class CompileChild:
    """A running child. ``pidfd`` is readable once it has ended; from ``deadline_s`` on, ``finished`` ends it.

    ``engines`` maps names to descriptors, which the child inherits; ``jail`` says how it locks itself in.
    Raises ``OSError`` when it cannot be
    started; nothing is left open then. Call ``close`` exactly once, whatever became of it.
    ``cost_ms`` is the CPU time that it used, in milliseconds, once it has ended or was closed.
    """

    __slots__ = ("_output", "_process", "_starved", "cost_ms", "deadline_s", "pidfd", "request")

    def __init__(
        self, request: Request, engines: Mapping[str, int], now_s: float, jail: Jail | None = None
    ) -> None:
        self.request = request
        self.deadline_s = now_s + (ENGINE_TIMEOUT_S if request.engine else TIMEOUT_S)
        self._starved = False
        self.cost_ms = 0
        self._output = os.memfd_create("answer", os.MFD_CLOEXEC)
        try:
            self._process = _start(request, engines, self._output, jail or Jail())
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            os.close(self._output)
            raise

    def finished(self, now_s: float) -> bool:
        """Whether it has ended. A child that is over its time is killed, which ends it."""
        # its times can be read as long as nobody has waited for it
        if os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if now_s < self.deadline_s:
                return False
            self._kill()
            self._starved = self.cost_ms < STARVED_S * 1_000
        elif self._process.returncode is None:
            self.cost_ms = round(_cpu_s(self._process.pid) * 1_000)
            self._process.wait()
        return True

    def verdict(self) -> Verdict:
        """The answer of a finished child, or what its exit means."""
        code = self._process.returncode
        match _read_answer(self._output) if code == 0 else None:
            case ["artifact", int(kind), bytes(payload)] if kind in (Kind.MODULE, Kind.SCRIPT):
                return Verdict(Artifact(Kind(kind), payload))
            case ["refusal", str(word), str(message), int(line), int(column)]:
                return Verdict(refusal=Refusal(word, message, line, column), lasting=True)
            case _:
                return self._failure(code)

    def close(self) -> None:
        """Kills it if it still runs, and closes its descriptors."""
        if self._process.poll() is None:
            self._kill()
        os.close(self.pidfd)
        os.close(self._output)

    def _failure(self, code: int) -> Verdict:
        name = self.request.digest.hex()
        if code in (1, 2):
            # an exception in the child is a defect of ours: it is reported, but not held against the handler
            logger.error("a compile child ended with %d", code)
            text = "the compiler failed; the server's log has the detail"
            return Verdict(refusal=Refusal("internal", text))
        if self._starved:
            logger.warning("handler %s got too little CPU to be compiled in time", name)
            text = "the workers are too busy to compile it; try again"
            return Verdict(refusal=Refusal("unavailable", text))
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        logger.warning("handler %s is too costly to compile: %s", name, ending)
        text = "expected a handler that compiles in 5 s of CPU and 512 MiB, got one that needs more"
        return Verdict(refusal=Refusal("too_costly", text), lasting=True)

    def _kill(self) -> None:
        self.cost_ms = round(_cpu_s(self._process.pid) * 1_000)
        self._process.kill()
        self._process.wait()


def _start(request: Request, engines: Mapping[str, int], output: int, jail: Jail) -> subprocess.Popen[bytes]:
    given = os.memfd_create("request", os.MFD_CLOEXEC)
    try:
        with open(given, "wb", closefd=False) as file:
            file.write(msgpack.packb([request.language, request.entry, request.source, dict(engines)]))
        os.lseek(given, 0, os.SEEK_SET)
        handler = ["handler", jail.mode, str(jail.uid), str(jail.gid)]
        arguments = ["engine"] if request.engine else handler
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "panels_worker.compiling.compile", *arguments],
            stdin=given,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
            pass_fds=tuple(engines.values()),
        )
    finally:
        os.close(given)


def _read_answer(descriptor: int) -> Any:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(OUTPUT_BYTES + 1)
    try:
        return msgpack.unpackb(data, max_bin_len=OUTPUT_BYTES)
    except (ValueError, msgpack.UnpackException):
        return None


def _cpu_s(pid: int) -> float:
    """CPU time that a child, not yet waited for, has used."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        user, system = file.read().rpartition(b")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _environment() -> dict[str, str]:
    """The environment of a child: only what Python needs to find itself."""
    kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONDONTWRITEBYTECODE": "1"}
