"""The writer of ``panels.db``: folds batches, trims what is past retention, moves the WAL into the file.

There is one, in the folding process. Each run is one transaction that also stores the position, so a run is
folded once, however often it is offered. Trimming is part of the transactions and bounded by what they add,
so it takes no time of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from panels_gateway.journal import chunks, schema
from panels_gateway.journal.chunks import Commit
from panels_gateway.journal.fold import PanelRun, Retention, Run, check_versions, chunked, coalesce
from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.records import NEVER, Batch, Created, Ran, Revoked, replace_image

_T = TypeVar("_T")

#: Rows that a panel may lose to trimming in one transaction, beyond twice what it gained.
_TRIM_ROWS: Final = 16
#: Panels that a sweep looks at.
_SWEEP_PANELS: Final = 256
#: The file is cut by so many pages a transaction, while more than a quarter of it is free.
_VACUUM_PAGES: Final = 256
_VACUUM_AT_PAGES: Final = 4_096


@dataclass(slots=True)
class _Head:
    """A panel's row, as this transaction has it so far."""

    panel: int
    seq: int
    floor: int
    state_bytes: int = 0
    state_sum: int = 0
    history_bytes: int = 0
    answers: int = 0
    answer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Meta:
    position: int
    fence: int
    last_panel: int
    panels: int


