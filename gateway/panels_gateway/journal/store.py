"""Reads what is folded: panels, their history, and answers.

Reads are exact as of one position each, while the folding process goes on: a method sees one snapshot from
its first row to its last. Only SQLite caches anything, and opening reads one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from panels_gateway.journal import chunks, schema
from panels_gateway.journal.chunks import Commit, Row
from panels_gateway.journal.journal import CorruptError, History, StoredPanel, Summary, Waiting
from panels_gateway.journal.records import Key, Parked, Ran, Returned, Revoked, Source, replace_image

#: Behind every id.
_LAST_ID: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Folded:
    """Where the store stands.

    ``last_panel`` is the highest number ever given, 0 for none; ``panels`` how many there are.
    """

    store_id: str
    position: int
    fence: int
    last_panel: int
    panels: int


class Store:
    """The database, open for reading. Its methods block on the disk, and are called by one thread at a time.

    Each raises ``CorruptError`` for what does not pass its checks, and ``JournalError`` where
    the disk does not let it.
    """

    def __init__(self, path: Path) -> None:
        """Opens the database at ``path``, which ``schema.prepare`` has made. Raises ``CorruptError``."""
        self._path = path
        self._connection = schema.open_reader(path)

    @property
    def connection(self) -> apsw.Connection:
        """The connection, for backup and verification, which read more than one panel."""
        return self._connection

    def folded(self) -> Folded:
        """Where the store stands."""
        with self._snapshot():
            return self._folded()

    def load(self, panel_id: str) -> StoredPanel | None:
        """The panel of that id with its whole state, None if there is none."""
        with self._snapshot():
            row = self._row(
                "SELECT number, epoch, created_ms, definition, head_crc, seq, state_bytes, "
                "state_sum FROM panels WHERE id = ?",
                panel_id,
            )
            if row is None:
                return None
            number, epoch, created_ms, definition, crc, seq, state_bytes, state_sum = row
            sources = self._sources(number)
            if chunks.head_crc(panel_id, epoch, created_ms, definition, sources) != crc:
                raise self._corrupt(f"panel {number}", f"checksum {crc}", "another")
            return StoredPanel(
                number,
                panel_id,
                epoch,
                created_ms,
                definition,
                sources,
                seq,
                self._state(number, state_bytes, state_sum),
                self._folded().position,
                self._keys(number),
                self._waiting(number, None),
                dict(self._connection.execute("SELECT tool, due_ms FROM fired WHERE panel = ?", (number,))),
            )

    def waiting(self, panel: int, suspension: int) -> Waiting | None:
        """A suspension with its image, None if there is none."""
        with self._snapshot():
            found = self._waiting(panel, suspension)
            return found[0] if found else None

    def revocations(self) -> list[Revoked]:
        """The revocations of tokens that are in effect, or ended a while ago, by name."""
        with self._snapshot():
            found: list[Revoked] = []
            for name, crc, data in self._connection.execute(
                "SELECT name, crc, record FROM revocations ORDER BY name"
            ):
                where = f"revocation {name}"
                if chunks.record_crc(data) != crc:
                    raise self._corrupt(where, f"checksum {crc}", "another")
                try:
                    found.append(chunks.decode_revoked(data))
                except msgspec.MsgspecError as exc:
                    raise self._corrupt(where, "a record", str(exc)) from exc
            return found

    def active_panels(self) -> list[str]:
        """As ``Archive.active_panels``. It looks at each suspension's record, and at no image."""
        with self._snapshot():
            first: dict[int, int] = {}
            for panel, data in self._connection.execute("SELECT panel, record FROM parked"):
                try:
                    deadline_ms = chunks.decode_deadline(data)
                except msgspec.MsgspecError:
                    deadline_ms = 0  # damaged, which loading its panel will say
                first[panel] = min(deadline_ms, first.get(panel, deadline_ms))
            found: list[tuple[bool, int, str]] = []
            for number, panel_id in self._connection.execute(
                "SELECT number, id FROM panels WHERE number IN (SELECT panel FROM parked UNION "
                "SELECT panel FROM fired)"
            ):
                found.append((number not in first, first.get(number, 0), panel_id))
            return [panel_id for _, _, panel_id in sorted(found)]

    def _waiting(self, panel: int, suspension: int | None) -> list[Waiting]:
        """The panel's suspensions without their images, or the one that is named with its own."""
        where = "panel = ?" if suspension is None else "panel = ? AND suspension = ?"
        values = (panel,) if suspension is None else (panel, suspension)
        returned: dict[int, list[Returned]] = {}
        for number, call, crc, data in self._connection.execute(
            f"SELECT suspension, call, crc, record FROM returned WHERE {where} ORDER BY suspension, call",  # noqa: S608 - a constant
            values,
        ):
            record = self._decoded(
                f"answer to call {call} of suspension {number} of panel {panel}", crc, data
            )
            assert isinstance(record, Returned)
            returned.setdefault(number, []).append(record)
        found: list[Waiting] = []
        for number, crc, data, image in self._connection.execute(
            f"SELECT suspension, crc, record, image FROM parked WHERE {where} ORDER BY suspension",  # noqa: S608 - a constant
            values,
        ):
            parked = self._decoded(f"suspension {number} of panel {panel}", crc, data, image)
            assert isinstance(parked, Parked)
            if suspension is not None:
                parked = replace_image(parked, image)
            found.append(Waiting(parked, tuple(returned.get(number, ())), len(image)))
        return found

    def _decoded(self, where: str, crc: int, data: bytes, image: bytes = b"") -> Parked | Returned:
        if chunks.chunk_crc(data, image) != crc:
            raise self._corrupt(where, f"checksum {crc}", "another")
        try:
            return chunks.decode_waiting(data)
        except msgspec.MsgspecError as exc:
            raise self._corrupt(where, "a record", str(exc)) from exc

    def source(self, digest: bytes) -> Source | None:
        """The handler of that digest, None if no panel uses it."""
        row = self._row("SELECT language, entry, source, crc FROM sources WHERE digest = ?", digest)
        if row is None:
            return None
        source = Source(digest, *row[:3])
        if chunks.source_crc(source) != row[3]:
            raise self._corrupt(f"source {digest.hex()}", f"checksum {row[3]}", "another")
        return source

    def summaries(
        self, *, after: str, limit: int, ranges: Sequence[tuple[str, str]] | None = None
    ) -> list[Summary]:
        """The panels whose id is greater than ``after`` by code points, at most ``limit``, by id. See
        ``Journal.summaries`` for ``ranges``, each of which costs one seek.
        """
        found: list[Summary] = []
        with self._snapshot():
            for first, last in ranges if ranges is not None else (("", _LAST_ID),):
                # one lower bound: the index is entered by one, and the other would be looked at row by row
                found += [
                    Summary(*row)
                    for row in self._connection.execute(
                        "SELECT number, id, epoch, created_ms, seq, definition, state_bytes FROM panels "
                        "WHERE id >= ? AND id <= ? AND id <> ? ORDER BY id LIMIT ?",
                        (max(first, after), last, after, limit - len(found)),
                    )
                ]
                if len(found) == limit:
                    break
        return found

    def history(
        self, panel: int, *, since: int, limit_bytes: int, limit: int | None = None
    ) -> History | None:
        """The commits after version ``since``, as many as fit into ``limit_bytes`` and at most ``limit``, but
        at least one if there is one.

        None if history does not reach back so far, or if there is no such panel. No commits come after a
        version that is not folded yet.
        """
        with self._snapshot():
            bounds = self._bounds(panel)
            if bounds is None or since < bounds[0]:
                return None
            commits: list[Commit] = []
            size = 0
            for row in self._rows(panel, "last_seq > ? ORDER BY first_seq", since):
                with self._decoding(panel, row):
                    for commit, commit_bytes in chunks.sized_commits(
                        row.records, skip=max(0, since + 1 - row.first_seq)
                    ):
                        if commit.seq != since + len(commits) + 1:
                            raise self._gap(panel, since + len(commits) + 1, commit.seq)
                        size += commit_bytes
                        if commits and (size > limit_bytes or len(commits) == limit):
                            return History(commits, False)
                        commits.append(commit)
            if since < bounds[1] and since + len(commits) != bounds[1]:
                raise self._gap(panel, since + len(commits) + 1, bounds[1])
            return History(commits, True)

    def state_at(self, panel: int, seq: int) -> dict[str, bytes] | None:
        """The state at version ``seq``; None if history does not reach it, or is not folded so far."""
        with self._snapshot():
            bounds = self._bounds(panel)
            if bounds is None or not bounds[0] <= seq <= bounds[1]:
                return None
            state: dict[str, bytes] = dict(
                self._connection.execute("SELECT key, value FROM state WHERE panel = ?", (panel,))
            )
            expected = bounds[1]
            for row in self._rows(panel, "last_seq > ? ORDER BY first_seq DESC", seq):
                if row.last_seq != expected:
                    raise self._gap(panel, expected, row.last_seq)
                expected = row.first_seq - 1
                for key, value in row.undo.items():
                    _put(state, key, value)
                if row.first_seq <= seq:
                    with self._decoding(panel, row):
                        before = [
                            commit for commit in chunks.decode_commits(row.records) if commit.seq <= seq
                        ]
                    for key, (value, _) in chunks.last_changes(before).items():
                        _put(state, key, value)
            if expected > seq:
                raise self._gap(panel, expected, seq)
            return state

    def key_history(self, panel: int, key: str, *, limit: int) -> list[Commit]:
        """The commits within history that set or deleted ``key``, the newest first, at most ``limit``."""
        found: list[Commit] = []
        with self._snapshot():
            for row in self._rows(panel, "last_seq > ? ORDER BY first_seq DESC", 0):
                if len(found) >= limit:
                    break
                if key not in row.undo:  # undo has exactly the keys that the chunk changes
                    continue
                with self._decoding(panel, row):
                    commits = chunks.decode_commits(row.records)
                changed = [
                    commit
                    for commit, mutations in zip(commits, chunks.mutations_of(commits), strict=True)
                    if any(mutation.key == key for mutation in mutations)
                ]
                found += reversed(changed)
        return found[:limit]

    def answer(self, panel: int, subject: str, key: str) -> Ran | None:
        """The record of the trigger that came under this key, None if it is not there any more.

        The caller looks at its time.
        """
        with self._snapshot():
            row = self._row(
                "SELECT record, crc FROM answers WHERE panel = ? AND subject = ? AND key = ?",
                panel,
                subject,
                key,
            )
        if row is None:
            return None
        where = f"answer of panel {panel}"
        if chunks.record_crc(row[0]) != row[1]:
            raise self._corrupt(where, f"checksum {row[1]}", "another")
        try:
            record = chunks.decode_record(row[0])
        except msgspec.MsgspecError as exc:
            raise self._corrupt(where, "a record", str(exc)) from exc
        if type(record) is not Ran:
            raise self._corrupt(where, "the record of a trigger", "another")
        return record

    def close(self) -> None:
        """Closes the database. Idempotent."""
        self._connection.close()

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                # a snapshot kept open would keep the WAL from being cut
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except apsw.Error as exc:
            raise schema.named(self._path, exc) from exc
        except TypeError as exc:  # a damaged row can have a value of another type than its column
            raise self._corrupt("a row", "values of the types of their columns", str(exc)) from exc

    @contextmanager
    def _decoding(self, panel: int, row: Row) -> Iterator[None]:
        try:
            yield
        except msgspec.MsgspecError as exc:
            raise self._corrupt(
                f"history of panel {panel}, versions {row.first_seq} to {row.last_seq}", "commits", str(exc)
            ) from exc

    def _row(self, sql: str, *values: apsw.SQLiteValue) -> tuple[Any, ...] | None:
        return self._connection.execute(sql, values).fetchone()

    def _folded(self) -> Folded:
        row = self._row("SELECT store_id, position, fence, last_panel, panels FROM meta")
        if row is None:
            raise self._corrupt("meta", "a row", "none")
        return Folded(*row)

    def _bounds(self, panel: int) -> tuple[int, int] | None:
        """The oldest version that history reaches, and the newest."""
        row = self._row("SELECT floor, seq FROM panels WHERE number = ?", panel)
        return None if row is None else (row[0], row[1])

    def _rows(self, panel: int, rest: str, seq: int) -> Iterator[Row]:
        sql = f"SELECT first_seq, last_seq, crc, undo, records FROM history WHERE panel = ? AND {rest}"  # noqa: S608 - a constant of this module
        for first, last, crc, undo, records in self._connection.execute(sql, (panel, seq)):
            try:
                yield chunks.checked_row(panel, first, last, crc, undo, records)
            except CorruptError as exc:
                raise CorruptError(f"{self._path}: {exc}") from exc

    def _sources(self, panel: int) -> dict[bytes, Source]:
        sources: dict[bytes, Source] = {}
        for digest, found, language, entry, text, crc in self._connection.execute(
            "SELECT uses.digest, sources.digest, language, entry, source, crc FROM uses LEFT JOIN sources "
            "USING (digest) WHERE panel = ? AND defined",
            (panel,),
        ):
            if found is None:
                raise self._corrupt(f"handlers of panel {panel}", f"the source of {digest.hex()}", "none")
            source = sources[digest] = Source(digest, language, entry, text)
            if chunks.source_crc(source) != crc:
                raise self._corrupt(f"source {digest.hex()}", f"checksum {crc}", "another")
        return sources

    def _state(self, panel: int, state_bytes: int, state_sum: int) -> dict[str, bytes]:
        state: dict[str, bytes] = {}
        found_sum = found_bytes = 0
        for key, value in self._connection.execute("SELECT key, value FROM state WHERE panel = ?", (panel,)):
            state[key] = value
            found_bytes += len(key) + len(value)
            found_sum += chunks.state_crc(key, value)
        if found_bytes != state_bytes:
            raise self._corrupt(f"state of panel {panel}", f"{state_bytes} bytes", str(found_bytes))
        if found_sum & 0xFFFFFFFF != state_sum:
            raise self._corrupt(f"state of panel {panel}", f"checksum {state_sum}", "another")
        return state

    def _keys(self, panel: int) -> list[tuple[Key, int]]:
        return [
            (Key(subject, key, fingerprint), at_ms)
            for subject, key, fingerprint, at_ms in self._connection.execute(
                "SELECT subject, key, fingerprint, at_ms FROM answers WHERE panel = ? ORDER BY number",
                (panel,),
            )
        ]

    def _corrupt(self, where: str, expected: str, found: str) -> CorruptError:
        return CorruptError(f"{self._path}: {where}: expected {expected}, got {found}")

    def _gap(self, panel: int, expected: int, found: int) -> CorruptError:
        return self._corrupt(f"history of panel {panel}", f"version {expected}", str(found))


def _put(state: dict[str, bytes], key: str, value: bytes | None) -> None:
    if value is None:
        state.pop(key, None)
    else:
        state[key] = value
