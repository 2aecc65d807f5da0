"""The file of contexts on disk: ``$XDG_CONFIG_HOME/panels/config.toml``, for its owner's eyes only."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from panels_cli import context
from panels_cli.context import Contexts
from panels_cli.faults import UsageError


def location(environment: Mapping[str, str]) -> Path:
    """Where the file is, or would be. ``PANELS_CLI_CONFIG`` names another one."""
    named = environment.get("PANELS_CLI_CONFIG")
    if named:
        return Path(named)
    base = environment.get("XDG_CONFIG_HOME")
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    return folder / "panels" / "config.toml"


def read(path: Path) -> Contexts:
    """The contexts in the file, none where there is no file.

    Raises ``UsageError``, also for a file that others may read: it holds tokens.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(context.MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return Contexts()
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
    if mode & 0o077:
        raise UsageError(
            f"{path}: expected a file for its owner alone, got mode {mode:04o}; run: chmod 600 {path}"
        )
    if len(content) > context.MAX_FILE_BYTES:
        raise UsageError(f"{path}: expected at most {context.MAX_FILE_BYTES} bytes, got more")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: expected UTF-8, got other bytes") from None
    return context.parse(text, where=str(path))


def write(path: Path, contexts: Contexts) -> None:
    """Puts ``contexts`` in the file's place, as a whole or not at all, mode 0600. Raises ``UsageError``."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes the file with mode 0600, so that no moment has it otherwise
        handle, name = tempfile.mkstemp(prefix=".config-", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(context.written(contexts))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written: {exc.strerror}") from None
