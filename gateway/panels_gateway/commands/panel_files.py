"""``panels-gateway export`` and ``import``: one panel, as JSON. The format is described in
``journal.transfer``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from panels_gateway.commands.parsing import Where, parse, parser
from panels_gateway.journal import schema, transfer
from panels_gateway.journal.directory import LOG, read_meta, tail_of
from panels_gateway.journal.held import HeldLog
from panels_gateway.journal.journal import CorruptError
from panels_gateway.journal.local import LocalJournal, LocalOptions, open_local
from panels_gateway.journal.records import Batch, Created, Record, Source
from panels_gateway.journal.segments import Tail
from panels_gateway.journal.store import Store
from panels_gateway.panels import stored
from panels_shared.errors import ConfigError
from panels_shared.limits import MIB
from panels_shared.names import NAME_RULE, is_name

#: Bytes of an exported panel: state and handlers at their largest, as JSON in JSON. A security limit.
MAX_EXPORT_BYTES: Final = 256 * MIB
#: Bytes of randomness in a panel's epoch, as the kernel has it.
EPOCH_BYTES: Final = 6

_EXPORT: Final = """\
Writes one panel as JSON to FILE, which must not exist yet, or to standard
output: its definition, handlers and state, without its history. The gateway
may be running. docs/operations.md describes the format."""

_IMPORT: Final = """\
Makes a panel of the JSON in FILE, which "export" has written. The gateway of
the data directory must be stopped. The panel keeps its version, and its
history begins with it; it gets a new epoch."""


def export(arguments: Sequence[str], where: Where) -> int:
    """The command ``export``."""
    made = parser("export", _EXPORT)
    made.add_argument("panel", metavar="PANEL", help="the panel's id")
    made.add_argument("file", metavar="FILE", nargs="?", help="where to write it; standard output without it")
    options = parse(made, arguments)
    directory = where.journal_dir(options)
    target = None if options.file is None else where.new_file(options.file)
    exported = _read_panel(directory, options.panel)
    if exported is None:
        raise ConfigError(f"PANEL: expected the id of a panel in {directory}, got {options.panel[:128]!r}")
    data = msgspec.json.format(msgspec.json.encode(exported), indent=2) + b"\n"
    if target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    _write(target, data)
    print(f"exported panel {options.panel} at version {exported['seq']} to {target}")
    return 0


def import_(arguments: Sequence[str], where: Where) -> int:
    """The command ``import``."""
    made = parser("import", _IMPORT)
    made.add_argument("file", metavar="FILE", help="what export has written")
    made.add_argument("--id", metavar="ID", help="the new panel's id, instead of the one in FILE")
    options = parse(made, arguments)
    source, directory = where.old_file(options.file), where.journal_dir(options)
    if options.id is not None and not is_name(options.id):
        raise ConfigError(f"id: expected {NAME_RULE}, got {options.id[:128]!r}")
    data = _decode(source)
    # judged before the directory is touched; the number comes from there
    _records(data, 1, options.id)
    created = asyncio.run(_import_into(directory, data, options.id))
    print(f"imported panel {created.id} at version {created.seq} into {directory}")
    return 0


def _read_panel(directory: Path, panel_id: str) -> dict[str, Any] | None:
    meta = read_meta(directory)
    database = directory / schema.DATABASE
    if meta is None or not database.exists():
        raise CorruptError(
            f"{directory}: expected the files meta and {schema.DATABASE}, got only one of them"
        )
    torn = tail_of(meta) is not Tail.WHOLE
    with HeldLog(directory / LOG, store=bytes.fromhex(meta.store), torn=torn) as held:
        store = Store(database)
        try:
            return schema.guarded(database, lambda: transfer.export_panel(store, panel_id, tail=held.batches))
        finally:
            store.close()


def _write(target: Path, data: bytes) -> None:
    draft = transfer.draft_of(target)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        transfer.publish(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _decode(source: Path) -> object:
    if source.stat().st_size > MAX_EXPORT_BYTES:
        raise CorruptError(f"{source}: expected at most {MAX_EXPORT_BYTES:,} bytes, got more")
    try:
        return msgspec.json.decode(source.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptError(f"{source}: expected JSON, got something else: {exc}") from None


def _records(data: object, number: int, panel_id: str | None) -> list[Record]:
    """The records that make the panel, once it is certain that a gateway can serve it."""
    records = transfer.import_panel(
        data,
        panel=number,
        epoch=secrets.token_urlsafe(EPOCH_BYTES),
        at_ms=time.time_ns() // 1_000_000,
        panel_id=panel_id,
    )
    created = records[-1]
    assert isinstance(created, Created)
    if not is_name(created.id):
        raise CorruptError(f"id: expected {NAME_RULE}, got {created.id[:128]!r}")
    sources = {record.digest: record for record in records if isinstance(record, Source)}
    try:
        stored.decode(created.id, created.definition, sources)
    except KeyError as exc:
        raise CorruptError(f"sources: expected the handler {exc.args[0].hex()}, got none") from None
    except ValueError as exc:
        raise CorruptError(f"definition: expected that of a panel, got something else: {exc}") from None
    return records


async def _import_into(directory: Path, data: object, panel_id: str | None) -> Created:
    meta = read_meta(directory)
    durability = meta.durability if meta is not None else "process"
    journal = await open_local(
        directory, durability=durability, options=LocalOptions(retention=transfer.KEEP_ALL)
    )
    try:
        return await _append(journal, data, panel_id)
    finally:
        await journal.close()


async def _append(journal: LocalJournal, data: object, panel_id: str | None) -> Created:
    records = _records(data, journal.last_panel + 1, panel_id)
    created = records[-1]
    assert isinstance(created, Created)
    if await journal.load(created.id) is not None:
        raise ConfigError(
            f"id: expected an id that is free, got {created.id!r}, which exists; give another --id"
        )
    journal.append(Batch(journal.position + 1, journal.fence, records))
    return created
