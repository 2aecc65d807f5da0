"""The title of a process: what ``ps -o comm``, ``top`` and ``pstree`` show of it.

It says what the process is and how far it has come, in words that are ours alone. It never holds arguments,
names of panels or anything else that others have chosen, because every user of the machine can read it.
"""

from __future__ import annotations

import os
from typing import Final

#: The kernel keeps this many bytes, and cuts what is longer (prctl(2), PR_SET_NAME).
MAX_BYTES: Final = 15


def open_title() -> int:
    """A descriptor for ``write_title`` in this process, which works when /proc cannot be opened any more.
    -1 where there is none.
    """
    try:
        return os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def write_title(fd: int, title: str) -> None:
    """Gives this process a title, as far as the system lets it."""
    try:
        os.write(fd, title.encode()[:MAX_BYTES])
    except OSError:  # no /proc: nobody can look at titles either
        pass


def set_title(title: str) -> None:
    """Gives this process a title once."""
    fd = open_title()
    if fd >= 0:
        write_title(fd, title)
        os.close(fd)
