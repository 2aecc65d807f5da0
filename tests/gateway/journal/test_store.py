"""Folding, reading, trimming, refusing, moving and verifying a store, example by example."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from panels_gateway.journal import fold, folder, schema
from panels_gateway.journal.fold import Retention, coalesce, grouped
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.journal import CorruptError, FencedError, JournalError, PositionError, Waiting
from panels_gateway.journal.records import (
    Batch,
    Created,
    Deleted,
    Fired,
    Key,
    Record,
    Revoked,
    Unrevoked,
)
from panels_gateway.journal.store import Store
from panels_gateway.journal.transfer import backup, export_panel, import_panel, restore
from panels_gateway.journal.verify import verify
from tests.gateway.journal.batches import parked, returned
from tests.gateway.journal.model import NOW_MS, batch, changed, created, defined, ran, source

TABLES = ("panels", "state", "history", "answers", "sources", "uses", "parked", "returned", "fired")


def key(name: str) -> Key:
    return Key("ann", name, b"f" * 16)


def no_progress(_done: int, _total: int) -> None:
    pass


@dataclass(slots=True)
class World:
    """A database and how it is written: ``append`` folds one batch."""

    path: Path
    retention: Retention = Retention()  # noqa: RUF009 - frozen

    def append(self, *records: Record, now_ms: int = NOW_MS) -> None:
        folding = Folding(self.path, retention=self.retention)
        folding.fold([batch(folding.position + 1, *records)], now_ms=now_ms)
        folding.close()

    def counts(self) -> dict[str, int]:
        connection = schema.open_reader(self.path)
        counts = {table: connection.execute(f"SELECT count(*) FROM {table}").get for table in TABLES}
        connection.close()
        return counts

    def alter(self, sql: str, *values: apsw.SQLiteValue) -> None:
        connection = apsw.Connection(str(self.path))
        connection.execute(sql, values)
        connection.close()

    def findings(self) -> list[str]:
        return [
            f"{finding.where}: {finding.problem}"
            for finding in verify(self.path, tail=lambda _after: (), progress=no_progress)
        ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    path = tmp_path / schema.DATABASE
    schema.prepare(path)
    return World(path)


@pytest.fixture
def open_store(world: World) -> Iterator[Callable[[], Store]]:
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(Store(world.path))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def busy(world: World) -> None:
    """A panel with everything: definition, state, history, answers."""
    world.append(source(0), source(1), created(1, "p", 1, state={"a": b"1", "z": b"26"}))
    world.append(ran(1, 1, {"a": "2"}, key=key("k1")), ran(1, 2, {"b": '"x"', "z": None}))
    world.append(changed(1, 3, {"a": "3"}), ran(1, 0, {}, key=key("k2")))


# -- folding -----------------------------------------------------------------------------------------


def test_fold_writes_a_key_once_with_the_value_before_the_run(
    world: World, open_store: Callable[[], Store]
) -> None:
    world.append(created(1, "p", state={"a": b"0"}))
    world.append(*(ran(1, seq, {"a": str(seq)}) for seq in range(1, 501)))
    assert (world.counts()["state"], world.counts()["history"]) == (1, 1)
    assert open_store().state_at(1, 0) == {"a": b"0"}
    assert open_store().state_at(1, 250) == {"a": b"250"}


def test_fold_refuses_a_gap_a_lower_fence_and_records_that_cannot_follow(world: World) -> None:
    world.append(source(0), created(1, "p"))
    folding = Folding(world.path)
    wrong: list[tuple[Batch, type[JournalError]]] = [
        (batch(3), PositionError),
        (batch(2, fence=0), FencedError),
        (batch(2, ran(1, 2, {})), CorruptError),
        (batch(2, ran(9, 1, {})), CorruptError),
        (batch(2, Deleted(9, 0)), CorruptError),
        (batch(2, created(1, "other")), CorruptError),
        (batch(2, created(2, "p")), CorruptError),
        (batch(2, Deleted(1, 0), ran(1, 1, {})), CorruptError),
    ]
    for offered, error in wrong:
        with pytest.raises(error):
            folding.fold([offered], now_ms=NOW_MS)
        assert folding.position == 1
    assert folding.fold([batch(2, ran(1, 1, {}))], now_ms=NOW_MS) == 2
    folding.close()
    assert world.findings() == []


def test_fold_leaves_nothing_of_a_run_that_failed_in_the_middle(world: World) -> None:
    world.append(created(1, "p"))
    before = world.counts()
    with pytest.raises(CorruptError):
        world.append(source(3), created(2, "q", 3), ran(1, 1, {"a": "1"}), ran(1, 3, {}))
    assert world.counts() == before


def test_fold_takes_a_deleted_panels_rows_with_it(world: World, open_store: Callable[[], Store]) -> None:
    park(world)
    assert 0 not in world.counts().values()
    world.append(Deleted(1, NOW_MS))
    assert world.counts() == dict.fromkeys(TABLES, 0)
    folded = open_store().folded()
    assert (folded.panels, folded.last_panel) == (0, 1)


def test_fold_counts_a_panel_that_lived_for_one_run_only_by_its_number(
    world: World, open_store: Callable[[], Store]
) -> None:
    world.append(
        source(0), created(1, "p", 0), ran(1, 1, {"a": "1"}, key=key("k")), Deleted(1, 0), created(2, "p")
    )
    folded = open_store().folded()
    assert (folded.panels, folded.last_panel) == (1, 2)
    assert world.counts() == {**dict.fromkeys(TABLES, 0), "panels": 1}


def test_fold_keeps_a_handler_while_a_definition_or_a_kept_commit_names_it(world: World) -> None:
    world.retention = Retention(commits=1)
    world.append(
        source(0), source(1), created(1, "p", 0, 1), ran(1, 1, {}, handler=0), ran(1, 2, {}, handler=1)
    )
    world.append(defined(1, 0))
    assert world.counts()["sources"] == 2  # history names the one that the definition does not
    world.append(changed(1, 3, {}))
    world.append(changed(1, 4, {}))
    assert world.counts()["sources"] == 1  # history is past both, and the definition names the other
    assert world.findings() == []


def test_coalesce_moves_a_key_that_is_answered_again_to_the_end() -> None:
    records = [ran(1, 0, {}, key=key(name)) for name in ("k1", "k2", "k1")]
    run = coalesce([batch(1, *records)], position=0, fence=0)
    assert [name for _, name in run.panels[1].answered] == ["k2", "k1"]


def test_grouped_bounds_records_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "RUN_RECORDS", 3)
    monkeypatch.setattr(fold, "RUN_BYTES", 1_000)
    batches = [batch(position, ran(1, position, {"a": "1"})) for position in range(1, 6)]
    batches.append(batch(6, created(2, "q", state={"a": b"x" * 1_000})))
    batches.append(batch(7))
    assert [[turn.position for turn in group] for group in grouped(batches)] == [[1, 2, 3], [4, 5, 6], [7]]


# -- retention ---------------------------------------------------------------------------------------


def test_trim_keeps_at_least_the_commits_and_at_most_the_bytes(
    world: World, open_store: Callable[[], Store]
) -> None:
    world.retention = Retention(commits=10)
    world.append(source(0), created(1, "p"))
    for seq in range(1, 31):
        world.append(ran(1, seq, {"a": str(seq)}))
    store = open_store()
    assert store.history(1, since=19, limit_bytes=1 << 20) is None
    history = store.history(1, since=20, limit_bytes=1 << 20)
    assert history is not None
    assert [commit.seq for commit in history.commits] == list(range(21, 31))
    world.retention = Retention(history_bytes=500)
    world.append(ran(1, 31, {"a": "31"}))
    assert 0 < apsw.Connection(str(world.path)).execute("SELECT history_bytes FROM panels").get <= 500
    assert world.findings() == []


def test_trim_goes_by_age_but_never_past_something_young(
    world: World, open_store: Callable[[], Store]
) -> None:
    world.retention = Retention(age_ms=1_000)
    world.append(created(1, "p"))
    # the second was made before the clock jumped back, and the first and third after
    for seq, at_ms in ((1, NOW_MS - 5_000), (2, NOW_MS), (3, NOW_MS - 5_000)):
        world.append(ran(1, seq, {"a": "1"}, at_ms=at_ms), now_ms=NOW_MS - 5_000)
    folding = Folding(world.path, retention=world.retention)
    folding.sweep(now_ms=NOW_MS)
    assert open_store().history(1, since=0, limit_bytes=100) is None
    assert open_store().history(1, since=1, limit_bytes=100) is not None
    folding.sweep(now_ms=NOW_MS + 1_001)
    assert open_store().history(1, since=2, limit_bytes=100) is None
    assert open_store().history(1, since=3, limit_bytes=100) is not None
    folding.close()


def test_trim_forgets_answers_by_count_bytes_and_time(world: World, open_store: Callable[[], Store]) -> None:
    def kept() -> list[str]:
        panel = open_store().load("p")
        assert panel is not None
        return [name.key for name, _ in panel.answers]

    world.append(created(1, "p"))
    world.retention = Retention(answers=3)
    world.append(*(ran(1, 0, {}, key=key(f"k{number}")) for number in range(6)))
    assert kept() == ["k3", "k4", "k5"]
    world.append(ran(1, 0, {}, key=key("k3")))  # answered again after it was forgotten by time
    assert kept() == ["k4", "k5", "k3"]
    world.retention = Retention(answer_bytes=200)
    world.append(ran(1, 0, {}, key=key("k9"), at_ms=NOW_MS + 9_000))
    assert kept()[-1] == "k9"
    assert apsw.Connection(str(world.path)).execute("SELECT answer_bytes FROM panels").get <= 200
    folding = Folding(world.path, retention=Retention(answer_ttl_ms=1_000))
    folding.sweep(now_ms=NOW_MS + 9_500)
    assert kept() == ["k9"]
    folding.sweep(now_ms=NOW_MS + 19_500)
    assert kept() == []
    folding.close()
    assert world.findings() == []


# -- reading -----------------------------------------------------------------------------------------


def test_history_is_cut_by_bytes_but_never_to_nothing(world: World, open_store: Callable[[], Store]) -> None:
    busy(world)
    history = open_store().history(1, since=0, limit_bytes=1)
    assert history is not None
    assert ([commit.seq for commit in history.commits], history.complete) == ([1], False)
    whole = open_store().history(1, since=1, limit_bytes=1 << 20)
    assert whole is not None
    assert ([commit.seq for commit in whole.commits], whole.complete) == ([2, 3], True)
    assert open_store().history(7, since=0, limit_bytes=1) is None


def test_reads_see_one_snapshot_while_folding_goes_on(world: World, open_store: Callable[[], Store]) -> None:
    busy(world)
    store = open_store()
    with store._snapshot():
        assert store._bounds(1) == (0, 3)
        world.append(ran(1, 4, {"a": "4"}))
        assert store._bounds(1) == (0, 3)
    assert store._bounds(1) == (0, 4)


def test_checkpoint_cuts_the_log_unless_a_reader_holds_it(
    world: World, open_store: Callable[[], Store]
) -> None:
    folding = Folding(world.path)
    store = open_store()
    folding.fold([batch(1, created(1, "p"))], now_ms=NOW_MS)
    with store._snapshot():
        store._bounds(1)
        folding.fold([batch(2, ran(1, 1, {"a": "1"}))], now_ms=NOW_MS)
        assert not folding.checkpoint()
    assert folding.wal_bytes > 0
    assert folding.checkpoint()
    assert folding.wal_bytes == 0
    folding.close()


# -- files that are not what they should be ----------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 500, b"SQLite format 3\0" + b"\0" * 84])
def test_prepare_refuses_a_foreign_file_and_leaves_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / schema.DATABASE
    path.write_bytes(content)
    with pytest.raises(CorruptError, match="expected a database of panels"):
        schema.prepare(path)
    assert path.read_bytes() == content


def test_prepare_refuses_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / schema.DATABASE
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE meta (format)")
    connection.close()
    with pytest.raises(CorruptError, match="foreign"):
        schema.prepare(path)


def test_prepare_refuses_a_log_whose_database_is_gone(world: World) -> None:
    world.path.rename(world.path.with_name("elsewhere"))
    world.path.with_name(world.path.name + "-wal").write_bytes(b"x")
    with pytest.raises(CorruptError, match="belongs to"):
        schema.prepare(world.path)


def test_a_newer_format_is_refused_by_everyone(world: World) -> None:
    world.alter("UPDATE meta SET format = 2")
    for opening in (schema.prepare, schema.open_reader, schema.open_writer):
        with pytest.raises(CorruptError, match="got 2"):
            opening(world.path)


def test_prepare_migrates_once_and_in_one_transaction(world: World) -> None:
    def add(connection: apsw.Connection) -> None:
        connection.execute("ALTER TABLE panels ADD COLUMN colour TEXT")

    def fail(_connection: apsw.Connection) -> None:
        raise apsw.FullError("full")

    busy(world)
    with pytest.raises(JournalError, match="full"):
        schema.prepare(world.path, migrations=[add, fail])
    connection = apsw.Connection(str(world.path))
    assert connection.execute("SELECT format FROM meta").get == 2  # the first is done, the second is not
    connection.close()
    schema.prepare(world.path, migrations=[add])
    with pytest.raises(CorruptError, match="got 2"):
        schema.open_reader(world.path)


def test_a_truncated_file_is_refused_or_found_wrong(world: World, tmp_path: Path) -> None:
    busy(world)
    size = world.path.stat().st_size
    for kept in (100, 4_096, size // 2 // 4_096 * 4_096, size - 4_096):
        os.truncate(world.path, kept)
        assert world.findings(), kept
        copy = tmp_path / "copy.db"
        shutil.copy(world.path, copy)
        with pytest.raises(JournalError):
            restore(copy, tmp_path / f"restored-{kept}")
        with pytest.raises(JournalError):
            _read_all(copy)


def _read_all(path: Path) -> None:
    store = Store(path)
    try:
        store.load("p")
        store.state_at(1, 0)
        store.answer(1, "ann", "k1")
    finally:
        store.close()


def test_flipped_bits_never_show_as_other_data(world: World, tmp_path: Path) -> None:
    busy(world)
    store = Store(world.path)
    expected = store.load("p"), store.state_at(1, 0), store.history(1, since=0, limit_bytes=1 << 20)
    store.close()
    whole = world.path.read_bytes()
    copy = tmp_path / "copy.db"
    for offset in range(0, len(whole), 397):
        data = bytearray(whole)
        data[offset] ^= 1 << offset % 8
        copy.write_bytes(data)
        try:
            store = Store(copy)
        except JournalError:
            continue
        try:
            panel = store.load("p")
            found = panel, store.state_at(1, 0), store.history(1, since=0, limit_bytes=1 << 20)
        except JournalError:
            continue
        finally:
            store.close()
        if (
            panel is not None and panel.position == 3
        ):  # a changed counter of the store itself is not seen here
            assert panel == expected[0]
            assert found[1] in (expected[1], None)
            assert found[2] in (expected[2], None)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE state SET value = x'39' WHERE key = 'a'", "state of panel 1"),
        ("UPDATE state SET seq = 99 WHERE key = 'a'", "state of panel 1"),
        ("DELETE FROM state WHERE key = 'a'", "state of panel 1"),
        ("UPDATE panels SET state_bytes = 1", "bytes"),
        ("UPDATE panels SET epoch = 'x'", "panel 1: expected checksum"),
        ("UPDATE panels SET floor = 1", "its beginning"),
        ("UPDATE panels SET history_bytes = 1", "history of panel 1"),
        ("UPDATE panels SET answers = 1", "answers of panel 1"),
        ("UPDATE history SET records = x'90' WHERE first_seq = 3", "checksum"),
        ("DELETE FROM history WHERE first_seq = 3", "expected version 3"),
        ("UPDATE answers SET record = x'90'", "answers of panel 1"),
        ("UPDATE answers SET fingerprint = x'90'", "expected the answer"),
        ("DELETE FROM sources WHERE rowid = 1", "expected the source of"),
        ("UPDATE sources SET source = x'90'", "expected a handler of that digest"),
        ("UPDATE uses SET last_seq = 0", "the last version by"),
        ("UPDATE meta SET panels = 7", "expected panels 7"),
        ("UPDATE meta SET last_panel = 0", "expected numbers"),
        ("UPDATE state SET panel = 3 WHERE key = 'a'", "panels that are there"),
    ],
)
def test_verify_finds_what_was_altered(world: World, damage: str, words: str) -> None:
    busy(world)
    assert world.findings() == []
    world.alter(damage)
    assert any(words in finding for finding in world.findings()), world.findings()


def park(world: World) -> None:
    """A panel with a handler that waits, one answer, and a tool that runs at times."""
    busy(world)
    world.append(parked(1, 7, 1, 2), returned(1, 7, 1), Fired(1, "t", 5))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE parked SET image = x'39'", "suspension 7 of panel 1: expected checksum"),
        ("UPDATE parked SET record = x'90'", "suspension 7 of panel 1"),
        ("UPDATE parked SET suspension = 8", "expected the record of this row"),
        ("UPDATE parked SET panel = 9", "parked of panel 9: expected rows of panels that are there"),
        ("DELETE FROM parked", "expected a suspension that is there"),
        ("UPDATE returned SET record = x'90'", "answer to call 1 of suspension 7"),
        ("UPDATE returned SET call = 2", "expected the record of this row"),
        ("UPDATE returned SET panel = 9", "returned of panel 9: expected rows of panels that are there"),
        ("UPDATE fired SET panel = 9", "fired of panel 9: expected rows of panels that are there"),
    ],
)
def test_verify_finds_what_was_altered_of_a_handler_that_waits(world: World, damage: str, words: str) -> None:
    park(world)
    assert world.findings() == []
    world.alter(damage)
    assert any(words in finding for finding in world.findings()), world.findings()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE parked SET image = x'39'",
        "UPDATE parked SET record = x'90'",
        "UPDATE parked SET crc = crc + 1",
        "UPDATE returned SET record = x'90'",
    ],
)
def test_reads_refuse_a_damaged_suspension(
    world: World, open_store: Callable[[], Store], damage: str
) -> None:
    park(world)
    assert open_store().waiting(1, 7) is not None
    world.alter(damage)
    with pytest.raises(CorruptError):
        open_store().waiting(1, 7)


def test_backup_and_restore_carry_handlers_that_wait(world: World, tmp_path: Path) -> None:
    park(world)
    tail = [batch(5, returned(1, 7, 2), Fired(1, "t", 9), fence=5)]
    backup(world.path, tmp_path / "copy.db", no_progress, tail=lambda _after: tail, now_ms=NOW_MS)
    restore(tmp_path / "copy.db", tmp_path / "data")
    restored = Store(tmp_path / "data" / schema.DATABASE)
    found, panel = restored.waiting(1, 7), restored.load("p")
    restored.close()
    assert found == Waiting(parked(1, 7, 1, 2), (returned(1, 7, 1), returned(1, 7, 2)), len(b"image"))
    assert panel is not None
    assert panel.fired == {"t": 9}


def test_verify_finds_undo_values_that_do_not_meet_the_records(world: World) -> None:
    from panels_gateway.journal import chunks

    busy(world)
    undo = chunks.encode_undo({"a": b"7"})
    records: bytes = (
        apsw.Connection(str(world.path)).execute("SELECT records FROM history WHERE first_seq = 3").get
    )
    world.alter(
        "UPDATE history SET undo = ?, crc = ? WHERE first_seq = 3", undo, chunks.chunk_crc(records, undo)
    )
    assert any("versions 1 to 2: expected the value of key 'a'" in finding for finding in world.findings())


def test_verify_reports_a_log_that_does_not_go_on_where_the_store_ends(world: World) -> None:
    busy(world)
    findings = verify(world.path, tail=lambda after: [batch(after + 2)], progress=no_progress)
    assert [finding.where for finding in findings] == ["log"]


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("UPDATE state SET value = x'39' WHERE key = 'a'", lambda store: store.load("p")),
        ("UPDATE panels SET definition = x'39'", lambda store: store.load("p")),
        ("UPDATE history SET undo = x'80'", lambda store: store.state_at(1, 0)),
        ("DELETE FROM history WHERE first_seq = 3", lambda store: store.state_at(1, 0)),
        (
            "DELETE FROM history WHERE first_seq = 3",
            lambda store: store.history(1, since=0, limit_bytes=1 << 20),
        ),
        (
            "DELETE FROM history WHERE first_seq = 1",
            lambda store: store.history(1, since=0, limit_bytes=1 << 20),
        ),
        ("DELETE FROM history WHERE first_seq = 1", lambda store: store.state_at(1, 0)),
        ("UPDATE sources SET source = x'39'", lambda store: store.load("p")),
        ("DELETE FROM sources", lambda store: store.load("p")),
        ("UPDATE uses SET defined = 0", lambda store: store.load("p")),
        ("UPDATE answers SET record = x'90'", lambda store: store.answer(1, "ann", "k1")),
    ],
)
def test_reads_refuse_what_does_not_pass_its_checks(
    world: World, open_store: Callable[[], Store], damage: str, read: Callable[[Store], object]
) -> None:
    busy(world)
    read(open_store())
    world.alter(damage)
    with pytest.raises(CorruptError):
        read(open_store())


# -- elsewhere and back ------------------------------------------------------------------------------


def test_backup_has_the_tail_and_restore_makes_another_store_of_it(
    world: World, tmp_path: Path, open_store: Callable[[], Store]
) -> None:
    busy(world)
    target, done = tmp_path / "copy with ? and #.db", list[tuple[int, int]]()
    tail = [batch(4, ran(1, 4, {"a": "4"}), fence=5)]
    position = backup(
        world.path, target, lambda part, of: done.append((part, of)), tail=lambda _after: tail, now_ms=NOW_MS
    )
    assert position == 4
    assert done[-1][0] == done[-1][1] > 0
    assert not list(tmp_path.glob("*.part*"))
    with pytest.raises(JournalError, match="expected no file there"):
        backup(world.path, target, no_progress, tail=lambda _after: [], now_ms=NOW_MS)
    assert restore(target, tmp_path / "data").position == 4
    with pytest.raises(JournalError, match="empty directory"):
        restore(target, tmp_path / "data")
    restored = Store(tmp_path / "data" / schema.DATABASE)
    panel = restored.load("p")
    assert panel is not None
    assert (panel.seq, panel.state) == (4, {"a": b"4", "b": b'"x"'})
    assert restored.folded().fence == 0
    assert restored.folded().store_id != open_store().folded().store_id
    restored.close()
    schema.prepare(tmp_path / "data" / schema.DATABASE)


def test_backup_leaves_nothing_when_a_segment_was_taken_away(world: World, tmp_path: Path) -> None:
    busy(world)
    with pytest.raises(PositionError):
        backup(
            world.path,
            tmp_path / "copy.db",
            no_progress,
            tail=lambda after: [batch(after + 2)],
            now_ms=NOW_MS,
        )
    assert not list(tmp_path.glob("copy*"))


def test_export_and_import_give_the_same_panel_under_another_id(
    world: World, open_store: Callable[[], Store]
) -> None:
    busy(world)
    exported = export_panel(open_store(), "p")
    assert export_panel(open_store(), "q") is None
    assert exported is not None
    world.append(*import_panel(exported, panel=2, epoch="e2", at_ms=NOW_MS, panel_id="q"))
    first, second = open_store().load("p"), open_store().load("q")
    assert first is not None
    assert second is not None
    assert (second.state, second.seq, second.sources) == (first.state, first.seq, first.sources)
    assert second.definition == first.definition
    assert world.findings() == []


def test_import_changes_the_id_in_the_definition_with_it() -> None:
    data = {**_exported(), "definition": '{"id":"p","n":1.50}'}
    (record,) = import_panel(data, panel=2, epoch="e", at_ms=1, panel_id="q")
    assert isinstance(record, Created)
    assert (record.id, record.definition) == ("q", b'{"id":"q","n":1.50}')


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"seq": -1},
        {"seq": "1"},
        {"state": {"a": "{"}},
        {"definition": "[]"},
        {"sources": [{"digest": "00", "language": "javascript", "entry": "", "source": "!"}]},
        {"sources": [{"digest": "00", "language": "javascript", "entry": "", "source": ""}]},
        {"more": 1},
    ],
)
def test_import_refuses_what_is_not_an_export(change: dict[str, object]) -> None:
    with pytest.raises(CorruptError):
        import_panel({**_exported(), **change}, panel=1, epoch="e", at_ms=1)


def _exported() -> dict[str, object]:
    return {
        "format": "panels.panel",
        "version": 1,
        "id": "p",
        "epoch": "e",
        "createdMs": 1,
        "seq": 3,
        "definition": "{}",
        "state": {"a": "1"},
        "sources": [],
    }


# -- the process -------------------------------------------------------------------------------------


def test_serve_says_where_it_stands_folds_what_it_is_told_and_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "RUN_RECORDS", 2)
    log = [batch(1, created(1, "p"))] + [batch(seq + 1, ran(1, seq, {"a": "1"})) for seq in range(1, 6)]
    reading, writing = os.pipe()
    os.write(writing, b"1\n4\n2\n6")  # the last line was never ended
    os.close(writing)
    said: list[int] = []
    folding = Folding(world.path)
    folder.serve(
        folding, folder.Orders(reading), lambda after, upto: log[after:upto], said.append, lambda: NOW_MS
    )
    os.close(reading)
    assert said == [0, 2, 4]
    assert folding.wal_bytes == 0
    folding.close()


def test_serve_moves_a_large_wal_before_it_folds_anything(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that always dies while it moves the WAL makes no progress, so that it is given up before the
    disk is full.
    """
    world.append(created(1, "p"))
    reading, writing = os.pipe()
    os.write(writing, b"9\n")
    os.close(writing)
    folding = Folding(world.path)
    monkeypatch.setattr(folder, "CHECKPOINT_BYTES", -1)

    def never(after: int, upto: int) -> list[Batch]:
        raise AssertionError("something was folded before the WAL was moved")

    def die() -> bool:
        raise JournalError("died")

    monkeypatch.setattr(folding, "checkpoint", die)
    with pytest.raises(JournalError, match="died"):
        folder.serve(
            folding,
            folder.Orders(reading),
            never,
            lambda _position: None,
            lambda: NOW_MS,
        )
    os.close(reading)
    folding.close()


