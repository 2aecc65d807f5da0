"""The sandbox processes of this machine, read from /proc."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from panels_cli.checks import Sandbox, sandbox_of

#: How a sandbox's command line names its program.
PROGRAM: Final = b"panels_worker.sandbox"
#: How the status of one begins that takes jobs, or has taken some: by its title.
TAKES_JOBS: Final = ("Name:\tsandbox ready\n", "Name:\tsandbox leaving\n")
#: Sandboxes that are looked at.
MAX_SANDBOXES: Final = 1_024


def find(proc: Path = Path("/proc")) -> list[Sandbox]:
    """Those that can be seen and take jobs; none where there is no /proc.

    A sandbox that has not joined a gateway yet is not confined yet, and runs nothing.
    """
    found: list[Sandbox] = []
    for folder in proc.glob("[0-9]*"):
        try:
            if PROGRAM not in (folder / "cmdline").read_bytes():
                continue
            status = (folder / "status").read_text()
            if not status.startswith(TAKES_JOBS):
                continue
            sandbox = sandbox_of(int(folder.name), status)
        except (OSError, ValueError):
            continue  # it has ended, or is not ours to see
        if sandbox is not None and len(found) < MAX_SANDBOXES:
            found.append(sandbox)
    return sorted(found, key=lambda sandbox: sandbox.pid)
