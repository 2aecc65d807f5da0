"""Landlock: limits what a thread, and all that it then starts, may do with files, TCP and processes.

Applied while there is only one thread. Numbers are from linux/landlock.h. It does not limit connecting to a
Unix socket by its path, nor stat(2); seccomp does.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG: Final = 1
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2

_FS_READ_FILE: Final = 1 << 2
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


def restrict(readable: str, *, connect_port: int | None) -> int:
    """Leaves this thread the files in folder ``readable``, to read, and TCP connections to ``connect_port``,
    if any.

    Returns the version of Landlock, which says how much is covered: files from 1, TCP from 4, signals and
    abstract unix sockets from 6. ``no_new_privs`` must be set. Raises ``OSError``.
    """
    libc = _libc()
    found = version()
    if not found:
        raise OSError(ctypes.get_errno(), "the kernel has no Landlock")
    rules = _Ruleset(fs=0, net=0, scoped=0)
    for since, rights in _FS_RIGHTS.items():
        if found >= since:
            rules.fs |= rights
    if found >= 4:
        rules.net = _NET_BIND_CONNECT
    if found >= 6:
        rules.scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS
    size = 24 if found >= 6 else 16 if found >= 4 else 8
    ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0))
    try:
        folder = os.open(readable, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            beneath = _PathBeneath(_FS_READ_FILE, folder)
            _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(beneath), 0))
        finally:
            os.close(folder)
        if connect_port is not None and found >= 4:
            port = _NetPort(_NET_CONNECT, connect_port)
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
