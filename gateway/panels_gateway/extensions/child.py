"""The extension process as the gateway holds it: started, spoken to, and ended.

One Unix socket pair carries frames, a pipe (its stdin) carries the configuration once, and another (its
stderr) carries its log. Its environment and working directory are constants: nothing of the gateway's, keys
least of all, is in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from panels_gateway.extensions import framing
from panels_gateway.extensions.messages import FromExtensions, ToExtensions
from panels_shared import loglines

logger = logging.getLogger("panels.extensions")

#: All that the process gets to know of our environment.
ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
COMMAND: Final = (sys.executable, "-I", "-X", "utf8", "-m", "panels_gateway.extensions")
#: Bytes read from the socket at once.
READ_BYTES: Final = 256 * 1024
#: Bytes that may wait for a process that does not read; above it, the process is killed. A security limit.
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
#: The longest line of its log, in bytes.
MAX_LINE_BYTES: Final = 64 * 1024
#: How long a killed process may take to be gone.
_REAP_S: Final = 5.0


class Child:
    """A running extension process.

    Use ``start`` to make one, then ``receive`` until it returns None, then ``end``.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        config: bytes,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._decoder = framing.from_extensions()
        # both run beside the conversation: a process that reads no configuration or writes no
        # end of log harms itself
        self._tasks = (
            asyncio.create_task(self._configure(config)),
            asyncio.create_task(self._pass_log_on()),
        )

    @classmethod
    async def start(cls, config: bytes, *, command: Sequence[str] = COMMAND) -> Child:
        """Starts ``command`` with the socket's number as its last argument. Raises ``OSError``."""
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(theirs.fileno()),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    env=ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C is for the gateway, which shuts down in its order
                    limit=MAX_LINE_BYTES,
                )
        except BaseException:
            ours.close()
            raise
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:  # a gateway that stops just now cancels
            ours.close()
            _kill_group(process)
            await process.wait()
            raise
        return cls(process, reader, writer, config)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, message: ToExtensions) -> None:
        """Sends, without waiting. Raises ``FrameError``. A process that leaves too much unread is killed."""
        self._writer.write(framing.encode(message))
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            logger.warning("the extension process does not read; it is killed")
            self.kill()

    async def receive(self) -> Sequence[FromExtensions] | None:
        """The next messages; None when it has closed the socket. Raises ``FrameError``."""
        try:
            data = await self._reader.read(READ_BYTES)
        except ConnectionError:
            return None
        return tuple(self._decoder.feed(data)) if data else None

    def kill(self) -> None:
        """Ends it at once, also when it is stopped, and whatever it has started in its process group."""
        _kill_group(self._process)

    async def end(self, *, grace_s: float) -> int:
        """Closes the socket, which asks it to end, and kills it after ``grace_s``.

        Its exit code, or minus the signal.
        """
        self._writer.close()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:  # also when this is cancelled: nothing of it may stay
            self.kill()
            code = await self._reap()
        return code

    async def _reap(self) -> int:
        try:
            async with asyncio.timeout(_REAP_S):
                code = await self._process.wait()
        except TimeoutError:  # asyncio waits for its pipes too, which what it started may hold
            code = self._process.returncode if self._process.returncode is not None else -signal.SIGKILL
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return code

    async def _configure(self, config: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(config)
            await self._process.stdin.drain()
            self._process.stdin.close()
        except ConnectionError:
            pass  # it is dead already, which the socket will say

    async def _pass_log_on(self) -> None:
        assert self._process.stderr
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # longer than the limit, and dropped
                continue
            if not line:
                return
            loglines.decode(line.rstrip(b"\n"), logger=logger.name).write(pid=self.pid)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return  # its number may be another's by now
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
