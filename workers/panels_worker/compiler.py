"""Keeps compile children: at most a few at a time, each bounded, every request answered.

Queue: requests waiting for a child. Unit: handlers. Bound: ``max_waiting``. Overflow policy: refused as ``too_costly``, without being
remembered. The owner polls: ``filenos`` become readable when a child has ended, ``next_deadline`` says when to look again.
"""

from __future__ import annotations

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
from panels_worker.compile import OUTPUT_BYTES

logger = logging.getLogger(__name__)

#: Wall clock of one child. With the CPU limit of the child and two at a time, every answer comes within 6 s.
TIMEOUT_S: Final = 5.5
MAX_REMEMBERED: Final = 4_096


@dataclass(slots=True)
class _Child:
    request: Prepare
    process: subprocess.Popen[bytes]
    pidfd: int
    output: int
    deadline_s: float


class Compiler:
    """Prepares handlers into ``store``. Times are monotonic seconds, given by the owner."""

    def __init__(self, store: ArtifactStore, *, max_children: int = 2, max_waiting: int = 1_024) -> None:
        self._store = store
        self._max_children = max_children
        self._max_waiting = max_waiting
        self._waiting: deque[Prepare] = deque()
        self._children: dict[int, _Child] = {}
        self._refused: OrderedDict[bytes, Refusal] = OrderedDict()
        self._answers: list[tuple[bytes, Refusal | None]] = []

    def submit(self, request: Prepare, now_s: float) -> None:
        """Takes a request; its answer comes from ``collect``, at once where it is known."""
        digest = request.digest
        if (refusal := self._refused.get(digest)) is not None:
            self._answers.append((digest, refusal))
        elif self._store.touch(digest):
            self._answers.append((digest, None))
        elif any(child.request.digest == digest for child in self._children.values()):
            return  # one answer serves both
        elif len(self._waiting) >= self._max_waiting:
            self._answers.append((digest, Refusal("unavailable", "too many handlers wait to be compiled; try again")))
        else:
            self._waiting.append(request)
            self._start(now_s)

    def collect(self, now_s: float) -> list[tuple[bytes, Refusal | None]]:
        """Answers that are there: (digest, None for prepared). Ends children that are over their time."""
        for pidfd, child in list(self._children.items()):
            if child.process.poll() is None:
                if now_s < child.deadline_s:
                    continue
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

    def _start(self, now_s: float) -> None:
        while self._waiting and len(self._children) < self._max_children:
            request = self._waiting.popleft()
            given = os.memfd_create("request", os.MFD_CLOEXEC)
            output = os.memfd_create("answer", os.MFD_CLOEXEC)
            try:
                packed = msgpack.packb([request.language, request.entry, request.source])
                with open(given, "wb", closefd=False) as file:
                    file.write(packed)
                os.lseek(given, 0, os.SEEK_SET)
                process = subprocess.Popen(
                    [sys.executable, "-m", "panels_worker.compile"],
                    stdin=given,
                    stdout=output,
                    stderr=subprocess.DEVNULL,
                    env=_child_environment(),
                    start_new_session=True,
                )
            except OSError:
                os.close(output)
                logger.exception("a compile child could not be started")
                self._answers.append((request.digest, Refusal("unavailable", "the compiler could not be started")))
                continue
            finally:
                os.close(given)
            pidfd = os.pidfd_open(process.pid)
            self._children[pidfd] = _Child(request, process, pidfd, output, now_s + TIMEOUT_S)

    def _finish(self, child: _Child) -> None:
        digest = child.request.digest
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
                except (OSError, ValueError):
                    logger.exception("an artifact could not be written")
                    self._answers.append((digest, Refusal("unavailable", "the compiled handler could not be stored")))
                    return
                self._answers.append((digest, None))
            case ["refusal", str(word), str(message), int(line), int(column)]:
                self._refuse(digest, Refusal(word, message, line, column))
            case _ if code in (1, 2):
                # an exception in the child is a defect of ours: it is said, but not remembered against the handler
                logger.error("a compile child ended with %d", code)
                self._answers.append((digest, Refusal("internal", "the compiler failed; the server's log has the detail")))
            case _:
                ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                logger.warning("handler %s is too costly to compile: %s", digest.hex(), ending)
                self._refuse(
                    digest,
                    Refusal("too_costly", "expected a handler that compiles in 5 s of CPU and 512 MiB, got one that needs more"),
                )

    def _refuse(self, digest: bytes, refusal: Refusal) -> None:
        self._refused[digest] = refusal
        while len(self._refused) > MAX_REMEMBERED:
            self._refused.popitem(last=False)
        self._answers.append((digest, refusal))


def _read_answer(descriptor: int) -> Any:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(OUTPUT_BYTES + 1)
    try:
        return msgpack.unpackb(data, max_bin_len=OUTPUT_BYTES)
    except (ValueError, msgpack.UnpackException):
        return None


def _child_environment() -> dict[str, str]:
    """Nothing of ours but what Python needs to find itself."""
    kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONDONTWRITEBYTECODE": "1"}
