"""Putting files and the names of files on the disk, so that they survive a loss of power.

Never for the database: closing any descriptor of it drops the locks of all connections that this process has
to it (POSIX), and SQLite then reads an old state without noticing.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Puts the names in ``folder`` on the disk. Raises ``OSError``."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Puts the content of the file at ``path`` on the disk, whoever wrote it. Raises ``OSError``."""
    _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
