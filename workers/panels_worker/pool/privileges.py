"""The rights of sandboxes, as decided by the pool, which may be root."""

from __future__ import annotations

import logging
import os
import pwd
import stat
from pathlib import Path

from panels_shared.errors import ConfigError
from panels_worker.confinement.seccomp import build_filter
from panels_worker.settings import PoolConfig

logger = logging.getLogger("panels.worker.pool")


def sandbox_user(config: PoolConfig) -> tuple[int, int]:
    """The user that sandboxes become, as (uid, gid); (-1, -1) when they keep the pool's. Raises
    ``ConfigError``.
    """
    if os.geteuid() != 0 or config.confinement == "off":
        return -1, -1
    name = config.user
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if name.isdecimal() and 0 < int(name) < 2**31:
            return int(name), int(name)
        raise ConfigError(f"user: expected a user of this system, got {name[:40]!r}; give --user") from None
    if entry.pw_uid == 0:
        raise ConfigError("user: expected one that is not root, got root; give another --user")
    return entry.pw_uid, entry.pw_gid


def system_call_filter(config: PoolConfig) -> bytes | None:
    """The system call filter for all sandboxes; None where it is not wanted or cannot be built."""
    if config.confinement == "off":
        return None
    try:
        return build_filter()
    except OSError as exc:
        logger.warning("no system call filter: %s", exc.strerror)
        return None


def admit_group(folder: Path, gid: int) -> None:
    """Lets processes of group ``gid`` open files in ``folder``, but not list it. Does nothing for -1.

    Raises ``OSError``.
    """
    mode = folder.stat().st_mode
    if gid >= 0 and not mode & stat.S_IXOTH:
        os.chown(folder, -1, gid)
        folder.chmod(stat.S_IMODE(mode) | stat.S_IXGRP)
