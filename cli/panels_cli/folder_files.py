"""The files of a panel's folder on disk: reading them, and making a new folder from a template."""

from __future__ import annotations

import stat
from importlib import resources
from pathlib import Path
from typing import Final, Literal

from panels_cli import folder
from panels_cli.faults import UsageError
from panels_cli.folder import Folder
from panels_shared.names import NAME_RULE, is_name

Template = Literal["js", "ts", "wasm"]

_FILES: Final[dict[Template, str]] = {"js": "add.js", "ts": "add.ts", "wasm": "add.wat"}


def load(path: Path, *, shown: Path | None = None, filled: bool = False) -> Folder:
    """The folder at ``path``, which errors call ``shown``. With ``filled`` an empty file is an error: whoever
    writes it has not got far.

    Raises ``UsageError``, whose text begins with the file.
    """

    def read(name: str, maximum: int) -> bytes:
        content = read_file(path, name, maximum)
        if filled and not content.strip():
            raise UsageError(f"{name}: expected something in it, got an empty file")
        return content

    try:
        return folder.load(read)
    except UsageError as exc:
        fault = UsageError(f"{path if shown is None else shown}/{exc}")
        fault.appendix = exc.appendix
        raise fault from None


def read_file(base: Path, name: str, maximum: int) -> bytes:
    """The content of the file ``name`` below ``base``.

    Raises ``UsageError``, also for a link that leads out of it.
    """
    try:
        real = (base / name).resolve(strict=True)
        if not real.is_relative_to(base.resolve()):
            raise UsageError(f"{name}: expected a file within the folder, got a link that leads out of it")
        if not stat.S_ISREG(real.stat().st_mode):
            raise UsageError(f"{name}: expected a file, got something else")
        with real.open("rb") as file:
            content = file.read(maximum + 1)
    except FileNotFoundError:
        made = "; panels init NAME makes a folder" if name == folder.PANEL_FILE else ""
        raise UsageError(f"{name}: expected a file, found none{made}") from None
    except (OSError, RuntimeError) as exc:
        raise UsageError(f"{name}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from None
    if len(content) > maximum:
        raise UsageError(f"{name}: expected at most {maximum} bytes, got more")
    return content


def create(path: Path, template: Template) -> list[str]:
    """Makes the folder ``path``; its last part becomes the panel's id. Gives the names of the files in it.

    Raises ``UsageError``, also where there is something already.
    """
    name = path.name
    if not is_name(name):
        raise UsageError(f"expected a name of {NAME_RULE}, got {name[:64]!r}")
    templates = resources.files("panels_cli") / "templates"
    handler = _FILES[template]
    contents = {
        folder.PANEL_FILE: _panel_file(name, handler),
        handler: (templates / handler).read_text(),
        "README.md": f"# {name}\n\n`panels up {name}` runs this panel here while you write it, and\n"
        f"`panels apply {name}` makes it on a gateway.\n",
    }
    try:
        path.mkdir()
        for file, text in contents.items():
            (path / file).write_text(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already; choose another name, or remove it") from None
    except OSError as exc:
        raise UsageError(f"{path} cannot be made: {exc.strerror}") from None
    return list(contents)


def _panel_file(name: str, handler: str) -> str:
    return f"""\
id = "{name}"
kind = "counter"
title = "A counter"
# What tools may do that have no list of their own.
capabilities = ["state:read:count", "state:write:count", "events:emit:counted"]

# The state that the panel is made with. `panels apply` never touches it afterwards.
[initialState]
count = 0

[tools.add]
handler = "{handler}"
description = "Adds args.by to count, or 1."
limits = {{ timeoutMs = 1000 }}
# trigger = {{ type = "interval", ms = 60000 }}
"""
