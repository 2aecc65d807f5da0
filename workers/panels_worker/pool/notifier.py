"""How the pool tells the service manager that it is ready, stops, and is alive."""

from __future__ import annotations

import logging
import socket

from panels_shared.notices import Notices

logger = logging.getLogger("panels.worker.pool")


class Notifier:
    """Sends notices to where ``notices`` says, if anywhere. Never blocks, and never fails: a manager that
    cannot be told does what it does when it hears nothing.

    The owner calls ``beat`` in each turn of its loop, by ``deadline_s`` at the latest.
    """

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    @property
    def deadline_s(self) -> float | None:
        """When ``beat`` wants to be called next; None for never."""
        return self._notices.deadline_s

    def say(self, notice: bytes) -> None:
        """Sends ``notice``."""
        if self._notices.address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(notice, self._notices.address)
        except OSError as exc:
            logger.warning("the service manager could not be told %s: %s", notice[:20], exc.strerror)

    def beat(self, now_s: float) -> None:
        """Sends a sign of life, if it is time for one."""
        if (notice := self._notices.due(now_s)) is not None:
            self.say(notice)
