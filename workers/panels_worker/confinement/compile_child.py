"""How a compile child locks itself in, before it looks at what a stranger wrote.

It has imported what it needs by then, and has its descriptors: nothing is left for it to open, connect to, or
start. The pool's own user, keys and cache are out of its reach, as is the bus.
"""

from __future__ import annotations

import os
from typing import Final

from panels_shared import landlock
from panels_worker.confinement.confinement import ConfinementError, prctl
from panels_worker.settings import ConfinementMode

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


def lock_in(mode: ConfinementMode, uid: int, gid: int) -> None:
    """Gives up this process's user (-1 keeps it), privileges, files, TCP and signals to others.

    Raises ``ConfinementError`` in strict mode where the system lacks a layer.
    """
    if mode == "off":
        return
    try:
        if uid >= 0:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        prctl(_PR_SET_DUMPABLE, 0)
        landlock.restrict((), connect_ports=())
    except OSError as exc:
        if mode == "strict":
            raise ConfinementError(f"confinement of a compile child: {exc.strerror}") from None
