"""The commands on directories that are stopped, live, crashed, damaged or missing: what they do, say and end
with.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from panels_gateway.commands.dispatch import COMMANDS
from panels_gateway.commands.exits import EXIT_DATA, EXIT_IO, EXIT_UNAVAILABLE
from panels_gateway.configuration.config import EXIT_CONFIG
from panels_gateway.journal import transfer
from panels_gateway.journal.directory import read_meta
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.local import open_local
from panels_gateway.journal.segments import segment_paths
from panels_gateway.journal.store import Store
from tests.gateway.commands.builders import (
    FOLDED,
    SOURCE,
    UNFOLDED,
    command,
    commits,
    fill,
    load,
    panel,
    read_json,
)
from tests.gateway.journal.contract import Driver

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory that was closed, with one panel at version 9."""
    path = tmp_path / "data"
    fill(path, SOURCE, panel(1, "p", n=b"0"), *commits(1, 9))
    return path


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """The same, left by a gateway that was killed before anything was folded."""
    path = tmp_path / "crashed"
    fill(path, SOURCE, panel(1, "p", n=b"0"), *commits(1, 9), options=UNFOLDED, crash=True)
    return path


def contents(directory: Path) -> dict[str, bytes]:
    """Every file, but for the two that SQLite keeps beside a database that is open."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


# -- backup and restore ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["data", "crashed"])
def test_backup_restores_to_the_same_panels(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: Captured
) -> None:
    directory: Path = request.getfixturevalue(kind)
    before = contents(directory)
    assert command(directory, "backup", tmp_path / "copy") == 0
    assert contents(directory) == before
    assert capsys.readouterr().out == f"backed up {directory} as of position 11 to {tmp_path}/copy\n"
    assert not list(tmp_path.glob("*.part*"))

    target = tmp_path / "new" / "data"
    assert command(target, "restore", tmp_path / "copy") == 0
    assert command(target, "verify") == 0
    restored = load(target, "p")
    assert restored is not None
    assert (restored.seq, restored.state) == (9, {"n": b"9"})


def test_restore_gives_another_incarnation_and_store(data: Path, tmp_path: Path) -> None:
    assert command(data, "backup", tmp_path / "copy") == 0
    for name in ("one", "two"):
        assert command(tmp_path / name, "restore", tmp_path / "copy") == 0
    metas = [read_meta(path) for path in (data, tmp_path / "one", tmp_path / "two")]
    assert len({meta.incarnation for meta in metas if meta is not None}) == 3
    assert len({meta.store for meta in metas if meta is not None}) == 3


def test_backup_of_a_live_directory_has_what_was_there_when_it_began(tmp_path: Path) -> None:
    async def run() -> None:
        journal = await open_local(tmp_path / "data", durability="process", options=UNFOLDED)
        driver = Driver(journal)
        driver.append(SOURCE, panel(1, "p", n=b"0"))
        for commit in commits(1, 9):
            driver.append(commit)
        await driver.durable()
        assert await asyncio.to_thread(command, tmp_path / "data", "backup", tmp_path / "copy") == 0
        assert await asyncio.to_thread(command, tmp_path / "data", "verify") == 0
        await journal.close()

    # the log is read in this process, which is no harm: the trap is the database, and the idle folder does
    # not write it
    asyncio.run(run())
    assert command(tmp_path / "new", "restore", tmp_path / "copy") == 0
    restored = load(tmp_path / "new", "p")
    assert restored is not None
    assert restored.seq == 9


def test_segments_that_go_while_a_backup_runs_are_still_read(
    crashed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = transfer._copy

    def copy_then_lose(*arguments: object) -> None:
        copy(*arguments)  # type: ignore[arg-type]
        shutil.rmtree(crashed / "log")

    monkeypatch.setattr(transfer, "_copy", copy_then_lose)
    assert command(crashed, "backup", tmp_path / "copy") == 0
    monkeypatch.undo()
    assert command(tmp_path / "new", "restore", tmp_path / "copy") == 0
    restored = load(tmp_path / "new", "p")
    assert restored is not None
    assert restored.seq == 9


def test_backup_that_fails_leaves_no_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def fail(*_: object) -> None:
        raise JournalError("database or disk is full")

    monkeypatch.setattr(transfer, "_copy", fail)
    assert command(data, "backup", tmp_path / "copy") == EXIT_IO
    assert not list(tmp_path.glob("copy*"))
    assert capsys.readouterr().err == "panels-gateway: data-dir: database or disk is full\n"


def test_backup_to_a_file_system_without_hard_links_is_renamed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert command(data, "backup", tmp_path / "copy") == 0
    assert (tmp_path / "copy").is_file()
    assert not list(tmp_path.glob("*.part*"))


def test_restore_refuses_a_directory_with_files_and_leaves_it(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    command(data, "backup", tmp_path / "copy")
    before = contents(data)
    capsys.readouterr()
    assert command(data, "restore", tmp_path / "copy") == EXIT_CONFIG
    assert "expected an empty directory" in capsys.readouterr().err
    assert contents(data) == before


def test_restore_refuses_a_damaged_backup(data: Path, tmp_path: Path, capsys: Captured) -> None:
    command(data, "backup", tmp_path / "copy")
    os.truncate(tmp_path / "copy", (tmp_path / "copy").stat().st_size // 2)
    assert command(tmp_path / "new", "restore", tmp_path / "copy") == EXIT_DATA
    assert contents(tmp_path / "new") == {}


# -- export and import -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["data", "crashed"])
def test_export_has_what_is_in_the_log_and_import_makes_it_a_panel(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(kind)
    file = tmp_path / "p.json"
    assert command(directory, "export", "p", file) == 0
    exported = read_json(file)
    assert (exported["seq"], exported["state"]) == (9, {"n": "9"})

    other = tmp_path / "other"
    fill(other)
    assert command(other, "import", file) == 0
    assert command(other, "import", file, "--id", "q") == 0
    for name in ("p", "q"):
        imported = load(other, name)
        assert imported is not None
        assert (imported.seq, imported.state) == (9, {"n": b"9"})
        assert imported.epoch != "e1"
    assert command(other, "verify") == 0


def test_export_writes_to_standard_output_without_a_file(
    data: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert command(data, "export", "p") == 0
    assert b'"format": "panels.panel"' in capsysbinary.readouterr().out


def test_import_of_an_id_that_exists_changes_nothing(data: Path, tmp_path: Path, capsys: Captured) -> None:
    command(data, "export", "p", tmp_path / "p.json")
    capsys.readouterr()
    assert command(data, "import", tmp_path / "p.json") == EXIT_CONFIG
    assert "give another --id" in capsys.readouterr().err
    found = load(data, "p")
    assert found is not None
    assert found.epoch == "e1"


def test_import_into_a_directory_in_use_says_who_uses_it(
    data: Path, tmp_path: Path, capsys: Captured
) -> None:
    command(data, "export", "p", tmp_path / "p.json")

    async def run() -> None:
        journal = await open_local(data, durability="process", options=FOLDED)
        capsys.readouterr()
        code = await asyncio.to_thread(command, data, "import", tmp_path / "p.json", "--id", "q")
        assert code == EXIT_UNAVAILABLE
        assert f"the process {os.getpid()} has it open" in capsys.readouterr().err
        await journal.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[:-5], "expected JSON"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "of version 1, got 2"),
        (lambda text: text.replace('"id": "p"', '"id": "p/q"'), "id: expected"),
        (lambda text: text.replace('\\"kind\\"', '\\"kin\\"'), "definition: expected"),
        (lambda text: text.replace('"sources": [', '"sources": [], "more": ['), "something else"),
    ],
)
def test_import_of_something_else_is_refused_before_the_directory_is_opened(
    data: Path, tmp_path: Path, capsys: Captured, change: Callable[[str], str], expected: str
) -> None:
    file = tmp_path / "p.json"
    command(data, "export", "p", file)
    changed = change(file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    before = contents(data)
    capsys.readouterr()
    assert command(data, "import", file, "--id", "q" if "p/q" not in changed else "p/q") in (
        EXIT_DATA,
        EXIT_CONFIG,
    )
    assert expected in capsys.readouterr().err
    assert contents(data) == before


# -- verify ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["data", "crashed"])
def test_verify_finds_nothing_wrong_and_changes_nothing(
    kind: str, request: pytest.FixtureRequest, capsys: Captured
) -> None:
    directory: Path = request.getfixturevalue(kind)
    before = contents(directory)
    assert command(directory, "verify") == 0
    assert capsys.readouterr().out.startswith("nothing is wrong; position ")
    assert contents(directory) == before


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def damage_meta(directory: Path) -> None:
    flip(directory / "meta", 20)


def lose_meta(directory: Path) -> None:
    (directory / "meta").unlink()


def lose_store(directory: Path) -> None:
    (directory / "panels.db").unlink()


def damage_store(directory: Path) -> None:
    path = directory / "panels.db"
    flip(path, path.read_bytes().index(b'"kind": "k"'))


def damage_log(directory: Path) -> None:
    flip(segment_paths(directory / "log")[0][1], 90)


def put_foreign_file(directory: Path) -> None:
    (directory / "log" / "notes.txt").write_text("hello")


@pytest.mark.parametrize("harm", [damage_meta, lose_meta, lose_store, damage_store, put_foreign_file])
def test_verify_says_what_is_wrong_in_a_closed_directory(
    data: Path, capsys: Captured, harm: Callable[[Path], None]
) -> None:
    harm(data)
    before = contents(data)
    assert command(data, "verify") == EXIT_DATA
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == f"{len(output) - 1} {'thing is' if len(output) == 2 else 'things are'} wrong"
    assert contents(data) == before


def test_verify_names_file_and_offset_of_a_damaged_segment(crashed: Path, capsys: Captured) -> None:
    damage_log(crashed)
    assert command(crashed, "verify") == EXIT_DATA
    assert "0000000000000001.seg: offset 56" in capsys.readouterr().out


def test_verify_notices_a_closed_log_that_lost_its_end(data: Path, capsys: Captured) -> None:
    fill(data, *[commit for commit in commits(1, 12) if getattr(commit, "seq", 0) > 9], options=UNFOLDED)
    for _, path in segment_paths(data / "log"):
        path.unlink()
    assert command(data, "verify") == EXIT_DATA
    assert "expected position 14 as the last, got 11" in capsys.readouterr().out


# -- what all of them share --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "/tmp/never"],
        ["export", "p"],
        ["verify"],
        ["import", "/etc/hostname"],
        ["backup"],
        ["restore", "/nowhere/backup"],
        ["verify", "--loud"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_78(tmp_path: Path, capsys: Captured, arguments: list[str]) -> None:
    assert command(tmp_path / "missing", *arguments) == EXIT_CONFIG
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("panels-gateway: ")
    assert not (tmp_path / "missing").exists()


def test_file_that_exists_is_never_overwritten(data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert command(data, "backup", taken) == EXIT_CONFIG
    assert command(data, "export", "p", taken) == EXIT_CONFIG
    assert taken.read_text() == "mine"


def test_data_dir_comes_from_the_environment_and_the_file_too(data: Path, tmp_path: Path) -> None:
    from panels_gateway.commands.dispatch import run

    config = tmp_path / "panels.toml"
    config.write_text('data-dir = "data"\nport = 4000\n')
    assert run(["verify"], {"PANELS_DATA_DIR": str(data)}, directory=Path("/nowhere")) == 0
    assert run(["verify", f"--config={config}"], {}, directory=Path("/nowhere")) == 0
    assert run(["verify"], {"PANELS_CONFIG": str(config)}, directory=Path("/nowhere")) == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_80_columns(name: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        COMMANDS[name](["--help"], None)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("exit codes" in line for line in lines)


#: Runs a command and kills the process where the function of ``transfer`` that is named is about to be
#: called.
_KILLED = """
import os, signal, sys
from pathlib import Path
from panels_gateway.commands.dispatch import run
from panels_gateway.journal import transfer

