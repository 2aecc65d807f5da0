"""Starts a program with the rights that a unit gives it, as far as they can be had without systemd.

``python -m tests.support.unit_rights UNIT COMMAND...``, as root. In force are CapabilityBoundingSet=,
NoNewPrivileges=, RestrictAddressFamilies=, RestrictNamespaces=, RestrictRealtime=, MemoryDenyWriteExecute=,
SystemCallFilter= and UMask=. What concerns files, the network and users (Protect…=, Private…=, IPAddress…=,
User=) is not: it needs a service manager. Root without capabilities may do little more than another user.

A call that the filter does not let through ends the process, whatever SystemCallErrorNumber= says, unless it
is in ``TRIED``: what programs try and do without has to be known.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyseccomp as seccomp

from tests.support.unit import Unit

#: Calls that may fail. libuv asks for io_uring, and goes on with epoll; SQLite gives its files to their
#: directory's owner, but only as root, which the gateway is in a test and not in its unit.
TRIED: Final = ("io_uring_setup", "fchown")

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PROT_WRITE, _PROT_EXEC = 0x2, 0x4
#: The numbers of capabilities that units here name.
_CAPABILITIES: Final = {
    "CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7,
}  # fmt: skip
_CAP_SETPCAP, _LAST_CAPABILITY = 8, 40
_FAMILIES: Final = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
#: CLONE_NEW* of every kind: cgroup, uts, ipc, user, pid, net, mount, time.
_NAMESPACES: Final = (
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
    0x00020000,
    0x80,
)
#: SCHED_FIFO, SCHED_RR and SCHED_DEADLINE.
_REALTIME: Final = (1, 2, 6)


def confine(unit: Unit) -> None:
    """Gives up what ``unit`` does not give. Raises ``OSError``."""
    _bound_capabilities([_CAPABILITIES[name] for name in unit.all("CapabilityBoundingSet")])
    os.umask(int(unit.one("UMask") or "022", 8))
    if unit.on("NoNewPrivileges"):
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    restrictions = seccomp.SyscallFilter(defaction=seccomp.ALLOW)
    refuse = seccomp.ERRNO(errno.EPERM)
    _restrict_families(restrictions, sorted(_FAMILIES[name] for name in unit.all("RestrictAddressFamilies")))
    if unit.on("RestrictNamespaces"):
        # its flags are in memory, where a filter does not see them: libraries then use clone(2)
        restrictions.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
        restrictions.add_rule(refuse, "setns")
        for flag in _NAMESPACES:
            for name in ("clone", "unshare"):
                restrictions.add_rule(refuse, name, seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    if unit.on("RestrictRealtime"):
        for policy in _REALTIME:
            restrictions.add_rule(refuse, "sched_setscheduler", seccomp.Arg(1, seccomp.EQ, policy))
    if unit.on("MemoryDenyWriteExecute"):
        both = _PROT_WRITE | _PROT_EXEC
        restrictions.add_rule(refuse, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            restrictions.add_rule(refuse, name, seccomp.Arg(2, seccomp.MASKED_EQ, _PROT_EXEC, _PROT_EXEC))
    restrictions.load()
    calls = seccomp.SyscallFilter(defaction=seccomp.KILL_PROCESS)
    for name in sorted(unit.system_calls()):
        try:
            calls.add_rule(seccomp.ALLOW, name)
        except (OSError, ValueError):
            continue  # this machine has no such call
    for name in set(TRIED) - unit.system_calls():
        calls.add_rule(refuse, name)
    calls.load()


def _bound_capabilities(kept: Sequence[int]) -> None:
    """Drops all but these from what this process and those that it starts can ever have."""
    others = [number for number in range(_LAST_CAPABILITY + 1) if number not in (*kept, _CAP_SETPCAP)]
    # last the one that dropping needs
    for number in (*others, _CAP_SETPCAP):
        _prctl(_PR_CAPBSET_DROP, number)


def _restrict_families(filter_: seccomp.SyscallFilter, allowed: Sequence[int]) -> None:
    refuse = seccomp.ERRNO(errno.EAFNOSUPPORT)
    filter_.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.LT, allowed[0]))
    filter_.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.GT, allowed[-1]))
    for family in range(allowed[0], allowed[-1]):
        if family not in allowed:
            filter_.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


if __name__ == "__main__":
    confine(Unit.read(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])