class Folding:
    """The database, open for writing.

    Not thread-safe. Every method raises ``JournalError`` when the disk does not let it.
    """

    def __init__(self, path: Path, *, retention: Retention = Retention()) -> None:  # noqa: B008 - frozen
        """Opens the database at ``path``, which ``schema.prepare`` has made. Raises ``CorruptError``."""
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._retention = retention
        self._connection = schema.open_writer(path)
        self._swept = 0
        self._unused: set[bytes] = set()
        try:
            self._meta = schema.guarded(path, self._read_meta)
        except BaseException:
            self._connection.close()
            raise

    @property
    def position(self) -> int:
        """The position of the last folded batch. Everything up to it is on the disk."""
        return self._meta.position

    @property
    def fence(self) -> int:
        """The highest fence that a folded batch had."""
        return self._meta.fence

    @property
    def wal_bytes(self) -> int:
        """The size of the write-ahead log, which ``checkpoint`` brings to 0."""
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def fold(self, batches: Iterable[Batch], *, now_ms: int) -> int:
        """Folds those of ``batches`` that are not folded yet, as one transaction, and
        returns the position then.

        They are held in memory, so the caller bounds them. ``now_ms`` is the wall clock, by which things
        grow too old. Raises ``PositionError``, ``FencedError`` and ``CorruptError`` as ``coalesce`` does,
        and then nothing has changed.
        """
        run = coalesce(batches, position=self._meta.position, fence=self._meta.fence)
        if run.batches:
            meta = self._transaction(lambda: self._write(run, now_ms))
            self._meta = meta
        return self._meta.position

    def sweep(self, *, now_ms: int) -> None:
        """Trims the next few hundred panels, even if nothing happened to them.

        Call it again and again.
        """
        self._transaction(lambda: self._sweep(now_ms))

    def checkpoint(self) -> bool:
        """Moves the WAL into the file and cuts it to nothing; False where a reader held it, and it was
        moved as far as it went.
        """

        def run() -> bool:
            self._connection.set_busy_timeout(0)
            try:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                return True
            except apsw.BusyError:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                return False
            finally:
                self._connection.set_busy_timeout(schema.BUSY_TIMEOUT_MS)

        return schema.guarded(self._path, run)

    def close(self) -> None:
        """Closes the database. Idempotent."""
        schema.guarded(self._path, self._connection.close)

    # -- transactions --------------------------------------------------------------------------------

    def _transaction(self, action: Callable[[], _T]) -> _T:
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            try:
                result = action()
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it itself after some errors
                    execute("ROLLBACK")
                raise
        except apsw.Error as exc:
            raise schema.named(self._path, exc) from exc
        return result

    def _rows(self, sql: str, *values: apsw.SQLiteValue) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def _read_meta(self) -> _Meta:
        row = self._connection.execute("SELECT position, fence, last_panel, panels FROM meta").fetchone()
        if row is None:
            raise CorruptError(f"{self._path}: expected a row in meta, got none")
        return _Meta(*row)

    def _write(self, run: Run, now_ms: int) -> _Meta:
        meta = self._read_meta()
        if meta != self._meta:
            raise JournalError(
                f"{self._path}: expected to be the only writer, got position {meta.position} from another"
            )
        execute = self._connection.execute
        self._unused.clear()
        for source in run.sources.values():
            execute(
                "INSERT OR IGNORE INTO sources VALUES (?, ?, ?, ?, ?)",
                (source.digest, source.language, source.entry, source.source, chunks.source_crc(source)),
            )
        for name, revoked in run.revoked.items():
            self._revoke(name, revoked)
        self._drop_ended(now_ms)
        # deletions first: an id may be given again in the same run
        for number, panel in run.panels.items():
            if panel.deleted:
                self._delete(number, panel)
                meta = replace(meta, panels=meta.panels - (not panel.born))
            if panel.born:
                meta = replace(meta, last_panel=max(meta.last_panel, number))
        for number, panel in run.panels.items():
            if not panel.deleted:
                self._apply(number, panel, run.position, now_ms)
                meta = replace(meta, panels=meta.panels + panel.born)
        self._drop_unused()
        self._shrink()
        meta = replace(meta, position=run.position, fence=run.fence)
        execute(
            "UPDATE meta SET position = ?, fence = ?, last_panel = ?, panels = ?",
            (meta.position, meta.fence, meta.last_panel, meta.panels),
        )
        return meta

    def _revoke(self, name: str, revoked: Revoked | None) -> None:
        if revoked is None:
            self._connection.execute("DELETE FROM revocations WHERE name = ?", (name,))
            return
        record = chunks.encode_revoked(revoked)
        self._connection.execute(
            "INSERT OR REPLACE INTO revocations VALUES (?, ?, ?, ?)",
            (name, revoked.expires_ms, chunks.record_crc(record), record),
        )

    def _drop_ended(self, now_ms: int) -> None:
        """Forgets revocations that have ended."""
        self._connection.execute("DELETE FROM revocations WHERE expires_ms < ?", (now_ms,))

    def _delete(self, number: int, panel: PanelRun) -> None:
        execute = self._connection.execute
        if panel.born:
            for made in (panel.created, panel.defined):
                self._unused.update(made.digests if made is not None else ())
            return
        if execute("SELECT 1 FROM panels WHERE number = ?", (number,)).get is None:
            raise CorruptError(f"expected to delete a panel that is there, got number {number}")
        self._unused.update(
            row[0] for row in self._rows("DELETE FROM uses WHERE panel = ? RETURNING digest", number)
        )
        execute("DELETE FROM state WHERE panel = ?", (number,))
        execute("DELETE FROM history WHERE panel = ?", (number,))
        execute("DELETE FROM answers WHERE panel = ?", (number,))
        execute("DELETE FROM parked WHERE panel = ?", (number,))
        execute("DELETE FROM fired WHERE panel = ?", (number,))
        execute("DELETE FROM returned WHERE panel = ?", (number,))
        execute("DELETE FROM panels WHERE number = ?", (number,))

    def _apply(self, number: int, panel: PanelRun, position: int, now_ms: int) -> None:
        if panel.created is not None:
            head, values = self._create(panel.created)
        else:
            head, values = self._head(number), None
        if panel.defined is not None:
            self._define(panel.defined.panel, panel.defined.definition, panel.defined.digests)
        gained = 0
        if panel.commits:
            gained = self._commit(head, panel.commits, values)
        for answer in panel.answered.values():
            self._answer(head, answer)
        for tool, due_ms in panel.fired.items():
            execute = self._connection.execute
            if due_ms == NEVER:
                execute("DELETE FROM fired WHERE panel = ? AND tool = ?", (number, tool))
                continue
            execute("INSERT OR REPLACE INTO fired VALUES (?, ?, ?)", (number, tool, due_ms))
        if panel.parked or panel.returned:
            self._park(number, panel)
        rows = 2 * (gained + len(panel.answered)) + _TRIM_ROWS
        if self._trim_history(head, now_ms, rows) or panel.defined is not None:
            self._drop_uses(head)
        self._trim_answers(head, now_ms, rows)
        self._save(head, position)

    # -- one panel -----------------------------------------------------------------------------------

    def _create(self, created: Created) -> tuple[_Head, dict[str, bytes | None]]:
        execute = self._connection.execute
        number = created.panel
        crc = chunks.head_crc(created.id, created.epoch, created.at_ms, created.definition, created.digests)
        try:
            execute(
                "INSERT INTO panels VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0)",
                (
                    number,
                    created.id,
                    created.epoch,
                    created.at_ms,
                    created.definition,
                    crc,
                    created.seq,
                    created.seq,
                ),
            )
        except apsw.ConstraintError as exc:
            raise CorruptError(f"expected a new panel, got number {number}, id {created.id} again") from exc
        for digest in created.digests:
            self._use(number, digest, defined=True)
        head = _Head(number, created.seq, created.seq)
        for key, value in created.state.items():
            head.state_bytes += len(key) + len(value)
            head.state_sum += chunks.state_crc(key, value)
        self._connection.executemany(
            "INSERT INTO state VALUES (?, ?, ?, ?)",
            [(number, key, value, created.seq) for key, value in created.state.items()],
        )
        return head, dict(created.state)

    def _head(self, number: int) -> _Head:
        row = self._connection.execute(
            "SELECT seq, floor, state_bytes, state_sum, history_bytes, answers, answer_bytes "
            "FROM panels WHERE number = ?",
            (number,),
        ).fetchone()
        if row is None:
            raise CorruptError(f"expected a panel that is there, got records of number {number}")
        return _Head(number, *row)

    def _define(self, number: int, definition: bytes, digests: Sequence[bytes]) -> None:
        execute = self._connection.execute
        [(panel_id, epoch, created_ms)] = self._rows(
            "UPDATE panels SET definition = ? WHERE number = ? RETURNING id, epoch, created_ms",
            definition,
            number,
        )
        crc = chunks.head_crc(panel_id, epoch, created_ms, definition, digests)
        execute("UPDATE panels SET head_crc = ? WHERE number = ?", (crc, number))
        execute("UPDATE uses SET defined = 0 WHERE panel = ?", (number,))
        for digest in digests:
            self._use(number, digest, defined=True)

    def _use(self, number: int, digest: bytes, *, defined: bool, seq: int = 0) -> None:
        self._connection.execute(
            "INSERT INTO uses VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET defined = max(defined, excluded.defined), last_seq = max(last_seq, excluded.last_seq)",
            (number, digest, int(defined), seq),
        )

    def _commit(self, head: _Head, commits: list[Commit], values: dict[str, bytes | None] | None) -> int:
        """Adds ``commits`` and returns how many rows they made.

        ``values``: the whole state before them, where it is known.
        """
        digests = check_versions(head.panel, head.seq, commits)
        execute = self._connection.execute
        whole = values is not None
        known: dict[str, bytes | None] = values if values is not None else {}
        written: dict[str, int] = {}
        rows = 0
        for run, records in chunked(commits):
            before: dict[str, bytes | None] = {}
            for key, (value, seq) in chunks.last_changes(run).items():
                if key in known:
                    old = known[key]
                else:
                    old = None if whole else self._value(head.panel, key)
                before[key] = old
                known[key] = value
                written[key] = seq
                if old is not None:
                    head.state_bytes -= len(key) + len(old)
                    head.state_sum -= chunks.state_crc(key, old)
                if value is not None:
                    head.state_bytes += len(key) + len(value)
                    head.state_sum += chunks.state_crc(key, value)
            undo = chunks.encode_undo(before)
            size = len(records) + len(undo)
            first, last = run[0], run[-1]
            execute(
                "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    head.panel,
                    first.seq,
                    last.seq,
                    first.at_ms,
                    last.at_ms,
                    size,
                    chunks.chunk_crc(records, undo),
                    undo,
                    records,
                ),
            )
            head.history_bytes += size
            rows += 1
        head.seq = commits[-1].seq
        for key, seq in written.items():
            value = known[key]
            if value is None:
                execute("DELETE FROM state WHERE panel = ? AND key = ?", (head.panel, key))
            else:
                execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)", (head.panel, key, value, seq))
        for digest, seq in digests.items():
            self._use(head.panel, digest, defined=False, seq=seq)
        return rows

    def _value(self, number: int, key: str) -> bytes | None:
        row = self._connection.execute(
            "SELECT value FROM state WHERE panel = ? AND key = ?", (number, key)
        ).fetchone()
        return None if row is None else row[0]

    def _answer(self, head: _Head, answer: Ran) -> None:
        key = answer.key
        assert key is not None
        execute = self._connection.execute
        record = chunks.encode_record(answer)
        size = len(record) + len(key.subject.encode()) + len(key.key.encode())
        values = (
            head.panel,
            key.subject,
            key.key,
            key.fingerprint,
            answer.at_ms,
            size,
            chunks.record_crc(record),
            record,
        )
        insert = (
            "INSERT INTO answers (panel, subject, key, fingerprint, at_ms, bytes, crc, record) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        )
        execute(insert, values)
        if not self._connection.changes():
            # the key had expired and came again: its answer is a new one, and the youngest
            old: int = execute(
                "DELETE FROM answers WHERE panel = ? AND subject = ? AND key = ? RETURNING bytes",
                (head.panel, key.subject, key.key),
            ).get
            head.answers -= 1
            head.answer_bytes -= old
            execute(insert, values)
        head.answers += 1
        head.answer_bytes += size

    def _park(self, number: int, panel: PanelRun) -> None:
        execute = self._connection.execute
        for suspension, parked in panel.parked.items():
            if parked is None:
                execute("DELETE FROM parked WHERE panel = ? AND suspension = ?", (number, suspension))
                execute("DELETE FROM returned WHERE panel = ? AND suspension = ?", (number, suspension))
                continue
            record = chunks.encode_waiting(replace_image(parked, b""))
            crc = chunks.chunk_crc(record, parked.image)
            execute(
                "INSERT OR REPLACE INTO parked VALUES (?, ?, ?, ?, ?)",
                (number, suspension, crc, record, parked.image),
            )
            open_calls = {call.call for call in parked.calls}
            for (call,) in self._rows(
                "SELECT call FROM returned WHERE panel = ? AND suspension = ?", number, suspension
            ):
                if call not in open_calls:
                    execute(
                        "DELETE FROM returned WHERE panel = ? AND suspension = ? AND call = ?",
                        (number, suspension, call),
                    )
        for (suspension, call), returned in panel.returned.items():
            record = chunks.encode_waiting(returned)
            execute(
                "INSERT OR REPLACE INTO returned VALUES (?, ?, ?, ?, ?)",
                (number, suspension, call, chunks.record_crc(record), record),
            )

    def _save(self, head: _Head, position: int | None) -> None:
        self._connection.execute(
            "UPDATE panels SET seq = ?, floor = ?, state_bytes = ?, state_sum = ?, history_bytes = ?, "
            "answers = ?, answer_bytes = ?, position = coalesce(?, position) WHERE number = ?",
            (
                head.seq,
                head.floor,
                head.state_bytes,
                head.state_sum & 0xFFFFFFFF,
                head.history_bytes,
                head.answers,
                head.answer_bytes,
                position,
                head.panel,
            ),
        )

    # -- retention -----------------------------------------------------------------------------------

    def _trim_history(self, head: _Head, now_ms: int, rows: int) -> bool:
        """Removes at most ``rows`` chunks that are past retention, the oldest first.

        Returns whether there was one.
        """
        keep = self._retention
        execute = self._connection.execute
        before = head.floor
        while rows and head.floor < head.seq:
            row = execute(
                "SELECT rowid, last_seq, last_at_ms, bytes FROM history WHERE panel = ? "
                "ORDER BY first_seq LIMIT 1",
                (head.panel,),
            ).fetchone()
            if row is None:
                raise CorruptError(
                    f"expected history of panel {head.panel} from version {head.floor}, got none"
                )
            number, last_seq, last_at_ms, size = row
            if not (
                head.seq - last_seq >= keep.commits
                or head.history_bytes > keep.history_bytes
                or last_at_ms < now_ms - keep.age_ms
            ):
                break
            execute("DELETE FROM history WHERE rowid = ?", (number,))
            head.floor = last_seq
            head.history_bytes -= size
            rows -= 1
        return head.floor != before

    def _trim_answers(self, head: _Head, now_ms: int, rows: int) -> bool:
        """Removes at most ``rows`` answers that are past retention, the oldest first.

        Returns whether there was one.
        """
        keep = self._retention
        execute = self._connection.execute
        before = head.answers
        while rows and head.answers:
            row = execute(
                "SELECT number, at_ms, bytes FROM answers WHERE panel = ? ORDER BY number LIMIT 1",
                (head.panel,),
            ).fetchone()
            if row is None:
                raise CorruptError(f"expected {head.answers} answers of panel {head.panel}, got none")
            number, at_ms, size = row
            if not (
                head.answers > keep.answers
                or head.answer_bytes > keep.answer_bytes
                or at_ms < now_ms - keep.answer_ttl_ms
            ):
                break
            execute("DELETE FROM answers WHERE number = ?", (number,))
            head.answers -= 1
            head.answer_bytes -= size
            rows -= 1
        return head.answers != before

    def _drop_uses(self, head: _Head) -> None:
        """Forgets handlers that neither the definition nor a commit within history names."""
        self._unused.update(
            row[0]
            for row in self._rows(
                "DELETE FROM uses WHERE panel = ? AND defined = 0 AND last_seq <= ? RETURNING digest",
                head.panel,
                head.floor,
            )
        )

    def _drop_unused(self) -> None:
        for digest in self._unused:
            self._connection.execute(
                "DELETE FROM sources WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM uses WHERE digest = ?1)",
                (digest,),
            )
        self._unused.clear()

    def _sweep(self, now_ms: int) -> None:
        self._unused.clear()
        self._drop_ended(now_ms)
        first = self._swept + 1
        last = self._swept + _SWEEP_PANELS
        for row in self._rows(
            "SELECT number FROM panels WHERE number BETWEEN ? AND ? AND (floor < seq OR answers > 0)",
            first,
            last,
        ):
            head = self._head(row[0])
            trimmed = self._trim_history(head, now_ms, _TRIM_ROWS)
            if trimmed:
                self._drop_uses(head)
            if self._trim_answers(head, now_ms, _TRIM_ROWS) or trimmed:
                self._save(head, None)
        self._drop_unused()
        self._shrink()
        self._swept = 0 if last >= self._meta.last_panel else last

    def _shrink(self) -> None:
        # what is free is used again; only where much was deleted does the file get
        # shorter, a little at a time
        free: int = self._connection.execute("PRAGMA freelist_count").get
        if free > _VACUUM_AT_PAGES:
            pages: int = self._connection.execute("PRAGMA page_count").get
            if free > pages // 4:
                schema.execute_each(self._connection, [f"PRAGMA incremental_vacuum({_VACUUM_PAGES})"])