def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

holder, name = (transfer.Folding, "checkpoint") if sys.argv[1] == "checkpoint" else (transfer, sys.argv[1])
setattr(holder, name, die)
run(sys.argv[2:], {}, directory=Path("/nowhere"))
"""


@pytest.mark.parametrize("place", ["grouped", "checkpoint", "publish"])
def test_backup_that_is_killed_leaves_no_file_of_that_name_and_can_be_repeated(
    crashed: Path, tmp_path: Path, place: str
) -> None:
    copy = tmp_path / "copy"
    words = [sys.executable, "-c", _KILLED, place, "backup", f"--data-dir={crashed}", str(copy)]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not copy.exists()
    assert (tmp_path / "copy.part").exists()
    assert command(crashed, "backup", copy) == 0
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]
    assert command(tmp_path / "new", "restore", copy) == 0
    assert command(tmp_path / "new", "verify") == 0


def test_backup_keeps_history_that_another_retention_would_trim(crashed: Path, tmp_path: Path) -> None:
    """The commits are of 1970; how long they are kept is the affair of the gateway, which may be told
    otherwise.
    """
    assert command(crashed, "backup", tmp_path / "copy") == 0
    assert command(tmp_path / "new", "restore", tmp_path / "copy") == 0
    store = Store(tmp_path / "new" / "panels.db")
    history = store.history(1, since=0, limit_bytes=1 << 20)
    store.close()
    assert history is not None
    assert [commit.seq for commit in history.commits] == list(range(1, 10))
