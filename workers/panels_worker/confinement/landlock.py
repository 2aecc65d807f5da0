"""Landlock for a sandbox: one folder to read, and one port to connect to. Applied while there is only one
thread.
"""

from __future__ import annotations

import os

from panels_shared import landlock
from panels_shared.landlock import version

__all__ = ["restrict", "version"]


def restrict(readable: str, *, connect_port: int | None) -> int:
    """Leaves this thread the files in folder ``readable``, to read, and TCP connections to ``connect_port``,
    if any.

    Returns the version of Landlock, as ``panels_shared.landlock.restrict``. ``no_new_privs`` must be set.
    Raises ``OSError``.
    """
    if not version():
        return landlock.restrict((), connect_ports=())  # which says that there is none
    folder = os.open(readable, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ports = () if connect_port is None else (connect_port,)
        return landlock.restrict([(folder, landlock.READ_FILE)], connect_ports=ports)
    finally:
        os.close(folder)
