"""Keeps compile children: at most a few at a time, each bounded, every request answered.

Queue: requests waiting for a child. Unit: handlers. Bound: ``max_waiting``. Overflow policy: refused as ``too_costly``, without being
remembered. The owner polls: ``filenos`` become readable when a child has ended, ``next_deadline`` says when to look again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from panels_shared.messages import Prepare, Refusal
from panels_worker.artifacts import Artifact, ArtifactStore, Kind
from panels_worker.compiling.compile import CPU_S, OUTPUT_BYTES
from panels_worker.javascript.engines import QUICKJS, TRANSFORM, engine_digest

logger = logging.getLogger(__name__)

#: Wall clock of one child. With the CPU limit of the child and two at a time, every answer comes within 6 s.
TIMEOUT_S: Final = 5.5
#: The same for an engine, which is ours: how long a busy machine may take for it.
ENGINE_TIMEOUT_S: Final = 240.0
#: A child that got less CPU than this in its time shows how busy the machine is, and nothing of its handler.
STARVED_S: Final = CPU_S / 2
MAX_REMEMBERED: Final = 4_096


#: What the scripts' languages are checked in.
_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "javascript": (QUICKJS,),
    "typescript": (QUICKJS, TRANSFORM),
}


@dataclass(frozen=True, slots=True)
class _Request:
    digest: bytes
    language: str
    entry: str
    source: bytes

    @property
    def engine(self) -> str:
        """The engine that this compiles, "" for a handler."""
        return self.entry if self.language == "engine" else ""


@dataclass(slots=True)
class _Child:
    request: _Request
    process: subprocess.Popen[bytes]
    pidfd: int
    output: int
    deadline_s: float
    starved: bool = False


class Compiler:
    """Prepares handlers into ``store``. Times are monotonic seconds, given by the owner."""

    def __init__(self, store: ArtifactStore, *, max_children: int = 2, max_waiting: int = 1_024) -> None:
        self._store = store
        self._max_children = max_children
        self._max_waiting = max_waiting
        self._waiting: deque[_Request] = deque()
        #: compiled engines, as descriptors of files in memory that children may read
        self._engines: dict[str, int] = {}
        self._children: dict[int, _Child] = {}
        self._refused: OrderedDict[bytes, Refusal] = OrderedDict()
        self._answers: list[tuple[bytes, Refusal | None]] = []

    def warm(self, now_s: float) -> None:
        """Prepares the script engines, so that the first script need not wait for them."""
        for name in (QUICKJS, TRANSFORM):
            self._want_engine(name)
        self._start(now_s)

    def submit(self, prepare: Prepare, now_s: float) -> None:
        """Takes a request; its answer comes from ``collect``, at once where it is known."""
        request = _Request(prepare.digest, prepare.language, prepare.entry, prepare.source)
        digest = request.digest
        if (refusal := self._refused.get(digest)) is not None:
            self._answers.append((digest, refusal))
        elif self._store.touch(digest):
            self._answers.append((digest, None))
        elif any(child.request.digest == digest for child in self._children.values()) or any(
            waiting.digest == digest for waiting in self._waiting
        ):
            return  # one answer serves both
        elif len(self._waiting) >= self._max_waiting:
            self._answers.append(
                (digest, Refusal("unavailable", "too many handlers wait to be compiled; try again"))
            )
        else:
            for name in _NEEDS.get(request.language, ()):
                self._want_engine(name)
            self._waiting.append(request)
            self._start(now_s)

    def collect(self, now_s: float) -> list[tuple[bytes, Refusal | None]]:
        """Answers that are there: (digest, None for prepared). Ends children that are over their time."""
        for pidfd, child in list(self._children.items()):
            if child.process.poll() is None:
                if now_s < child.deadline_s:
                    continue
                child.starved = _cpu_s(child.process.pid) < STARVED_S
                child.process.kill()
                child.process.wait()
            del self._children[pidfd]
            self._finish(child)
        self._start(now_s)
        answers, self._answers = self._answers, []
        return answers

    def filenos(self) -> list[int]:
        """Descriptors that become readable when a child has ended."""
        return list(self._children)

    def next_deadline(self) -> float | None:
        """When ``collect`` is to be called at the latest."""
        return min((child.deadline_s for child in self._children.values()), default=None)

    def close(self) -> None:
        """Kills the children."""
        for child in self._children.values():
            child.process.kill()
            child.process.wait()
            os.close(child.pidfd)
            os.close(child.output)
        self._children.clear()
        for descriptor in self._engines.values():
            os.close(descriptor)
        self._engines.clear()

    def _want_engine(self, name: str) -> None:
        """Makes an engine available: from the store, or by compiling it first."""
        digest = engine_digest(name)
        if name in self._engines or any(request.digest == digest for request in self._waiting):
            return
        if any(child.request.digest == digest for child in self._children.values()):
            return
        if not self._load_engine(name, digest):
            self._waiting.appendleft(_Request(digest, "engine", name, b""))

    def _load_engine(self, name: str, digest: bytes) -> bool:
        artifact = self._store.get(digest)
        if artifact is None:
            return False
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(artifact.payload)
        # children share it: none of them may change it
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        )
        self._engines[name] = descriptor
        return True

    def _next(self) -> _Request | None:
        """The first request whose engines are there, taken out of the queue."""
        for at, request in enumerate(self._waiting):
            if all(name in self._engines for name in _NEEDS.get(request.language, ())):
                del self._waiting[at]
                return request
        return None

    def _start(self, now_s: float) -> None:
        while len(self._children) < self._max_children and (request := self._next()) is not None:
            engines = {name: self._engines[name] for name in _NEEDS.get(request.language, ())}
            given = os.memfd_create("request", os.MFD_CLOEXEC)
            output = os.memfd_create("answer", os.MFD_CLOEXEC)
            try:
                packed = msgpack.packb([request.language, request.entry, request.source, engines])
                with open(given, "wb", closefd=False) as file:
                    file.write(packed)
                os.lseek(given, 0, os.SEEK_SET)
                process = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "panels_worker.compiling.compile",
                        *(["engine"] if request.engine else []),
                    ],
                    stdin=given,
                    stdout=output,
                    stderr=subprocess.DEVNULL,
                    env=_child_environment(),
                    start_new_session=True,
                    pass_fds=tuple(engines.values()),
                )
            except OSError:
                os.close(output)
                logger.exception("a compile child could not be started")
                self._answer(request, Refusal("unavailable", "the compiler could not be started"))
                continue
            finally:
                os.close(given)
            pidfd = os.pidfd_open(process.pid)
            timeout_s = ENGINE_TIMEOUT_S if request.engine else TIMEOUT_S
            self._children[pidfd] = _Child(request, process, pidfd, output, now_s + timeout_s)

    def _finish(self, child: _Child) -> None:
        request = child.request
        digest = request.digest
        code = child.process.returncode
        try:
            answer = _read_answer(child.output) if code == 0 else None
        finally:
            os.close(child.output)
            os.close(child.pidfd)
        match answer:
            case ["artifact", int(kind), bytes(payload)] if kind in (Kind.MODULE, Kind.SCRIPT):
                try:
                    self._store.put(digest, Artifact(Kind(kind), payload))
                except (OSError, ValueError) as exc:
                    logger.error("artifact %s could not be written: %s", digest.hex(), exc)
                    self._answer(request, Refusal("unavailable", "the compiled handler could not be stored"))
                    return
                self._answer(request, None)
            case ["refusal", str(word), str(message), int(line), int(column)]:
                self._answer(request, Refusal(word, message, line, column), remember=True)
            case _ if code in (1, 2):
                # an exception in the child is a defect of ours: it is said, but not remembered against the handler
                logger.error("a compile child ended with %d", code)
                self._answer(
                    request, Refusal("internal", "the compiler failed; the server's log has the detail")
                )
            case _ if child.starved:
                logger.warning("handler %s got too little CPU to be compiled in time", digest.hex())
                self._answer(
                    request, Refusal("unavailable", "the workers are too busy to compile it; try again")
                )
            case _:
                ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                logger.warning("handler %s is too costly to compile: %s", digest.hex(), ending)
                text = "expected a handler that compiles in 5 s of CPU and 512 MiB, got one that needs more"
                self._answer(request, Refusal("too_costly", text), remember=True)

    def _answer(self, request: _Request, refusal: Refusal | None, *, remember: bool = False) -> None:
        if request.engine:
            self._engine_done(request, refusal)
            return
        if refusal is not None and remember:
            self._refused[request.digest] = refusal
            while len(self._refused) > MAX_REMEMBERED:
                self._refused.popitem(last=False)
        self._answers.append((request.digest, refusal))

    def _engine_done(self, request: _Request, refusal: Refusal | None) -> None:
        if refusal is None and self._load_engine(request.engine, request.digest):
            return
        logger.error(
            "the script engine %s cannot be compiled: %s", request.engine, refusal and refusal.message
        )
        waiting, self._waiting = self._waiting, deque()
        for other in waiting:
            if request.engine in _NEEDS.get(other.language, ()):
                self._answers.append(
                    (other.digest, Refusal("unavailable", "the script engine could not be prepared"))
                )
            else:
                self._waiting.append(other)


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


def _child_environment() -> dict[str, str]:
    """Nothing of ours but what Python needs to find itself."""
    kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONDONTWRITEBYTECODE": "1"}
