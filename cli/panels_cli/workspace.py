"""The hidden folder of `panels up`: what it keeps between two runs, and who runs there now.

DIR/.panels-up/          0700
    .gitignore           so that no secret is committed by mistake
    up.lock              held while `up` runs; says which process it is
    secret               0600, signs the tokens of development
    data/                the gateway's data directory
    gateway.log, workers.log      what the processes of this run wrote
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from panels_cli.faults import UsageError

HIDDEN: Final = ".panels-up"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that `up` was given, and the paths below its hidden folder."""

    base: Path

    @property
    def hidden(self) -> Path:
        """The hidden folder."""
        return self.base / HIDDEN

    @property
    def data(self) -> Path:
        """The gateway's data directory."""
        return self.hidden / "data"

    @property
    def secret_file(self) -> Path:
        """The secret that tokens are signed with."""
        return self.hidden / "secret"

    def secret(self) -> bytes:
        """The secret, made if missing. Raises ``UsageError``."""
        try:
            if not self.secret_file.exists():
                handle = os.open(self.secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_hex(32) + "\n")
            return self.secret_file.read_bytes().strip()
        except OSError as exc:
            raise UsageError(f"{self.secret_file}: cannot be used: {exc.strerror}; remove it") from None


@contextmanager
def opened(base: Path) -> Iterator[Workspace]:
    """The workspace of the folder ``base``, for this process alone. Raises ``UsageError``."""
    try:
        base = base.resolve(strict=True)
        os.scandir(base).close()
    except OSError as exc:
        raise UsageError(f"{base}: expected a folder that can be read: {exc.strerror}") from None
    space = Workspace(base)
    try:
        space.hidden.mkdir(mode=0o700, exist_ok=True)
        (space.hidden / ".gitignore").write_text("*\n")
        handle = os.open(space.hidden / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise UsageError(
            f"{space.hidden}: expected a folder to write to: {exc.strerror}; give another DIR"
        ) from None
    with os.fdopen(handle, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = lock.read(32).strip() or "unknown"
            raise UsageError(
                f"{base}: panels up runs there already, as process {owner}; use that one, or stop it by "
                f"kill {owner}"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield space


def context_name(base: Path) -> str:
    """The name of the context that other terminals use for the `up` in ``base``."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", base.name)[:64]
    return f"up-{name}" if name else "up"
