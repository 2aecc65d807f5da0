"""``--panels``: the panel folders that a gateway loads when it starts.

Folders are read before the gateway listens: one that is wrong is a wrong configuration. The panels are made
once a worker can compile their handlers, in a task beside the serving of clients, one after the other, in the
way of POST and PUT. A panel whose definition is what the folder says is left alone, and nothing is recorded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.kernel.kernel import Kernel
from panels_gateway.panels import definition_body, stored
from panels_gateway.panels.definition import PanelDefinition
from panels_gateway.panels.definition_body import DefinitionLimits
from panels_shared import panel_files
from panels_shared.errors import CODES, ConfigError, RequestError
from panels_shared.panel_folder import FolderError

_log = logging.getLogger("panels.gateway.folders")

#: Seconds between two attempts while no worker is there, or the gateway is too busy.
AGAIN_S: Final = 0.25


def read(base: Path, limits: DefinitionLimits) -> list[tuple[Path, PanelDefinition]]:
    """The folders at or below ``base`` and what they define.

    Raises ``ConfigError``, also where two folders define one panel.
    """
    if not base.is_dir():
        raise ConfigError(f"panels: expected a folder at {base}, found none")
    made: dict[str, tuple[Path, PanelDefinition]] = {}
    path = base
    try:
        for path in panel_files.panel_folders(base):
            folder = panel_files.load(path)
            parsed = definition_body.parse(folder.made, limits, default_id=folder.id)
            other = made.setdefault(parsed.id, (path, parsed))[0]
            if other != path:
                raise ConfigError(f"panels: {path}: id: {parsed.id!r} is the panel of {other}; give another")
    except FolderError as exc:
        raise ConfigError(f"panels: {exc}") from None
    except RequestError as exc:
        raise ConfigError(f"panels: {path}: {exc}") from None
    return list(made.values())


async def load(folders: Sequence[tuple[Path, PanelDefinition]], kernel: Kernel) -> None:
    """Makes or replaces the panels of ``folders``. What is refused is logged, and the others are made."""
    for path, wanted in folders:
        while True:
            try:
                done = await _load(wanted, kernel) if kernel.ready else None
            except RequestError as exc:
                if not CODES[exc.code].retryable:
                    _log.error("panels: %s: %s (%s); the panel is as it was", path, exc, exc.code.value)
                    break
                done = None
            if done is not None:
                _log.info("panels: %s: %s %s", path, wanted.id, done)
                break
            await asyncio.sleep(AGAIN_S)


async def _load(wanted: PanelDefinition, kernel: Kernel) -> str:
    resident = await kernel.residents.open(wanted.id)
    if resident is None:
        await kernel.making.create(wanted)
        return "is made"
    if stored.encode(resident.panel.definition) == stored.encode(wanted):
        return "is as the folder says"
    resident.holds += 1
    try:
        # without an initial state the panel keeps its own
        await kernel.making.replace(resident, replace(wanted, initial_state=None), ANONYMOUS)
    finally:
        resident.holds -= 1
    return "is up to date now"
