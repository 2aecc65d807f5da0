"""Taking a store, or a panel, elsewhere and back.

A backup is one file: a copy of the database as of one moment, into which what was durable and not yet folded
has been folded. So nothing else is needed. It has no log, no lock and no incarnation; ``restore`` puts it
into an empty data directory, and the caller then makes a journal of that (``DataDirectory.adopt``), which
gives it another identity and incarnation, so that clients see that history went elsewhere.

An exported panel is a JSON object (``EXPORT_FORMAT``, ``EXPORT_VERSION``):

    format      "panels.panel"           version    1
    id, epoch, createdMs, seq            of the panel when it was exported
    definition  JSON text                state      object: top-level key → JSON text of its value
    sources     array of {digest (hexadecimal), language, entry, source (base64)}: every handler it names

JSON stays text, so that no number loses a digit on the way. History and answers are not in it.
"""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import apsw
import msgspec

from panels_gateway.journal import chunks, schema
from panels_gateway.journal.fold import Retention, grouped
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.journal import CorruptError, JournalError, StoredPanel
from panels_gateway.journal.records import (
    Batch,
    Changed,
    Created,
    Defined,
    Deleted,
    Fired,
    Parked,
    Ran,
    Record,
    Returned,
    Revoked,
    Source,
    Unparked,
    Unrevoked,
)
from panels_gateway.journal.store import Store
from panels_gateway.journal.syncing import sync_folder
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.handlers import handler_digest
from panels_shared.messages import Language

EXPORT_FORMAT: Final = "panels.panel"
EXPORT_VERSION: Final = 1

#: A bound on nothing: what is only passing through must not lose history to the retention of somebody else.
KEEP_ALL: Final = Retention(
    commits=1 << 60,
    history_bytes=1 << 60,
    age_ms=1 << 60,
    answers=1 << 60,
    answer_bytes=1 << 60,
    answer_ttl_ms=1 << 60,
)

#: Called with how much is done, of how much.
Progress = Callable[[int, int], None]

_COPY_PAGES: Final = 1_024


class _Handler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    language: Language
    entry: str
    source: str


class _Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    format: Literal["panels.panel"]
    version: int
    id: str
    epoch: str
    created_ms: int
    seq: int
    definition: str
    state: dict[str, str]
    sources: list[_Handler]


@dataclass(frozen=True, slots=True)
class Restored:
    """A store that was made of a backup: its id, and the position as far as it is folded."""

    store: bytes
    position: int


class _Newest:
    """A panel, and what records make of it one after the other. ``source`` looks for a handler in the
    store.
    """

    def __init__(self, panel: StoredPanel | None, source: Callable[[bytes], Source | None]) -> None:
        self.panel = panel
        self._stored = source
        self._sources: dict[bytes, Source] = {}

    def take(self, panel_id: str, record: Record) -> None:
        """What ``record`` makes of the panel of that id."""
        if isinstance(record, Source):
            self._sources[record.digest] = record
        elif isinstance(record, Created):
            if record.id == panel_id:
                sources = self._named(record.digests)
                self.panel = StoredPanel(
                    record.panel,
                    record.id,
                    record.epoch,
                    record.at_ms,
                    record.definition,
                    sources,
                    record.seq,
                    dict(record.state),
                    0,
                )
        elif isinstance(record, (Parked, Unparked, Returned, Fired, Revoked, Unrevoked)):
            return  # handlers that wait, timers and revocations stay where they are
        elif self.panel is not None and record.panel == self.panel.panel:
            self.panel = self._changed(self.panel, record)

    def _changed(self, panel: StoredPanel, record: Defined | Deleted | Ran | Changed) -> StoredPanel | None:
        if isinstance(record, Deleted):
            return None
        if isinstance(record, Defined):
            sources = self._named(record.digests)
            return replace(panel, definition=record.definition, sources=sources)
        if not record.seq:
            return panel  # a trigger without effects, which is there for the sake of its key
        if record.seq != panel.seq + 1:
            raise CorruptError(
                f"panel {panel.panel}: expected version {panel.seq + 1} in the log, got {record.seq}"
            )
        state = dict(panel.state)
        for key, (value, _) in chunks.last_changes([record]).items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        return replace(panel, seq=record.seq, state=state)

    def _named(self, digests: Iterable[bytes]) -> dict[bytes, Source]:
        found: dict[bytes, Source] = {}
        for digest in digests:
            source = self._sources.get(digest) or self._stored(digest)
            if source is None:
                raise CorruptError(f"expected the source of {digest.hex()}, got none")
            found[digest] = source
        return found


