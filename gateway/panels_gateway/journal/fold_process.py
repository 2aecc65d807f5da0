"""The folding process, as the gateway sees it: starts it, talks to it, and starts it again if it ends.

It reads positions from its standard input, one a line: everything up to that position lies in
segments that have ended. It writes positions to its standard output: everything up to that position
is folded and on the disk, beginning with the one that it found. It ends at the end of its input. Its
standard error is the gateway's.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from panels_gateway.journal.journal import JournalError

#: The exit code of a folding process that must not be started again: what it reads or writes is broken.
FINAL_CODE: Final = 74

#: A timer that is later than this says nothing about the folding process.
LATE_S: Final = 1.0

_logger = logging.getLogger("panels.gateway.journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a folding process that ended is started again: after ``initial_s``, doubled each
    time, at most ``maximum_s``.

    After ``attempts`` ends in a row without any progress it is not started again. One that says nothing for
    ``silence_s`` although there is something to fold is killed, which does not count as an attempt: it may be
    the disk that hangs.
    """

    initial_s: float = 0.1
    maximum_s: float = 5.0
    attempts: int = 8
    silence_s: float = 60.0

    def delay_s(self, failures: int) -> float:
        """How long to wait after the ``failures``-th end in a row, from 1."""
        return min(self.maximum_s, self.initial_s * 2.0 ** (failures - 1))


class FoldProcess:
    """Keeps one folding process running. ``on_folded`` and ``on_failed`` are called in the loop's thread.

    ``on_failed`` is called once at most; nothing is folded after that.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        on_folded: Callable[[int], None],
        on_failed: Callable[[JournalError], None],
        policy: RestartPolicy = RestartPolicy(),
    ) -> None:
        self._command = command
        self._on_folded = on_folded
        self._on_failed = on_failed
        self._policy = policy
        self._sealed = 0
        self._folded = -1
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._heard_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._hung = False
        self.starts = 0
        #: How many processes ended without being asked to.
        self.deaths = 0

    def start(self) -> None:
        """Starts the process, and starts it again whenever it ends, until ``stop``."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    @property
    def pid(self) -> int | None:
        """The process, None while none is running."""
        return self._process.pid if self._process is not None else None

    @property
    def silent_s(self) -> float:
        """For how long the process has said nothing although it has something to fold; 0.0 without that."""
        return self._now_s() - self._heard_s if self._owes else 0.0

    @property
    def _owes(self) -> bool:
        return max(self._folded, 0) < self._sealed

    def sealed(self, position: int) -> None:
        """Tells the process, and those started later, that everything up to ``position`` may be folded."""
        if not self._owes:
            self._heard_s = self._now_s()
        self._sealed = position
        self._tell()
        self._look()

    async def stop(self, *, grace_s: float = 10.0) -> None:
        """Ends the process: closes its input and, after ``grace_s``, kills it. Idempotent."""
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
        process, task = self._process, self._task
        if task is None:
            return
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
        done, _ = await asyncio.wait([task], timeout=grace_s)
        if not done:
            _logger.warning("the folding process did not end within %s s and is killed", grace_s)
            if self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.kill()
        await task

    def _tell(self) -> None:
        process = self._process
        if process is not None and self._sealed and not self._stopping.is_set():
            assert process.stdin is not None
            # a few bytes per segment, and the pipe is read between two folds, so there is
            # no need to wait for room
            with suppress(OSError):
                process.stdin.write(b"%d\n" % self._sealed)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    def _look(self) -> None:
        """Kills a process that hangs; looks again as long as there is something to fold."""
        if self._watch is not None or not self._owes or self._stopping.is_set():
            return
        left_s = self._policy.silence_s - self.silent_s
        process = self._process
        if left_s <= 0 and process is not None:
            _logger.error(
                "the folding process %d has said nothing for %.0f s, although there is something to fold, "
                "and is killed: it was stopped, or the disk hangs",
                process.pid,
                self.silent_s,
            )
            self._hung = True
            self._heard_s = self._now_s()
            left_s = self._policy.silence_s
            with suppress(ProcessLookupError):
                process.kill()
        wait_s = left_s if left_s > 0 else self._policy.silence_s
        self._watch = asyncio.get_running_loop().call_later(wait_s, self._look_again, self._now_s() + wait_s)

    def _look_again(self, due_s: float) -> None:
        self._watch = None
        if self._now_s() > due_s + LATE_S:
            # this process stood still, and has not read what was said meanwhile
            self._heard_s = self._now_s()
        self._look()

    async def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            before = self._folded
            code = await self._run()
            if self._stopping.is_set():
                return
            self.deaths += 1
            if self._hung:
                self._hung = False
            else:
                failures = 1 if self._folded > before >= 0 else failures + 1
            if code == FINAL_CODE or failures >= self._policy.attempts:
                self._on_failed(
                    JournalError(
                        "the folding process cannot go on: it ended with exit code "
                        f"{code} (attempt {failures})"
                    )
                )
                return
            delay_s = self._policy.delay_s(max(failures, 1))
            _logger.warning(
                "the folding process ended with exit code %s, starting it again in %s s", code, delay_s
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run(self) -> int | None:
        """Runs one process from start to end. Returns its exit code, None if it could not be started."""
        self.starts += 1
        try:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE)
        except OSError:
            _logger.exception("the folding process cannot be started")
            return None
        self._process = process
        self._heard_s = self._now_s()
        try:
            if self._stopping.is_set():
                assert process.stdin is not None
                process.stdin.close()
            self._tell()
            assert process.stdout is not None
            async for line in process.stdout:
                if not line.strip().isdigit():
                    _logger.warning("the folding process said %r, and is stopped", line[:80])
                    process.kill()
                    break
                self._heard_s = self._now_s()
                self._folded = max(self._folded, int(line))
                self._on_folded(self._folded)
            return await process.wait()
        finally:
            self._process = None
