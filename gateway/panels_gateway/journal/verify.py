"""Reads everything that is stored and reports what is wrong with it. Changes nothing.

What is checked: SQLite's own integrity check; every checksum; that each record decodes and belongs where it
lies; that history runs from its floor to the panel's version without a gap; that going back by the undo
values and forward by the records meets at the same state; that sums and counts are those of the rows; that
every handler named is there and has its digest; that nothing belongs to a panel that is not there; and that
the log goes on where the store ends.

It cannot see a change to an ``at_ms`` column, or one that changed the checksum too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import apsw
import msgspec

from panels_gateway.journal import chunks, schema
from panels_gateway.journal.chunks import Commit
from panels_gateway.journal.fold import coalesce, grouped
from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.records import Batch, Parked, Ran, Returned
from panels_shared.handlers import handler_digest
from panels_shared.messages import Language

#: More findings than this help nobody.
MAX_FINDINGS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    ``where`` names the file, and the panel or row if it is known; ``problem`` is a sentence's end.
    """

    where: str
    problem: str


@dataclass(slots=True)
class _Panel:
    """A row of ``panels`` that is being looked at."""

    number: int
    id: str
    epoch: str
    created_ms: int
    definition: bytes
    head_crc: int
    seq: int
    floor: int
    state_bytes: int
    state_sum: int
    history_bytes: int
    answers: int
    answer_bytes: int
    position: int


def verify(
    database: Path, *, tail: Callable[[int], Iterable[Batch]], progress: Callable[[int, int], None]
) -> list[Finding]:
    """What is wrong with ``database`` and with the log behind it, ``[]`` for nothing; at most
    ``MAX_FINDINGS``.

    ``tail`` gives the batches behind a position. ``progress`` counts panels. It takes as long as reading the
    file twice. A gateway may be running on it, whose WAL grows for that time.
    """
    findings: list[Finding] = []
    try:
        if not database.exists():
            return [Finding(str(database), "expected a database, got no file")]
        connection = schema.open_reader(database)
    except JournalError as exc:
        return [Finding(str(database), str(exc))]
    try:
        for finding in _Verification(connection, database, progress).findings():
            findings.append(finding)
            if len(findings) >= MAX_FINDINGS:
                return findings
        findings += _log_findings(connection, tail)
    except apsw.Error as exc:
        findings.append(Finding(str(database), str(exc)))
    finally:
        connection.close()
    return findings[:MAX_FINDINGS]


def _log_findings(connection: apsw.Connection, tail: Callable[[int], Iterable[Batch]]) -> Iterator[Finding]:
    position: int = connection.execute("SELECT position FROM meta").get
    fence: int = connection.execute("SELECT fence FROM meta").get
    try:
        for group in grouped(tail(position)):
            run = coalesce(group, position=position, fence=fence)
            position, fence = run.position, run.fence
    except JournalError as exc:
        yield Finding("log", str(exc))


