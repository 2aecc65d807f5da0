"""A real pool of workers in a process of its own, for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil


class PoolProcess:
    """``panels-worker`` as a context: killed, with everything it started, at the end.

    ``log`` is its stderr so far.
    """

    def __init__(
        self,
        endpoint: str,
        cache_dir: Path,
        *arguments: str,
        processes: int = 1,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.log: list[str] = []
        command = [
            *(sys.executable, "-m", "panels_worker", "--gateway", endpoint, "--cache-dir", str(cache_dir)),
            *("--processes", str(processes), "--log-level", "debug", "--log-format", "text", *arguments),
        ]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environ or {})}
        )
        assert self.process.stderr
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        family = self.family()
        self.process.kill()
        self.process.wait()
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        self._reader.join(5)

    @property
    def pid(self) -> int:
        return self.process.pid

    def family(self) -> list[psutil.Process]:
        """The processes that the pool has started and that still live."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def logged(self, text: str) -> Callable[[], bool]:
        """A question for ``FakeGateway.wait``: has ``text`` been logged?"""
        return lambda: any(text in line for line in list(self.log))

    def _read(self, stderr: IO[str]) -> None:
        with stderr:
            for line in stderr:
                self.log.append(line.rstrip())
