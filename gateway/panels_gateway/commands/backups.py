"""``panels-gateway backup`` and ``restore``: everything, into one file and back."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from panels_gateway.commands.parsing import Where, parse, parser
from panels_gateway.commands.progress import Progress
from panels_gateway.journal import schema, transfer
from panels_gateway.journal.directory import LOG, DataDirectory, read_meta, tail_of
from panels_gateway.journal.held import HeldLog
from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.segments import Tail
from panels_shared.errors import ConfigError

_BACKUP: Final = """\
Copies everything that the data directory holds into one FILE, which must not
exist yet. The gateway may be running, and goes on while it is copied: FILE has
at least what was there when the copy began. It gets its name when it is
whole; until then it is called FILE.part."""

_RESTORE: Final = """\
Makes a data directory of a FILE that "backup" has written. The data directory
must be empty or missing. Every panel gets a new epoch, so that clients notice
that history went elsewhere, and load their panels anew."""


def backup(arguments: Sequence[str], where: Where) -> int:
    """The command ``backup``."""
    made = parser("backup", _BACKUP)
    made.add_argument("file", metavar="FILE", help="where to write the copy")
    options = parse(made, arguments)
    directory, target = where.journal_dir(options), where.new_file(options.file)
    meta = read_meta(directory)
    if meta is None:
        raise CorruptError(f"{directory}: expected the file meta beside a store, got none")
    database = directory / schema.DATABASE
    if not database.exists():
        raise CorruptError(f"{database}: expected the store of folded batches, got none")
    torn = tail_of(meta) is not Tail.WHOLE
    # the log first: what goes from it after this has been folded, and is found in the copy
    with (
        HeldLog(directory / LOG, store=bytes.fromhex(meta.store), torn=torn) as held,
        Progress("copying", sys.stderr) as progress,
    ):
        position = transfer.backup(
            database,
            target,
            progress,
            tail=held.batches,
            now_ms=time.time_ns() // 1_000_000,
            retention=transfer.KEEP_ALL,
        )
    print(f"backed up {directory} as of position {position} to {target}")
    return 0


def restore(arguments: Sequence[str], where: Where) -> int:
    """The command ``restore``."""
    made = parser("restore", _RESTORE)
    made.add_argument("file", metavar="FILE", help="what backup has written")
    options = parse(made, arguments)
    source, directory = where.old_file(options.file), where.data_dir(options)
    _require_empty(directory)
    with Progress("restoring", sys.stderr) as progress:
        restored = transfer.restore(source, directory, progress)
    data = DataDirectory(directory)
    try:
        # any gateway that opens it may choose another mode; a closed directory reads the same in both
        data.adopt("process", store=restored.store, position=restored.position)
    finally:
        data.release()
    print(f"restored {source} as of position {restored.position} to {directory}")
    return 0


def _require_empty(directory: Path) -> None:
    try:
        empty = not directory.exists() or not any(directory.iterdir())
    except OSError as exc:
        raise JournalError(f"{directory}: {exc.strerror}") from exc
    if not empty:
        raise ConfigError(
            f"data-dir: expected an empty directory to restore into, got {directory} with files in it"
        )
