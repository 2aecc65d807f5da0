"""What is read back from the disk: records, segments after a crash, rows of the store."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import apsw
import msgpack
import msgspec

from panels_gateway.journal import chunks, records, schema
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.frames import FrameEncoder, Header, encode_frame, encode_header
from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.records import Batch, Changed, Deleted, Fired, Key, Unparked
from panels_gateway.journal.segments import (
    Examined,
    SegmentWriter,
    Tail,
    cut,
    decode_segment,
    examine,
    read_log,
    segment_path,
    segment_paths,
)
from panels_gateway.journal.store import Store
from tests.fuzz.mutation import MSGPACK, NotOpenError
from tests.fuzz.target import Cost, Target, refused, require
from tests.gateway.journal.batches import SOURCE, batch, created, parked, put, ran, returned

_STORE: Final = b"s" * 16
_SALT: Final = 0x5EED
_NOW_MS: Final = 10_000


def _history() -> list[Batch]:
    """A log with every kind of record."""
    return [
        batch(1, SOURCE, created(1, "a", k=b"1")),
        batch(2, ran(1, 1, put("k", "2"), key=Key("s", "key", b"f" * 16)), Fired(1, "t", 5)),
        batch(
            3, Changed(1, 2, 7, "replace", "s", put("k", '"three"')), parked(1, 1, 1, 2, image=b"image" * 9)
        ),
        batch(4, returned(1, 1, 1), ran(1, 3, b'[{"op":"delete","key":"k"}]')),
        batch(5, SOURCE, created(2, "b", x=b"{}"), Unparked(1, 1)),
        batch(6, Deleted(2, 9), Changed(1, 4, 8, "revert", "", put("k", "[4]"))),
        batch(7, Changed(1, 5, 9, "replace", "s", put("l", "5"))),
    ]


class JournalRecord(Target):
    """The payload of a frame whose checksums are right: a batch, or a documented refusal."""

    name = "record"
    codec = MSGPACK
    cost = Cost(per_byte=192)

    def seeds(self) -> list[bytes]:
        return [records.encode(one) for one in _history()]

    def run(self, data: bytes) -> str:
        try:
            made = records.decode(data)
        except msgspec.DecodeError as exc:
            outcome = refused(exc)
        else:
            again = records.encode(made)
            require(records.encode(records.decode(again)) == again, "encoding is stable", data)
            outcome = " ".join(sorted({type(record).__name__ for record in made.records}))
        header = Header(_STORE, 1, 1, _SALT)
        segment = encode_header(header) + encode_frame(data, 1, synced=0, salt=_SALT)
        try:
            found = list(decode_segment(memoryview(segment), Path("segment"), 1, store=_STORE))
        except CorruptError:
            return outcome
        require(len(found) == 1 and found[0].position == 1, "a frame holds the batch of its position", found)
        return outcome


class StoredRecords(Target):
    """The blobs of the store, behind checksums that are right."""

    name = "chunk"
    codec = MSGPACK
    cost = Cost(per_byte=192)

    def seeds(self) -> list[bytes]:
        commits: list[chunks.Commit] = [
            ran(1, 1, put("k", "2")),
            Changed(1, 2, 7, "replace", "s", put("k", "3")),
        ]
        return [
            chunks.encode_commits(commits),
            chunks.encode_undo({"k": b"1", "l": None}),
            chunks.encode_waiting(parked(1, 1, 1, 2)),
            chunks.encode_waiting(returned(1, 1, 1)),
            chunks.encode_record(commits[0]),
        ]

    def run(self, data: bytes) -> str:
        words = []
        for decode in (chunks.decode_waiting, chunks.decode_record):
            try:
                record = decode(data)
            except msgspec.DecodeError as exc:
                words.append(refused(exc))
            else:
                words.append(type(record).__name__)
        try:
            chunks.checked_row(1, 1, 2, chunks.chunk_crc(data, data), data, data)
            words.append("undo")
        except CorruptError as exc:
            words.append(refused(exc))
        try:
            commits = chunks.decode_commits(data)
        except msgspec.DecodeError:
            return " ".join(words)
        lazily = [commit for commit, _ in chunks.sized_commits(data, skip=0)]
        require(
            chunks.encode_commits(lazily) == chunks.encode_commits(commits), "both ways read the same", data
        )
        try:
            chunks.last_changes(commits)
        except CorruptError as exc:
            return refused(exc)
        return f"{min(3, len(commits))} commits"


class CrashedLog(Target):
    """Files of a log after a crash: forgiven or refused, and never misread.

    An input is ``[tail, folded, [[first, bytes], ...]]``.
    """

    name = "log"
    codec = MSGPACK
    envelope = True
    quick = 250

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        self._written = {one.position: one for one in _history()}

    def seeds(self) -> list[bytes]:
        seeds = []
        for per_segment in (2, 3, 10):
            for tail in range(4):
                files = self._files(per_segment, synced=tail == 2)
                seeds.append(msgpack.packb([tail, 0, files]))
                last, data = files[-1]
                seeds.append(msgpack.packb([tail, 2, [*files[:-1], [last, data[:-5]]]]))
                seeds.append(msgpack.packb([tail, 0, [*files[:-1], [last, data + bytes(100)]]]))
        return seeds

    def _files(self, per_segment: int, *, synced: bool) -> list[list[Any]]:
        self._log.mkdir()
        encoder = FrameEncoder(0, fence=1, salt=_SALT)
        writer = SegmentWriter(self._log, store=_STORE, encoder=encoder, sync=False)
        for number, one in enumerate(self._written.values()):
            if number % per_segment == 0:
                writer.rotate()
            writer.append(one, synced=number // per_segment * per_segment if synced else 0)
        writer.rotate()
        files = [[first, path.read_bytes()] for first, path in segment_paths(self._log)]
        shutil.rmtree(self._log)
        return files

    def run(self, data: bytes) -> str:
        try:
            tail, folded = self._lay_out(data)
        except (NotOpenError, ValueError, TypeError):
            return "no log"
        try:
            return self._examine(tail, folded)
        finally:
            shutil.rmtree(self._log, ignore_errors=True)

    def _lay_out(self, data: bytes) -> tuple[Tail, int]:
        value = MSGPACK.decode(data)
        number, folded, files = [*value, 0, 0, []][:3] if isinstance(value, list) else (0, 0, [])
        self._log.mkdir(exist_ok=True)
        # what is no file is left out, so that most inputs are a log of some kind
        for entry in (files if isinstance(files, list) else [])[:16]:
            match entry:
                case [int(first), bytes(content)] if 0 <= first < 10**16:
                    segment_path(self._log, first).write_bytes(content)
        tails = list(Tail)
        known = [part if isinstance(part, int) else 0 for part in (number, folded)]
        return tails[known[0] % len(tails)], known[1] % 8

    def _examine(self, tail: Tail, folded: int) -> str:
        before = {path.name: path.read_bytes() for path in self._log.iterdir()}
        examined: Examined | str
        try:
            examined = examine(self._log, store=_STORE, folded=folded, tail=tail)
        except CorruptError as exc:
            examined = refused(exc).replace(str(self._log), "")
        require(
            before == {path.name: path.read_bytes() for path in self._log.iterdir()},
            "examine changes nothing",
        )
        if isinstance(examined, str):
            return examined
        if tail is Tail.WHOLE:
            require(examined.cut is None, "nothing of a closed log is cut", examined)
        cut(examined)
        last = examined.last(folded)
        found = list(
            read_log(self._log, store=_STORE, after=folded, upto=last if examined.segments else None)
        )
        positions = [one.position for one in found]
        require(
            positions == list(range(folded + 1, folded + 1 + len(found))),
            "positions without a gap",
            positions,
        )
        for one in found:
            require(self._written.get(one.position) == one, "every batch that is read was written", one)
        require(
            last == max([folded, *positions]),
            "the last position is the last that is there",
            (last, positions),
        )
        again = examine(self._log, store=_STORE, folded=folded, tail=Tail.WHOLE)
        require(again.cut is None and again.last(folded) == last, "what was cut is whole", again)
        return f"{tail.value} {len(found)} batches, cut {examined.cut is not None}"

    def close(self) -> None:
        self._folder.cleanup()


class StoreRows(Target):
    """A damaged database: it says the same as before, or ``JournalError``, whatever is asked.

    An input is a list of damages: ``[0, offset, bytes]`` to the file, ``[1, table, column, row, value]`` to
    a row.
    """

    name = "rows"
    codec = MSGPACK
    envelope = True
    quick = 120

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "template.db"
        schema.prepare(path)
        folding = Folding(path)
        folding.fold(_history(), now_ms=_NOW_MS)
        folding.checkpoint()
        folding.close()
        self._path = Path(self._folder.name) / "panels.db"
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        self._whole = path.read_bytes()
        self._path.write_bytes(self._whole)
        connection = apsw.Connection(str(self._path))
        self._columns = [
            (str(table), str(column))
            for (table,) in connection.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table'"
            ).fetchall()
            for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        ]
        connection.close()
        self._expected = self._ask()

    def seeds(self) -> list[bytes]:
        rows = [[[1, at, 0, value]] for at in range(len(self._columns)) for value in (b"\0", b"[5]")]
        pages = [[[0, offset, b"\xff"]] for offset in (0, 100, 4_096, 8_300, 20_000)]
        return [msgpack.packb(damage) for damage in (*rows, *pages, [])]

    def run(self, data: bytes) -> str:
        try:
            damages = MSGPACK.decode(data)
            damages = [list(damage) for damage in damages][:16]
        except (NotOpenError, TypeError):
            return "no damage"
        for suffix in ("-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        content = bytearray(self._whole)
        for damage in damages:
            if (
                len(damage) == 3
                and damage[0] == 0
                and isinstance(damage[1], int)
                and isinstance(damage[2], bytes)
            ):
                offset = damage[1] % len(content)
                content[offset : offset + len(damage[2])] = damage[2][: len(content) - offset]
        self._path.write_bytes(content)
        for damage in damages:
            if len(damage) == 4 and damage[0] == 1:
                self._update(*damage[1:])
        try:
            found = self._ask()
        except JournalError as exc:
            return refused(exc).replace(str(self._path), "")
        for name, value in found.items():
            require(value == self._expected[name], f"{name} as it was, or an error", value)
        return "as it was"

    def _update(self, at: Any, row: Any, value: Any) -> None:
        if not (isinstance(at, int) and isinstance(row, int)):
            return
        table, column = self._columns[at % len(self._columns)]
        if table == "meta" or isinstance(value, (list, dict, bool)):
            return
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return
        try:
            connection = apsw.Connection(str(self._path))
            try:
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? WHERE "{column}" IN '
                    f'(SELECT "{column}" FROM "{table}" LIMIT 1 OFFSET ?)',
                    (value, abs(row) % 4),
                )
            finally:
                connection.close()
        except (apsw.Error, UnicodeEncodeError):
            pass

    def _ask(self) -> dict[str, Any]:
        """What is protected by a checksum."""
        store = Store(self._path)
        try:
            found: dict[str, Any] = {}
            panel = store.load("a")
            if panel is not None:
                found |= {"state": panel.state, "definition": panel.definition, "sources": panel.sources}
            store.folded()
            store.summaries(after="", limit=10)
            store.active_panels()
            history = store.history(1, since=0, limit_bytes=1 << 20)
            if history is not None and len(history.commits) == 5:
                found["history"] = history.commits
            store.state_at(1, 2)
            store.key_history(1, "k", limit=10)
            answer = store.answer(1, "s", "key")
            if answer is not None:
                found["answer"] = answer
            store.waiting(1, 1)
            store.source(SOURCE.digest)
            return found
        finally:
            store.close()

    def close(self) -> None:
        self._folder.cleanup()


TARGETS: Final = (JournalRecord, StoredRecords, CrashedLog, StoreRows)
