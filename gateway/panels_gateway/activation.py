"""A listening socket that a service manager made and hands over: socket activation, sd_listen_fds(3).

The manager keeps the socket open while the gateway is restarted, so that nobody is refused: whoever connects
meanwhile waits in the socket's queue.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from panels_shared.errors import ConfigError

#: The descriptor of the first socket that is handed over (SD_LISTEN_FDS_START).
FIRST_FD: Final = 3
_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited_listener(
    environ: MutableMapping[str, str], *, pid: int, first_fd: int = FIRST_FD
) -> socket.socket | None:
    """The socket for clients that the process ``pid`` was started with; None where there is none.

    Takes the variables out of ``environ`` and closes the descriptor at the next exec, so that no process
    that the gateway starts inherits either. The caller closes the socket. Raises ``ConfigError`` for
    anything but one TCP socket that listens.
    """
    count, owner = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_PID", "")
    for name in _VARIABLES:
        environ.pop(name, None)
    if not count or owner != str(pid):  # variables of a process that started ours without meaning it
        return None
    if count != "1":
        raise ConfigError(f"LISTEN_FDS: expected one socket to listen on, got {count[:20]!r}")
    try:
        os.set_inheritable(first_fd, False)
        listener = socket.socket(fileno=first_fd)
    except OSError as exc:
        raise ConfigError(
            f"LISTEN_FDS: expected a socket as descriptor {first_fd}, got: {exc.strerror}"
        ) from None
    try:
        _check(listener)
    except ConfigError:
        listener.close()
        raise
    return listener


def _check(listener: socket.socket) -> None:
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or listener.type != socket.SOCK_STREAM:
        raise ConfigError(
            "LISTEN_FDS: expected a TCP socket, got "
            f"{socket.AddressFamily(listener.family).name} {socket.SocketKind(listener.type).name}; "
            "give ListenStream= an address and a port"
        )
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError("LISTEN_FDS: expected a socket that listens, got a connection; set Accept=no")