class _Version(msgspec.Struct):
    format: Literal["panels.panel"]
    version: int


def backup(
    database: Path,
    target: Path,
    progress: Progress,
    *,
    tail: Callable[[int], Iterable[Batch]],
    now_ms: int,
    retention: Retention = Retention(),  # noqa: B008 - frozen
) -> int:
    """Writes a copy of everything durable to ``target``, which must not exist, and returns the position that
    it has.

    ``tail`` gives the durable batches behind a position; segments that were there when the backup began must
    stay until it has returned. May run in any thread or process, with folding and appending going on.
    ``progress`` counts pages.
    Raises ``JournalError``, and ``PositionError`` where a segment was taken away; ``target`` is not there
    then.
    """
    _require_absent(target)
    draft = draft_of(target)
    try:
        source = schema.open_reader(database)
        try:
            _copy(source, draft, progress)
        finally:
            source.close()
        folding = Folding(draft, retention=retention)
        try:
            for group in grouped(tail(folding.position)):
                folding.fold(group, now_ms=now_ms)
            folding.checkpoint()
            position = folding.position
        finally:
            folding.close()
        publish(draft, target)
    finally:
        _remove(draft)
    return position


def restore(source: Path, data_dir: Path, progress: Progress = lambda _done, _total: None) -> Restored:
    """Puts the backup ``source`` into ``data_dir``, which must be empty or missing, and says what store that
    has made.

    The copy is another store, in which no writer has been. Raises ``CorruptError`` for what is not a whole
    backup, and ``JournalError``.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(data_dir.iterdir()):
            raise JournalError(
                f"{data_dir}: expected an empty directory to restore into, got one with files in it"
            )
    except OSError as exc:
        raise JournalError(f"{data_dir}: {exc.strerror}") from exc
    if not source.is_file():
        raise JournalError(f"{source}: expected a backup, got no file")
    database = data_dir / schema.DATABASE
    draft = data_dir / (schema.DATABASE + ".part")
    original = schema.open_alone(source)
    try:
        problem = schema.guarded(source, lambda: original.execute("PRAGMA quick_check(1)").get)
        if problem != "ok":
            raise CorruptError(f"{source}: expected a whole backup, got one that is damaged: {problem}")
        _copy(original, draft, progress)
        copy = schema.open_writer(draft)
        try:
            store_id = schema.new_store_id()
            position: int = schema.guarded(
                draft,
                lambda: (
                    copy.execute(
                        "UPDATE meta SET store_id = ?, fence = 0 RETURNING position", (store_id,)
                    ).get
                ),
            )
        finally:
            copy.close()
        publish(draft, database)
    finally:
        original.close()
        _remove(draft)
    return Restored(bytes.fromhex(store_id), position)


def load_panel(store: Store, panel_id: str, tail: Callable[[int], Iterable[Batch]]) -> StoredPanel | None:
    """The panel of that id after all batches of ``tail``, which gives those behind a position; None if there
    is none then.

    Its ``answers`` are those that are folded. Raises ``CorruptError``.
    """
    position = store.folded().position
    panel = store.load(panel_id)
    found = _Newest(panel, store.source)
    for batch in tail(position if panel is None else panel.position):
        for record in batch.records:
            found.take(panel_id, record)
    return found.panel


def export_panel(
    store: Store, panel_id: str, *, tail: Callable[[int], Iterable[Batch]] = lambda _after: ()
) -> dict[str, Any] | None:
    """The panel of that id as above, None if there is none. It has what is folded and what ``tail`` gives."""
    panel = load_panel(store, panel_id, tail)
    if panel is None:
        return None
    exported = _Export(
        format="panels.panel",
        version=EXPORT_VERSION,
        id=panel.id,
        epoch=panel.epoch,
        created_ms=panel.created_ms,
        seq=panel.seq,
        definition=panel.definition.decode(),
        state={key: value.decode() for key, value in panel.state.items()},
        sources=[
            _Handler(
                digest.hex(), msgspec.convert(source.language, Language), source.entry, _base64(source.source)
            )
            for digest, source in sorted(panel.sources.items())
        ],
    )
    result: dict[str, Any] = msgspec.to_builtins(exported)
    return result


def import_panel(
    data: object, *, panel: int, epoch: str, at_ms: int, panel_id: str | None = None
) -> list[Record]:
    """The records that make the exported panel ``data`` (decoded JSON) a panel with that number and epoch.

    ``panel_id`` is another id for it; an ``id`` in its definition is changed with it. The caller sees to it
    that the number is new, the id free and within its own limits, and appends the records as they are.
    Raises ``CorruptError`` with a sentence for what is not such an export, or is of a newer version.
    """
    try:
        version = msgspec.convert(data, _Version).version
        if version != EXPORT_VERSION:
            raise CorruptError(f"expected an exported panel of version {EXPORT_VERSION}, got {version}")
        exported = msgspec.convert(data, _Export)
    except msgspec.ValidationError as exc:
        raise CorruptError(f"expected an exported panel, got something else: {exc}") from exc
    if exported.seq < 0 or not exported.id or panel_id == "":
        raise CorruptError("expected an exported panel, got one without an id, or with a negative version")
    sources = [_source(handler) for handler in exported.sources]
    chosen = exported.id if panel_id is None else panel_id
    state = {key: _json(f"state.{key}", text) for key, text in exported.state.items()}
    definition = _renamed(_json("definition", exported.definition), chosen)
    digests = tuple(source.digest for source in sources)
    created = Created(panel, chosen, epoch, at_ms, definition, state, exported.seq, digests)
    return [*sources, created]


def _renamed(definition: bytes, panel_id: str) -> bytes:
    fields = msgspec.json.decode(definition)
    if not isinstance(fields, dict):
        raise CorruptError("definition: expected a JSON object, got something else")
    if "id" not in fields or fields["id"] == panel_id:
        return definition
    parts = msgspec.json.decode(definition, type=dict[str, msgspec.Raw])
    parts["id"] = msgspec.Raw(msgspec.json.encode(panel_id))
    return msgspec.json.encode(parts)


def _json(where: str, text: str) -> bytes:
    data = text.encode()
    try:
        jsonvalue.decode(data)
    except InvalidJsonError as exc:
        raise CorruptError(f"{where}: {exc.problem}") from exc
    return data


def _source(handler: _Handler) -> Source:
    try:
        source = base64.b64decode(handler.source, validate=True)
    except ValueError as exc:
        raise CorruptError("sources: expected base64, got something else") from exc
    digest = handler_digest(handler.language, handler.entry, source)
    if digest.hex() != handler.digest:
        raise CorruptError(f"sources: expected a handler of digest {digest.hex()}, got {handler.digest[:64]}")
    return Source(digest, handler.language, handler.entry, source)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _copy(source: apsw.Connection, target: Path, progress: Progress) -> None:
    _remove(target)

    def copy() -> None:
        destination = apsw.Connection(str(target))
        try:
            # under one snapshot: without it the copy would begin anew whenever the folding process writes
            source.execute("BEGIN")
            source.execute("SELECT position FROM meta").fetchall()
            with destination.backup("main", source, "main") as copying:
                while not copying.done:
                    copying.step(_COPY_PAGES)
                    progress(copying.page_count - copying.remaining, copying.page_count)
            source.execute("ROLLBACK")
        finally:
            destination.close()

    schema.guarded(target, copy)


def _require_absent(target: Path) -> None:
    if target.exists():
        raise JournalError(f"{target}: expected no file there, got one")


def draft_of(target: Path) -> Path:
    """Where ``target`` is written until it is whole."""
    return target.with_name(target.name + ".part")


def publish(draft: Path, target: Path) -> None:
    """Puts ``draft`` on the disk and gives it the name ``target``, which must be free. Raises
    ``JournalError``.
    """
    try:
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, target)  # unlike a rename, it never takes the place of a file
            draft.unlink()
        except FileExistsError:
            raise
        except OSError as exc:
            # a file system without hard links, as many of those that backups go to
            if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            _require_absent(target)
            draft.rename(target)
        sync_folder(target.parent)
    except OSError as exc:
        raise JournalError(f"{target}: {exc.strerror}") from exc


def _remove(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)
