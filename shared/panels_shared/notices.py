"""What a program tells the service manager that started it, as sd_notify(3) has it. Pure: both sides send the
bytes by a socket of their own.

A manager that watches a program kills it when no ``WATCHDOG`` has come for as long as the manager said. So
the notice has to come from the loop that does the work, and from nothing that would go on without it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

READY: Final = b"READY=1"
STOPPING: Final = b"STOPPING=1"
WATCHDOG: Final = b"WATCHDOG=1"

#: The longest path of a Unix socket, in bytes (unix(7)).
_MAX_ADDRESS_BYTES: Final = 107
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def reloading(now_s: float) -> bytes:
    """That the configuration is being read again, at the monotonic time ``now_s``; ``READY`` ends it."""
    return b"RELOADING=1\nMONOTONIC_USEC=%d" % int(now_s * 1_000_000)


@dataclass(slots=True)
class Notices:
    """Where notices go, and when the next sign of life is due.

    ``address`` is that of a Unix datagram socket, None where nobody listens. ``interval_s`` is how often
    ``WATCHDOG`` is sent: half of what the manager waits; None where it does not watch.
    """

    address: str | None = None
    interval_s: float | None = None
    _next_s: float = 0.0

    @classmethod
    def take(cls, environ: MutableMapping[str, str], *, pid: int) -> Notices:
        """What ``environ`` says to the process ``pid``.

        Takes the variables out of it, so that no process that we start speaks for us. What makes no sense
        counts as not set: nobody would hear of an error.
        """
        address, pause, owner = (environ.pop(name, "") for name in _VARIABLES)
        if not address.startswith(("/", "@")) or not 1 < len(address.encode()) <= _MAX_ADDRESS_BYTES:
            return cls()
        watched = owner in ("", str(pid)) and pause.isascii() and pause.isdigit() and 0 < len(pause) <= 15
        return cls(
            address="\0" + address[1:] if address.startswith("@") else address,
            interval_s=int(pause) / 2_000_000 if watched and int(pause) else None,
        )

    @property
    def deadline_s(self) -> float | None:
        """When ``due`` wants to be called next; None for never."""
        return None if self.interval_s is None else self._next_s

    def due(self, now_s: float) -> bytes | None:
        """The sign of life, if it is time for one."""
        if self.interval_s is None or now_s < self._next_s:
            return None
        self._next_s = now_s + self.interval_s
        return WATCHDOG
