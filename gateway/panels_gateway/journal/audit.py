"""Reads a whole data directory, says what is wrong with it, and changes nothing: ``meta``, the log, and the
store (verify.py).

A gateway may be running on the directory. What its next start would forgive (see ``Tail``) is not wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from panels_gateway.journal import schema
from panels_gateway.journal.directory import LOG, META, Meta, read_meta, tail_of
from panels_gateway.journal.held import HeldLog
from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.segments import Tail, examine
from panels_gateway.journal.store import Folded, Store
from panels_gateway.journal.verify import Finding, verify


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found. ``panels`` and ``position`` are the store's, None where it cannot be read. ``notices``
    are sentences about what the next start of a gateway will cut off."""

    findings: list[Finding]
    notices: list[str]
    panels: int | None
    position: int | None


def audit(directory: Path, progress: Callable[[int, int], None]) -> Audit:
    """What is wrong with ``directory``, which has a journal. ``progress`` counts panels.

    Raises ``JournalError``, which is no ``CorruptError``, where the disk does not let it read.
    """
    try:
        meta = read_meta(directory)
    except CorruptError as error:
        return Audit([Finding(META, str(error))], [], None, None)
    except OSError as error:
        raise JournalError(f"{directory / META}: cannot be read: {error.strerror}") from error
    if meta is None:
        problem = f"{directory / META}: expected this file beside a store, got none"
        return Audit([Finding(META, problem)], [], None, None)
    tail = tail_of(meta)
    try:
        with HeldLog(directory / LOG, store=bytes.fromhex(meta.store), torn=tail is not Tail.WHOLE) as held:
            return _audit(directory, meta, tail, held, progress)
    except CorruptError as error:
        return Audit([Finding(LOG, str(error))], [], None, None)


def _audit(
    directory: Path, meta: Meta, tail: Tail, held: HeldLog, progress: Callable[[int, int], None]
) -> Audit:
    database = directory / schema.DATABASE
    try:
        folded = _folded(database)
    except CorruptError as error:
        return Audit([Finding(schema.DATABASE, str(error))], [], None, None)
    if folded.store_id != meta.store:
        problem = f"expected store {meta.store}, got {folded.store_id}: files of two journals"
        return Audit([Finding(schema.DATABASE, problem)], [], folded.panels, folded.position)
    if tail in (Tail.WHOLE, Tail.TORN):
        # what may be read while a gateway writes: the store's own position, and what was held before that
        findings = verify(database, tail=held.batches, progress=progress)
        findings += _ending(meta, held, folded)
        return Audit(findings, [], folded.panels, folded.position)
    # the machine went down since: no gateway is running, and a start would judge the log by its tail
    findings, notices = verify(database, tail=lambda _after: (), progress=progress), []
    try:
        examined = examine(
            directory / LOG, store=bytes.fromhex(meta.store), folded=folded.position, tail=tail
        )
        if examined.cut is not None:
            notices.append(examined.cut.reason)
    except CorruptError as error:
        findings.append(Finding(LOG, str(error)))
    return Audit(findings, notices, folded.panels, folded.position)


def _folded(database: Path) -> Folded:
    if not database.exists():
        raise CorruptError(f"{database}: expected the store of folded batches, got none")
    store = Store(database)
    try:
        return schema.guarded(database, store.folded)
    finally:
        store.close()


def _ending(meta: Meta, held: HeldLog, folded: Folded) -> list[Finding]:
    """What is wrong with the end of a log that was closed."""
    if meta.closed is None:
        return []
    last = folded.position
    try:
        for batch in held.batches(folded.position):
            last = batch.position
    except CorruptError:
        return []  # the log's own finding says it
    if last == meta.closed:
        return []
    return [Finding(LOG, f"expected position {meta.closed} as the last, got {last}")]
