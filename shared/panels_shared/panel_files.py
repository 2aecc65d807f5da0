"""The files of panel folders: reading one, and finding them below a folder.

It reads whole files and blocks meanwhile: for commands, and for a start, before anybody is served.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from panels_shared import panel_folder
from panels_shared.panel_folder import PANEL_FILE, Folder, FolderError

#: Folders that are never looked into, besides hidden ones.
SKIPPED: Final = frozenset({"node_modules", "__pycache__"})
MAX_FOLDERS: Final = 256
MAX_DEPTH: Final = 6
MAX_VISITED: Final = 20_000


def load(path: Path, *, shown: Path | None = None, filled: bool = False) -> Folder:
    """The folder at ``path``, which errors call ``shown``. With ``filled`` an empty file is an error: whoever
    writes it has not got far.

    Raises ``FolderError``, whose text begins with the file.
    """

    def read(name: str, maximum: int) -> bytes:
        content = read_file(path, name, maximum)
        if filled and not content.strip():
            raise FolderError(f"{name}: expected something in it, got an empty file")
        return content

    try:
        return panel_folder.load(read)
    except FolderError as exc:
        fault = FolderError(f"{path if shown is None else shown}/{exc}")
        fault.snippet = exc.snippet
        raise fault from None


def read_file(base: Path, name: str, maximum: int) -> bytes:
    """The content of the file ``name`` below ``base``.

    Raises ``FolderError``, also for a link that leads out of it.
    """
    try:
        real = (base / name).resolve(strict=True)
        if not real.is_relative_to(base.resolve()):
            raise FolderError(f"{name}: expected a file within the folder, got a link that leads out of it")
        if not stat.S_ISREG(real.stat().st_mode):
            raise FolderError(f"{name}: expected a file, got something else")
        with real.open("rb") as file:
            content = file.read(maximum + 1)
    except FileNotFoundError:
        raise FolderError(f"{name}: expected a file, found none") from None
    except (OSError, RuntimeError) as exc:
        raise FolderError(f"{name}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from None
    if len(content) > maximum:
        raise FolderError(f"{name}: expected at most {maximum} bytes, got more")
    return content


def panel_folders(base: Path) -> list[Path]:
    """The folders at or below ``base`` that hold a ``panel.toml``, sorted; not those within another one.

    Hidden folders are left out, and so is what lies deeper than ``MAX_DEPTH``. Raises ``FolderError`` when
    there are more than ``MAX_FOLDERS``.
    """
    found: list[Path] = []
    waiting, visited = [(base, 0)], 0
    while waiting:
        path, depth = waiting.pop()
        visited += 1
        if (path / PANEL_FILE).is_file():
            found.append(path)
            continue
        if depth == MAX_DEPTH or visited > MAX_VISITED:
            continue
        try:
            inside = [Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # gone meanwhile, or not ours to read
        waiting += [(p, depth + 1) for p in inside if not p.name.startswith(".") and p.name not in SKIPPED]
    if len(found) > MAX_FOLDERS:
        raise FolderError(
            f"{base}: expected at most {MAX_FOLDERS} panel folders, found more; give one of them"
        )
    return sorted(found)
