"""A panel's folder on disk, for a command: reading it, and making a new one from a template."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final, Literal

from panels_cli.faults import UsageError
from panels_shared import panel_files
from panels_shared.names import NAME_RULE, is_name
from panels_shared.panel_folder import PANEL_FILE, Folder, FolderError

Template = Literal["js", "ts", "wasm"]

_FILES: Final[dict[Template, str]] = {"js": "add.js", "ts": "add.ts", "wasm": "add.wat"}


def load(path: Path, *, shown: Path | None = None, filled: bool = False) -> Folder:
    """See ``panel_files.load``. Raises ``UsageError``."""
    try:
        return panel_files.load(path, shown=shown, filled=filled)
    except FolderError as exc:
        fault = UsageError(f"{exc}; panels init NAME makes a folder" if _is_missing(exc) else str(exc))
        fault.appendix = exc.snippet
        raise fault from None


def _is_missing(error: FolderError) -> bool:
    return str(error).endswith(f"{PANEL_FILE}: expected a file, found none")


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
        PANEL_FILE: _panel_file(name, handler),
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
