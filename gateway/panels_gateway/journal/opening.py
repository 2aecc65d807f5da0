"""Opens the journal that the configuration asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from panels_gateway.journal.fold import Retention
from panels_gateway.journal.journal import Journal
from panels_gateway.journal.local import LocalOptions, open_local
from panels_gateway.journal.memory import MemoryJournal

if TYPE_CHECKING:
    from panels_gateway.configuration.config import RecordConfig

_log = logging.getLogger("panels.gateway.journal")


async def open_journal(
    data_dir: Path, record: RecordConfig, on_progress: Callable[[int, int], None]
) -> Journal:
    """Opens the journal for writing.

    What was left to be folded is folded first; ``on_progress`` is told how far that is.

    Raises ``JournalError`` if the directory cannot be used, or if its content is damaged, foreign or newer.
    """
    if record.durability == "none":
        _log.warning("durability is none: panels end with this process")
        return MemoryJournal(history_commits=min(record.history_commits, 1_000))
    retention = Retention(
        commits=record.history_commits,
        history_bytes=record.history_bytes,
        age_ms=record.history_ttl_ms,
        answers=record.answer_keys,
        answer_ttl_ms=record.answer_ttl_ms,
    )
    journal = await open_local(
        data_dir,
        durability=record.durability,
        options=LocalOptions(retention=retention),
        on_progress=on_progress,
    )
    for notice in journal.notices:
        _log.warning("%s", notice)
    return journal