@pytest.mark.parametrize("line", [b"x\n", b"-1\n", b"\n", b"1" * 40])
def test_orders_refuse_what_is_not_a_position(line: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, line)
    with pytest.raises(JournalError, match="expected a position"):
        folder.Orders(reading).wait(1)
    os.close(writing)
    os.close(reading)


# -- revocations -------------------------------------------------------------------------------------

REVOKED = Revoked("a1", NOW_MS, NOW_MS + 1_000, "token")


def test_revocations_go_when_they_end_and_when_they_are_taken_back(
    world: World, open_store: Callable[[], Store]
) -> None:
    other = Revoked("b2", NOW_MS, NOW_MS + 2_000, None, "ann", NOW_MS)
    world.append(REVOKED, other)
    assert open_store().revocations() == [REVOKED, other]
    world.append(now_ms=NOW_MS + 1_001)
    assert open_store().revocations() == [other]
    folding = Folding(world.path)
    folding.sweep(now_ms=NOW_MS + 2_001)
    folding.close()
    assert open_store().revocations() == []
    world.append(REVOKED)
    world.append(Unrevoked("a1"), Unrevoked("never"))
    assert open_store().revocations() == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE revocations SET record = x'90'", "revocation a1"),
        ("UPDATE revocations SET crc = crc + 1", "revocation a1: expected checksum"),
        ("UPDATE revocations SET expires_ms = 7", "expected the record of this row"),
        ("UPDATE revocations SET name = 'z'", "expected the record of this row"),
    ],
)
def test_verify_finds_what_was_altered_of_a_revocation(world: World, damage: str, words: str) -> None:
    world.append(REVOKED)
    assert world.findings() == []
    world.alter(damage)
    assert any(words in finding for finding in world.findings()), world.findings()


@pytest.mark.parametrize("damage", ["record = x'90'", "crc = crc + 1"])
def test_reads_refuse_a_damaged_revocation(
    world: World, open_store: Callable[[], Store], damage: str
) -> None:
    world.append(REVOKED)
    world.alter(f"UPDATE revocations SET {damage}")
    with pytest.raises(CorruptError):
        open_store().revocations()


def test_backup_and_restore_carry_revocations(world: World, tmp_path: Path) -> None:
    world.append(REVOKED)
    other = Revoked("b2", NOW_MS, NOW_MS + 2_000, "another")
    tail = [batch(2, other, fence=5)]
    backup(world.path, tmp_path / "copy.db", no_progress, tail=lambda _after: tail, now_ms=NOW_MS)
    restore(tmp_path / "copy.db", tmp_path / "data")
    restored = Store(tmp_path / "data" / schema.DATABASE)
    found = restored.revocations()
    restored.close()
    assert found == [REVOKED, other]
