"""A sandbox process as the pool sees it: its handles, and what comes out of its pipes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import psutil

from panels_shared import loglines
from panels_shared.loglines import MAX_LINE_BYTES
from panels_shared.messages import WorkerId
from panels_worker import status
from panels_worker.status import Report

logger = logging.getLogger("panels.worker.sandbox")

#: The only variables of our environment that a sandbox gets.
ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "MALLOC_ARENA_MAX": "2"}
COMMAND: Final = (sys.executable, "-I", "-X", "utf8", "-m", "panels_worker.sandbox.process")

#: Bytes read from a pipe at once.
_READ_BYTES: Final = 65_536
#: Log text that a sandbox may write in its life, in bytes: a hostile one must not fill the disk.
MAX_LOG_BYTES: Final = 256 * 1024


class Child:
    """A running process. ``pidfd`` is readable once it has ended; ``reports_fd`` and ``log_fd`` when it has
    said something.

    Raises ``OSError`` when it cannot be started.
    """

    def __init__(self, worker: WorkerId, config: bytes, *, command: Sequence[str] = COMMAND) -> None:
        self.worker = worker
        self._name = worker.hex()[:16]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            process_group=0,  # Ctrl-C is for the pool, which then drains
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self.pid = self._process.pid
        self.reports_fd = self._process.stdout.fileno()
        self.log_fd = self._process.stderr.fileno()
        os.set_blocking(self.reports_fd, False)
        os.set_blocking(self.log_fd, False)
        self.pidfd = os.pidfd_open(self.pid)
        self._psutil = psutil.Process(self.pid)
        self._cpu_ms = 0
        self._reports = b""
        self._log = b""
        self._logged_bytes = 0
        try:
            # far below what a pipe holds, so it never waits
            self._process.stdin.write(config)
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already, as the pidfd will say

    def read_report(self) -> Report | None:
        """The newest report since the last call, if there is one."""
        data = _read(self.reports_fd)
        report, self._reports = status.decode_last(self._reports + data)
        return report

    def read_log(self) -> None:
        """Passes on what it wrote to its log."""
        data = _read(self.log_fd)
        if self._logged_bytes > MAX_LOG_BYTES:
            return
        self._logged_bytes += len(data)
        *lines, rest = (self._log + data).split(b"\n")
        self._log = rest[:MAX_LINE_BYTES]
        for line in lines:
            self._pass_on(line)
        if self._logged_bytes > MAX_LOG_BYTES:
            extra = {"worker": self._name, "pid": self.pid}
            logger.warning("the sandbox logs too much; the rest is dropped", extra=extra)

    def rss_bytes(self) -> int:
        """Its resident memory, measured from outside; 0 when it is gone."""
        try:
            return int(self._psutil.memory_info().rss)
        except psutil.Error:
            return 0

    def cpu_ms(self) -> int:
        """The CPU time that it has used, measured from outside; what was measured last when it is gone."""
        try:
            times = self._psutil.cpu_times()
        except psutil.Error:
            return self._cpu_ms
        self._cpu_ms = int((times.user + times.system) * 1000)
        return self._cpu_ms

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, by its pidfd, so that no other process with the same pid can get it."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def reap(self) -> int:
        """Its exit code (negative: a signal), once ``pidfd`` is readable. Closes all handles."""
        code = self._process.wait()
        self.read_log()
        if self._log:
            self._pass_on(self._log)
        os.close(self.pidfd)
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()
        return code

    def _pass_on(self, line: bytes) -> None:
        loglines.decode(line, logger=logger.name).write(worker=self._name, pid=self.pid)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return b""
