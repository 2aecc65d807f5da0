"""How the gateway tells the service manager that it is ready, stops, and is alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Generator

from panels_shared.notices import READY, Notices, reloading

_log = logging.getLogger("panels.gateway")


class Notifier:
    """Sends notices to where ``notices`` says, if anywhere. Never blocks, and never fails: a manager that
    cannot be told does what it does when it hears nothing.
    """

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    def say(self, notice: bytes) -> None:
        """Sends ``notice``."""
        if self._notices.address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(notice, self._notices.address)
        except OSError as exc:
            _log.warning("the service manager could not be told %s: %s", notice[:20], exc.strerror)

    @contextlib.contextmanager
    def reloading(self, now_s: float) -> Generator[None, None, None]:
        """Says that the configuration is read again, and afterwards that it has been."""
        self.say(reloading(now_s))
        try:
            yield
        finally:
            self.say(READY)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncGenerator[None, None]:
        """Signs of life for as long as the context lasts, from the loop that does everything else too: a loop
        that stands still sends none.
        """
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while (deadline_s := self._notices.deadline_s) is not None:
            await asyncio.sleep(deadline_s - loop.time())
            if (notice := self._notices.due(loop.time())) is not None:
                self.say(notice)
