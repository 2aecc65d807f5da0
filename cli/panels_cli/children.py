"""The programs that `panels up` runs: started by their console scripts, heard line by line, and stopped.

Threads: one for each child, which reads what it writes. Bound: a line is cut at ``MAX_LINE_BYTES``, and the
log file of a run at ``MAX_LOG_BYTES``. Shutdown: SIGTERM, then SIGKILL after ``GRACE_S``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from panels_cli.faults import CommandError

GRACE_S: Final = 15.0
MAX_LINE_BYTES: Final = 16 * 1024
MAX_LOG_BYTES: Final = 64 * 1024 * 1024
PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    # if this process is killed outright, its children are told to stop as well
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def program(name: str) -> str:
    """The console script ``name``: the one beside this program, else the one on PATH.

    Raises ``CommandError``.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise CommandError(f"{name} is not installed here; run: pip install panels-kernel")
    return found


class Child:
    """A running program. ``heard(name, line)`` is called in another thread for each line that it writes, and
    with None when it has ended.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, heard: Callable[[str, str | None], None]
    ) -> None:
        self.name = name
        self.log = log
        # PANELS_ variables of whoever runs this are about another installation
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
        self._process = subprocess.Popen(
            [program(name), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which then stops them in order
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, and no other thread holds a lock
        )
        self._heard = heard
        self._reader = threading.Thread(target=self._read, name=f"{name}-output", daemon=True)

    def listen(self) -> None:
        """Begins to hear it. Called once all children run, since a thread and a fork do not go together."""
        self._reader.start()

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        left = MAX_LOG_BYTES
        with self._process.stdout as output, self.log.open("wb", buffering=0) as log:
            while line := output.readline(MAX_LINE_BYTES):
                if left > 0:
                    log.write(line)
                    left -= len(line)
                self._heard(self.name, line.decode(errors="replace").rstrip("\n"))
        self._process.wait()
        self._heard(self.name, None)

    def stop(self) -> None:
        """Ends it: SIGTERM, and SIGKILL if it does not end in time."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