class _Verification:
    def __init__(
        self, connection: apsw.Connection, database: Path, progress: Callable[[int, int], None]
    ) -> None:
        self._connection = connection
        self._database = database
        self._progress = progress
        self._digests: set[bytes] = set()

    def findings(self) -> Iterator[Finding]:
        self._connection.execute("BEGIN")
        try:
            problems = [text for (text,) in self._rows("PRAGMA integrity_check") if text != "ok"]
            yield from (self._finding("", f"integrity check: {text}") for text in problems)
            if problems:
                return  # rows read from such a file may be anything
            yield from self._sources()
            yield from self._meta()
            yield from self._strays()
            yield from self._revocations()
            yield from self._panels()
        finally:
            self._connection.execute("ROLLBACK")

    def _rows(self, sql: str, *values: apsw.SQLiteValue) -> Iterable[tuple[Any, ...]]:
        return self._connection.execute(sql, values)

    def _finding(self, where: str, problem: str) -> Finding:
        return Finding(f"{self._database}: {where}" if where else str(self._database), problem)

    def _differs(self, where: str, what: str, expected: object, found: object) -> Iterator[Finding]:
        if expected != found:
            yield self._finding(where, f"expected {what} {expected}, got {found}")

    def _meta(self) -> Iterator[Finding]:
        ((last_panel, panels),) = self._rows("SELECT last_panel, panels FROM meta")
        ((highest, count),) = self._rows("SELECT coalesce(max(number), 0), count(*) FROM panels")
        yield from self._differs("meta", "panels", panels, count)
        if highest > last_panel:
            yield self._finding("meta", f"expected numbers of panels up to {last_panel}, got {highest}")

    def _sources(self) -> Iterator[Finding]:
        for digest, language, entry, source in self._rows(
            "SELECT digest, language, entry, source FROM sources"
        ):
            self._digests.add(digest)
            known = language in get_args(Language)
            if not known or handler_digest(language, entry, source) != digest:
                yield self._finding(
                    f"source {digest.hex()}", "expected a handler of that digest, got another"
                )

    def _strays(self) -> Iterator[Finding]:
        for table in ("state", "history", "answers", "uses", "parked", "returned", "fired"):
            for (panel,) in self._rows(
                f"SELECT DISTINCT panel FROM {table} WHERE panel NOT IN (SELECT number FROM panels) LIMIT 100"  # noqa: S608 - a constant
            ):
                yield self._finding(
                    f"{table} of panel {panel}", "expected rows of panels that are there, got others"
                )

    def _revocations(self) -> Iterator[Finding]:
        for name, expires_ms, crc, record in self._rows("SELECT * FROM revocations"):
            where = f"revocation {name}"
            yield from self._differs(where, "checksum", crc, chunks.record_crc(record))
            try:
                revoked = chunks.decode_revoked(record)
            except msgspec.MsgspecError as exc:
                yield self._finding(where, str(exc))
                continue
            if (revoked.name, revoked.expires_ms) != (name, expires_ms):
                yield self._finding(where, "expected the record of this row, got another")

    def _waiting(self, panel: _Panel) -> Iterator[Finding]:
        parked: set[int] = set()
        for suspension, crc, record, image in self._rows(
            "SELECT suspension, crc, record, image FROM parked WHERE panel = ?", panel.number
        ):
            parked.add(suspension)
            where = f"suspension {suspension} of panel {panel.number}"
            yield from self._differs(where, "checksum", crc, chunks.chunk_crc(record, image))
            yield from self._is_of(where, record, Parked, (panel.number, suspension))
        for suspension, call, crc, record in self._rows(
            "SELECT suspension, call, crc, record FROM returned WHERE panel = ?", panel.number
        ):
            where = f"answer to call {call} of suspension {suspension} of panel {panel.number}"
            yield from self._differs(where, "checksum", crc, chunks.record_crc(record))
            yield from self._is_of(where, record, Returned, (panel.number, suspension, call))
            if suspension not in parked:
                yield self._finding(where, "expected a suspension that is there, got none")

    def _is_of(
        self, where: str, data: bytes, kind: type[Parked | Returned], name: tuple[int, ...]
    ) -> Iterator[Finding]:
        try:
            record = chunks.decode_waiting(data)
        except msgspec.MsgspecError as exc:
            yield self._finding(where, str(exc))
            return
        fields = (record.panel, record.suspension, *((record.call,) if isinstance(record, Returned) else ()))
        if not isinstance(record, kind) or fields != name:
            yield self._finding(where, "expected the record of this row, got another")

    def _panels(self) -> Iterator[Finding]:
        ((total,),) = self._rows("SELECT count(*) FROM panels")
        for done, row in enumerate(self._rows("SELECT * FROM panels ORDER BY number"), 1):
            panel = _Panel(*row)
            where = f"panel {panel.number}"
            named = self._rows("SELECT digest FROM uses WHERE panel = ? AND defined", panel.number)
            crc = chunks.head_crc(
                panel.id, panel.epoch, panel.created_ms, panel.definition, [digest for (digest,) in named]
            )
            yield from self._differs(where, "checksum", panel.head_crc, crc)
            state = yield from self._state(panel)
            commits = yield from self._history(panel, state)
            yield from self._uses(panel, commits)
            yield from self._answers(panel)
            yield from self._waiting(panel)
            if done % 64 == 0 or done == total:
                self._progress(done, total)

    def _state(self, panel: _Panel) -> Generator[Finding, None, dict[str, tuple[bytes | None, int]]]:
        where = f"state of panel {panel.number}"
        state: dict[str, tuple[bytes | None, int]] = {}
        size = total = 0
        for key, value, seq in self._rows("SELECT key, value, seq FROM state WHERE panel = ?", panel.number):
            state[key] = value, seq
            size += len(key) + len(value)
            total += chunks.state_crc(key, value)
            if seq > panel.seq:
                yield self._finding(where, f"expected versions up to {panel.seq}, got {seq} at key {key!r}")
        yield from self._differs(where, "bytes", panel.state_bytes, size)
        yield from self._differs(where, "checksum", panel.state_sum, total & 0xFFFFFFFF)
        return state

    def _history(
        self, panel: _Panel, state: dict[str, tuple[bytes | None, int]]
    ) -> Generator[Finding, None, dict[bytes, int]]:
        """Goes back through history, ``state`` with it; returns the last version that each handler made."""
        where = f"history of panel {panel.number}"
        handlers: dict[bytes, int] = {}
        expected = panel.seq
        size = 0
        for first, last, row_bytes, crc, undo, records in self._rows(
            "SELECT first_seq, last_seq, bytes, crc, undo, records FROM history WHERE panel = "
            "? ORDER BY first_seq DESC",
            panel.number,
        ):
            yield from self._differs(where, "version", expected, last)
            yield from self._differs(
                f"{where}, versions {first} to {last}", "bytes", row_bytes, len(undo) + len(records)
            )
            expected = first - 1
            size += row_bytes
            try:
                row = chunks.checked_row(panel.number, first, last, crc, undo, records)
                commits = chunks.decode_commits(records)
                changes = chunks.last_changes(commits)
            except (CorruptError, msgspec.MsgspecError) as exc:
                yield self._finding(where, str(exc))
                return handlers  # what lies before it cannot be compared with anything
            yield from self._chunk(panel, first, last, commits)
            if changes.keys() != row.undo.keys():
                yield self._finding(
                    f"{where}, versions {first} to {last}",
                    "expected undo values of the keys that change, got others",
                )
            for key, (value, seq) in changes.items():
                found, found_seq = state.get(key, (None, 0))
                # a key that a later chunk changed has the value that it had before that, and no version
                if value != found or (found_seq and value is not None and found_seq != seq):
                    yield self._finding(
                        f"{where}, versions {first} to {last}",
                        f"expected the value of key {key!r} that comes after it, got another",
                    )
            state.update((key, (value, 0)) for key, value in row.undo.items())
            for commit in commits:
                if type(commit) is Ran:
                    handlers[commit.digest] = max(commit.seq, handlers.get(commit.digest, 0))
        yield from self._differs(where, "its beginning after version", panel.floor, expected)
        yield from self._differs(where, "bytes", panel.history_bytes, size)
        return handlers

    def _chunk(self, panel: _Panel, first: int, last: int, commits: list[Commit]) -> Iterator[Finding]:
        where = f"history of panel {panel.number}, versions {first} to {last}"
        if [commit.seq for commit in commits] != list(range(first, last + 1)):
            yield self._finding(where, "expected each of these versions once, got others")
        if any(commit.panel != panel.number for commit in commits):
            yield self._finding(where, "expected commits of this panel, got one of another")

    def _uses(self, panel: _Panel, handlers: dict[bytes, int]) -> Iterator[Finding]:
        where = f"handlers of panel {panel.number}"
        used: dict[bytes, int] = dict(
            self._rows("SELECT digest, last_seq FROM uses WHERE panel = ?", panel.number)
        )
        for digest in used:
            if digest not in self._digests:
                yield self._finding(where, f"expected the source of {digest.hex()}, got none")
        for digest, seq in handlers.items():
            yield from self._differs(
                where, f"the last version by {digest.hex()} to be", used.get(digest), seq
            )

    def _answers(self, panel: _Panel) -> Iterator[Finding]:
        where = f"answers of panel {panel.number}"
        count = size = 0
        for subject, key, fingerprint, row_bytes, crc, record in self._rows(
            "SELECT subject, key, fingerprint, bytes, crc, record FROM answers WHERE panel = ?", panel.number
        ):
            count += 1
            size += row_bytes
            yield from self._differs(
                where, "bytes", row_bytes, len(record) + len(subject.encode()) + len(key.encode())
            )
            yield from self._differs(where, "checksum", crc, chunks.record_crc(record))
            try:
                answer = chunks.decode_record(record)
            except msgspec.MsgspecError as exc:
                yield self._finding(where, str(exc))
                continue
            name = answer.key if type(answer) is Ran else None
            if name is None or (answer.panel, name.subject, name.key, name.fingerprint) != (
                panel.number,
                subject,
                key,
                fingerprint,
            ):
                yield self._finding(where, f"expected the answer to key {key!r}, got another")
        yield from self._differs(where, "answers", panel.answers, count)
        yield from self._differs(where, "bytes", panel.answer_bytes, size)
