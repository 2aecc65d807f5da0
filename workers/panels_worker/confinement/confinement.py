"""How a sandbox process locks itself in, layer by layer, in two steps around the start of its threads.

    before_threads   no_new_privs, rlimits, Landlock     Landlock binds a thread and those it starts
    (connect to the gateway)                             which needs what the next step takes away
    before_guests    user, dumpable, seccomp             nothing has been read from the gateway yet
    (say Hello, with the layers that are in force)

The outer wall is the WebAssembly engine; this one is for the day when a guest gets through it. What such a
guest finds: no files but compiled handlers, no new connections, no other process to signal or look at, no
program to start, no secret but the key that authenticates those handlers (which it cannot write).

What it does not protect against: using up CPU (the pool kills what hangs), lying to the gateway about its own
jobs, and bugs in the system calls that are left.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
from collections.abc import Callable
from typing import Final

from panels_shared.errors import PanelsError
from panels_shared.limits import MIB
from panels_worker.confinement import landlock, seccomp
from panels_worker.settings import SandboxConfig

logger = logging.getLogger("panels.worker.confinement")

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

#: The most bytes of the unnamed files by which the engine shares a module's data between instances.
_MAX_FILE_BYTES: Final = 128 * MIB
#: Descriptors beside those of loaded handlers: each that has data keeps such a file.
_MAX_OTHER_FILES: Final = 64


class ConfinementError(PanelsError):
    """Confinement is strict, and this system lacks a layer."""


class Confinement:
    """The layers of one process: which of them are ``active``, and which are ``missing``, with the reason."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self.active: list[str] = []
        self.missing: list[str] = []

    def follow_parent(self) -> None:
        """Makes this process die with the pool, in every mode."""
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._config.parent_pid:
            os._exit(0)  # the pool died before prctl took effect

    def before_threads(self) -> None:
        """The first step. Raises ``ConfinementError`` in strict mode when a layer is missing."""
        if self._config.confinement == "off":
            return
        self._layer("no_new_privs", lambda: prctl(_PR_SET_NO_NEW_PRIVS, 1))
        self._layer("rlimits", self._limit)
        self._layer("landlock", self._restrict)

    def before_guests(self) -> bool:
        """The second step; True when no connection can be made from now on. Raises ``ConfinementError``."""
        if self._config.confinement == "off":
            self.missing.append("everything (confinement is off)")
            return False
        if self._config.uid >= 0:
            self._layer("user", self._become)
        elif os.geteuid() == 0:
            self._refuse("user", "the pool is root and was not told whom to become")
        self._layer("dumpable", lambda: prctl(_PR_SET_DUMPABLE, 0))
        # changing user takes the parent's death signal away
        self.follow_parent()
        self._layer("seccomp", self._filter)
        return "seccomp" in self.active or "user" in self.active

    def summary(self) -> str:
        """Names the layers that are active, and those that are not."""
        if self._config.confinement == "off":
            return "nothing (confinement is off)"
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        return f"{', '.join(self.active)}{missing}"

    def _layer(self, name: str, apply: Callable[[], object]) -> None:
        try:
            apply()
        except OSError as exc:
            self._refuse(name, exc.strerror or type(exc).__name__)
        else:
            self.active.append(name)

    def _refuse(self, name: str, why: str) -> None:
        if self._config.confinement == "strict":
            raise ConfinementError(
                f"confinement: expected {name} on this system, got: {why}; "
                "give --confinement auto to go without"
            )
        self.missing.append(f"{name} ({why})")

    def _limit(self) -> None:
        for what, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, _MAX_OTHER_FILES + self._config.max_programs),
            (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
            # not RLIMIT_AS: each memory of a guest reserves 4 GiB of addresses, which cost nothing
            (resource.RLIMIT_DATA, self._config.data_bytes),
        ):
            _, hard = resource.getrlimit(what)
            limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (limit, limit))

    def _restrict(self) -> None:
        endpoint = self._config.endpoint
        port = int(endpoint.rpartition(":")[2]) if endpoint.startswith("tcp://") else None
        # the artifact store is where this process stands
        found = landlock.restrict(".", connect_port=port)
        if found < 6:
            self.missing.append(f"landlock's newer rights (the kernel has version {found}, of 6)")

    def _become(self) -> None:
        uid, gid = self._config.uid, self._config.gid
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    def _filter(self) -> None:
        instructions = self._config.seccomp_filter
        if instructions is None:
            raise OSError(0, "the pool could not build a filter")
        seccomp.load_filter(instructions)


def prctl(option: int, value: int) -> None:
    """prctl(2). Raises ``OSError``."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
