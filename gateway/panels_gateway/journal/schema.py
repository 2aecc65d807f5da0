"""The database ``panels.db``: its tables, its version, and how it is made, opened and brought up to date.

    meta      one row: format, identity, the position folded up to, the highest fence, what panels there are
    panels    a panel's head: identity, definition, version, and the sums that bound what hangs on it
    state     one row per panel and key
    history   one row per panel and run of commits (``chunks``), from ``floor`` + 1 to ``seq``, gapless
    parked    handlers that wait, with their images;  returned: what their open calls were answered
    fired     when tools that run at times were due last
    answers   what was answered to idempotency keys, the oldest with the lowest number
    revocations  tokens that are refused
    sources   handlers by digest;  uses: which panel names which digest, in its definition or in its history

One process writes (the folding process); others read through connections of their own, beside it. A file is
made under another name and renamed when it is whole, so a ``panels.db`` that is not one was not made by this
program, and is refused. Columns ``application_id`` of the file and ``format`` of ``meta`` keep their meaning
in every version.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import apsw

from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.syncing import sync_folder

DATABASE: Final = "panels.db"
FORMAT: Final = 1
APPLICATION_ID: Final = int.from_bytes(b"Pnls", "big")

#: How long a statement waits for another connection's lock. Only start-up and operator functions ever meet
#: one.
BUSY_TIMEOUT_MS: Final = 5_000

_TABLES: Final = (
    """CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL,
        store_id TEXT NOT NULL,      -- names this store's history; a backup has the same one
        position INTEGER NOT NULL,   -- of the last batch folded
        fence INTEGER NOT NULL,      -- highest seen
        last_panel INTEGER NOT NULL, -- highest number ever given
        panels INTEGER NOT NULL      -- how many there are
    ) STRICT""",
    """CREATE TABLE panels (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        epoch TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        definition BLOB NOT NULL,
        head_crc INTEGER NOT NULL,   -- of id, epoch, created_ms, definition and the digests in it
        seq INTEGER NOT NULL,
        floor INTEGER NOT NULL,      -- history reaches back to this version
        state_bytes INTEGER NOT NULL,-- characters of keys and bytes of values
        state_sum INTEGER NOT NULL,  -- sum of the checksums of its keys, modulo 2 ** 32
        history_bytes INTEGER NOT NULL,
        answers INTEGER NOT NULL,
        answer_bytes INTEGER NOT NULL,
        position INTEGER NOT NULL    -- of the run that last touched it
    ) STRICT""",
    """CREATE TABLE state (
        panel INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        seq INTEGER NOT NULL,        -- the version that gave it this value
        PRIMARY KEY (panel, key)
    ) WITHOUT ROWID, STRICT""",
    """CREATE TABLE history (
        panel INTEGER NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq INTEGER NOT NULL,
        first_at_ms INTEGER NOT NULL,
        last_at_ms INTEGER NOT NULL,
        bytes INTEGER NOT NULL,      -- of records and undo
        crc INTEGER NOT NULL,        -- of records, then undo
        undo BLOB NOT NULL,
        records BLOB NOT NULL,
        PRIMARY KEY (panel, first_seq)
    ) STRICT""",
    """CREATE TABLE answers (
        number INTEGER PRIMARY KEY,
        panel INTEGER NOT NULL,
        subject TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        at_ms INTEGER NOT NULL,
        bytes INTEGER NOT NULL,      -- of the record, subject and key
        crc INTEGER NOT NULL,        -- of the record
        record BLOB NOT NULL,
        UNIQUE (panel, subject, key)
    ) STRICT""",
    # an index ends with the rowid, so this one has a panel's answers from the oldest to the newest
    "CREATE INDEX answers_by_age ON answers (panel)",
    """CREATE TABLE parked (
        panel INTEGER NOT NULL,
        suspension INTEGER NOT NULL,
        crc INTEGER NOT NULL,        -- of the record, then of the image
        record BLOB NOT NULL,        -- without its image
        image BLOB NOT NULL,
        PRIMARY KEY (panel, suspension)
    ) STRICT""",
    """CREATE TABLE fired (
        panel INTEGER NOT NULL,
        tool TEXT NOT NULL,
        due_ms INTEGER NOT NULL,
        PRIMARY KEY (panel, tool)
    ) WITHOUT ROWID, STRICT""",
    """CREATE TABLE returned (
        panel INTEGER NOT NULL,
        suspension INTEGER NOT NULL,
        call INTEGER NOT NULL,
        crc INTEGER NOT NULL,        -- of the record
        record BLOB NOT NULL,
        PRIMARY KEY (panel, suspension, call)
    ) WITHOUT ROWID, STRICT""",
    """CREATE TABLE revocations (
        name TEXT PRIMARY KEY,
        expires_ms INTEGER NOT NULL, -- then it concerns no token that is still valid
        crc INTEGER NOT NULL,        -- of the record
        record BLOB NOT NULL
    ) WITHOUT ROWID, STRICT""",
    "CREATE INDEX revocations_by_end ON revocations (expires_ms)",
    """CREATE TABLE sources (
        digest BLOB NOT NULL UNIQUE,
        language TEXT NOT NULL,
        entry TEXT NOT NULL,
        source BLOB NOT NULL,
        crc INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE uses (
        panel INTEGER NOT NULL,
        digest BLOB NOT NULL,
        defined INTEGER NOT NULL,    -- 1 where the definition names it
        last_seq INTEGER NOT NULL,   -- of the last commit that ran it, 0 for none
        PRIMARY KEY (panel, digest)
    ) WITHOUT ROWID, STRICT""",
    "CREATE INDEX uses_by_digest ON uses (digest)",
)

Migration = Callable[[apsw.Connection], None]

#: The n-th takes a database of format n + 1 to format n + 2, inside a transaction, and need not touch
#: ``meta.format``.
MIGRATIONS: Final[Sequence[Migration]] = ()

_T = TypeVar("_T")


def prepare(path: Path, *, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Makes the database at ``path`` where there is none, and brings an older one up to date. Idempotent.

    Nobody else may have it open. Raises ``CorruptError`` for a file that is foreign, damaged or newer than
    this program, which is left as it is, and ``JournalError`` where the disk does not let it.
    """
    if not path.exists():
        for suffix in ("-wal", "-journal"):
            if path.with_name(path.name + suffix).exists():
                raise CorruptError(
                    f"{path}: expected the database that {path.name}{suffix} belongs to, got none"
                )
        _create(path)
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        _migrate(connection, path, migrations)
    finally:
        connection.close()


def open_writer(path: Path) -> apsw.Connection:
    """The one connection that writes. A transaction is on the disk when its COMMIT has returned.

    Raises as ``prepare`` does, and ``CorruptError`` where ``prepare`` has not been called.
    """
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
    require_format(connection, path)
    return connection


def open_reader(path: Path) -> apsw.Connection:
    """A connection that cannot write. Raises ``CorruptError`` for a file that this program does not read."""
    connection = _connect(path, apsw.SQLITE_OPEN_READONLY)
    require_format(connection, path)
    return connection


def open_alone(path: Path) -> apsw.Connection:
    """A connection to a file that nobody changes, such as a backup on a medium that cannot be written. Raises
    as ``open_reader``.
    """
    if path.with_name(path.name + "-wal").exists():
        return open_reader(path)
    connection = _connect(path, apsw.SQLITE_OPEN_READONLY, immutable=True)
    require_format(connection, path)
    return connection


def guarded(path: Path, action: Callable[[], _T]) -> _T:
    """What ``action`` returns, with the errors of SQLite as those of the journal."""
    try:
        return action()
    except apsw.Error as exc:
        raise named(path, exc) from exc


def named(path: Path, exc: apsw.Error) -> JournalError:
    """The journal's error for one of SQLite's."""
    if isinstance(exc, (apsw.NotADBError, apsw.CorruptError)):
        return CorruptError(f"{path}: expected a database of panels, got a damaged or foreign file ({exc})")
    return JournalError(f"{path}: {exc}")


def require_format(connection: apsw.Connection, path: Path) -> None:
    """Raises ``CorruptError`` unless the database is of this program's format. Closes the connection then."""
    try:
        found = guarded(path, lambda: _format(connection, path))
        if found != FORMAT:
            raise CorruptError(f"{path}: expected format {FORMAT}, got {found}")
    except BaseException:
        connection.close()
        raise


def new_store_id() -> str:
    """A name that no other store has."""
    return secrets.token_hex(16)


def execute_each(connection: apsw.Connection, statements: Sequence[str]) -> None:
    """Runs each statement to its end: a pragma that returns a row leaves undone what is joined to it by a
    semicolon.
    """
    for statement in statements:
        connection.execute(statement).fetchall()


def _connect(path: Path, flags: int, *, immutable: bool = False) -> apsw.Connection:
    def connect() -> apsw.Connection:
        name = f"file:{quote(str(path.absolute()))}?immutable=1" if immutable else str(path)
        connection = apsw.Connection(name, flags=flags | (apsw.SQLITE_OPEN_URI if immutable else 0))
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        pragmas = ["PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON"]
        if flags == apsw.SQLITE_OPEN_READWRITE:
            # FULL: a segment may be deleted as soon as the transaction that folded it has returned
            pragmas += ["PRAGMA synchronous=FULL", "PRAGMA wal_autocheckpoint=0", "PRAGMA cache_size=-16000"]
        execute_each(connection, pragmas)
        return connection

    return guarded(path, connect)


def _create(path: Path) -> None:
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)

    def create() -> None:
        connection = apsw.Connection(
            str(unfinished), flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        )
        try:
            # before the first table: these are properties of the file
            execute_each(
                connection,
                [
                    "PRAGMA page_size=4096",
                    "PRAGMA auto_vacuum=INCREMENTAL",
                    f"PRAGMA application_id={APPLICATION_ID}",
                    "PRAGMA journal_mode=WAL",
                    "BEGIN IMMEDIATE",
                    *_TABLES,
                ],
            )
            connection.execute("INSERT INTO meta VALUES (1, ?, ?, 0, 0, 0, 0)", (FORMAT, new_store_id()))
            connection.execute("COMMIT")
        finally:
            connection.close()

    guarded(unfinished, create)
    try:
        unfinished.rename(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}") from exc


def _format(connection: apsw.Connection, path: Path) -> int:
    application = connection.execute("PRAGMA application_id").get
    tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'").get
    if application != APPLICATION_ID or tables != 1:
        raise CorruptError(f"{path}: expected a database of panels, got a foreign file")
    row = connection.execute("SELECT format FROM meta").get
    if not isinstance(row, int):
        raise CorruptError(f"{path}: expected a format in meta, got {row!r}")
    return row


def _migrate(connection: apsw.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    newest = 1 + len(migrations)

    def migrate() -> None:
        found = _format(connection, path)
        if not 1 <= found <= newest:
            raise CorruptError(
                f"{path}: expected a format of at most {newest}, got {found}: use a newer program"
            )
        if connection.pragma("journal_mode") != "wal":  # a backup or a copy may have lost it
            execute_each(connection, ["PRAGMA journal_mode=WAL"])
        for version in range(found, newest):
            connection.execute("BEGIN IMMEDIATE")
            try:
                migrations[version - 1](connection)
                connection.execute("UPDATE meta SET format = ?", (version + 1,))
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    guarded(path, migrate)
