"""Landlock: limits what a thread, and all that it then starts, may do with files, TCP and processes.

Gateway and worker both lock processes of theirs in. This module reads and writes nothing: whoever calls it
opens the files and folders that stay, and it gives the calling thread's rights up. Numbers are from
linux/landlock.h. Landlock does not limit connecting to a Unix socket by its path, nor stat(2); seccomp does.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG: Final = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
#: What a folder needs so that files in it can be made, changed, moved and removed; without devices.
WRITE_FOLDER: Final = (
    WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | _TRUNCATE
)
#: What makes sense for something that is no folder; the kernel refuses more.
ON_FILES: Final = WRITE_FILE | READ_FILE | _TRUNCATE

#: File rights by the version that brought them.
_FS_RIGHTS: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_NET_BIND_CONNECT: Final = 0b11
_NET_CONNECT: Final = 0b10
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _NetPort(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def version() -> int:
    """The kernel's version of Landlock, 0 for none."""
    found = _libc().syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    return max(0, int(found))


def restrict(beneath: Sequence[tuple[int, int]], *, connect_ports: Sequence[int] | None) -> int:
    """Leaves this thread the files in ``beneath``: descriptors of files or folders, opened with O_PATH, each
    with the rights there and below. Leaves it TCP connections to ``connect_ports``; None limits no TCP.

    Returns the version of Landlock, which says how much is covered: files from 1, truncation from 3, TCP from
    4, signals to others and abstract unix sockets from 6. ``no_new_privs`` must be set. Raises ``OSError``.
    """
    libc = _libc()
    found = version()
    if not found:
        raise OSError(ctypes.get_errno(), "the kernel has no Landlock")
    rules = _Ruleset(fs=0, net=0, scoped=0)
    for since, rights in _FS_RIGHTS.items():
        if found >= since:
            rules.fs |= rights
    if found >= 4 and connect_ports is not None:
        rules.net = _NET_BIND_CONNECT
    if found >= 6:
        rules.scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS
    size = 24 if found >= 6 else 16 if found >= 4 else 8
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0))
    try:
        for descriptor, rights in beneath:
            path = _PathBeneath(rights & rules.fs, descriptor)
            _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(path), 0))
        for number in connect_ports or () if found >= 4 else ():
            port = _NetPort(_NET_CONNECT, number)
            _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_NET_PORT, ctypes.byref(port), 0))
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
