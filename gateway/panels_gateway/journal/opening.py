"""Opens the journal that the configuration asks for."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from panels_gateway.journal.fold import Retention
from panels_gateway.journal.journal import CorruptError, Journal, JournalError
from panels_gateway.journal.local import LocalOptions, open_local
from panels_gateway.journal.memory import FOLD_S, MemoryJournal
from panels_gateway.journal.segments import SEGMENT_BYTES
from panels_gateway.journal.syncing import sync_folder

if TYPE_CHECKING:
    from panels_gateway.configuration.config import RecordConfig

#: Bytes of the key that seals images.
SEAL_KEY_BYTES: Final = 32

_log = logging.getLogger("panels.gateway.journal")


def load_seal_key(data_dir: Path) -> bytes:
    """The key that seals the images of handlers that wait, made where there is none. Raises
    ``JournalError``.
    """
    path = data_dir / "seal.key"
    try:
        if not path.exists():
            draft = path.with_suffix(".new")
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(SEAL_KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            draft.rename(path)
            sync_folder(data_dir)
        key = path.read_bytes()
    except OSError as exc:
        raise JournalError(f"{path}: expected a key that can be read, got: {exc.strerror}") from None
    if len(key) != SEAL_KEY_BYTES:
        raise CorruptError(f"{path}: expected {SEAL_KEY_BYTES} bytes, got {len(key)}")
    return key


async def open_journal(
    data_dir: Path, record: RecordConfig, on_progress: Callable[[int, int], None]
) -> Journal:
    """Opens the journal for writing.

    What was left to be folded is folded first; ``on_progress`` is told how far that is.

    Raises ``JournalError`` if the directory cannot be used, or if its content is damaged, foreign or newer.
    """
    if record.durability == "none":
        _log.warning("durability is none: panels end with this process")
        return MemoryJournal(history_commits=min(record.history_commits, 1_000), fold_s=FOLD_S)
    retention = Retention(
        commits=record.history_commits,
        history_bytes=record.history_bytes,
        age_ms=record.history_ttl_ms,
        answers=record.answer_keys,
        answer_ttl_ms=record.answer_ttl_ms,
    )
    # segments much smaller than the bound: what is not folded yet then includes little that could not have
    # been
    segment_bytes = min(SEGMENT_BYTES, record.backlog_bytes // 8)
    read: set[int] = set()

    def tell(done: int, total: int) -> None:
        read.add(done)
        on_progress(done, total)

    started_s = time.monotonic()
    journal = await open_local(
        data_dir,
        durability=record.durability,
        options=LocalOptions(
            segment_bytes=segment_bytes, backlog_bytes=record.backlog_bytes, retention=retention
        ),
        on_progress=tell,
    )
    for notice in journal.notices:
        _log.warning("%s", notice)
    _log.info(
        "opened %s at position %d, durability %s; panels: %d, batches that had to be folded first: %d, "
        "all in %.2f s",
        data_dir,
        journal.position,
        record.durability,
        journal.panels,
        journal.position - min(read, default=journal.position),
        time.monotonic() - started_s,
    )
    return journal
