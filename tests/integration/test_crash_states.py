"""The explorer of losses of power itself, and its short form with a real gateway."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.crash_states import Recording, explore

ROOT = "/r"


def hexed(text: str) -> str:
    """As strace writes every string."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def recording(*lines: str) -> Recording:
    """What these lines of strace say; <name> stands for a descriptor's path, "text" for a string."""
    made = Recording(Path(ROOT))
    made.read(lines)
    return made


def opened(name: str, flags: str = "O_WRONLY|O_CREAT") -> str:
    return f'7 openat(AT_FDCWD<{hexed("/")}>, "{hexed(name)}", {flags}, 0600) = 3<{hexed(name)}>'


def written(name: str, data: str, offset: int) -> str:
    return f'7 pwrite64(3<{hexed(name)}>, "{hexed(data)}", {len(data)}, {offset}) = {len(data)}'


def synced(name: str) -> str:
    return f"7 fdatasync(3<{hexed(name)}>) = 0"


def states(made: Recording, folder: Path, cut: int, count: int = 200) -> list[dict[str, bytes]]:
    """Many states at one place, as the files' contents by name."""
    found = []
    for number in range(count):
        target = folder / str(number)
        target.mkdir()
        made.build(target, cut, random.Random(number))
        found.append({path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()})
    return found


def test_what_was_synced_is_in_every_state_and_the_rest_in_some(tmp_path: Path) -> None:
    made = recording(
        opened("/r/a"),
        written("/r/a", "1" * 600, 0),
        synced("/r/a"),
        synced("/r"),
        written("/r/a", "2" * 1200, 600),
    )
    found = states(made, tmp_path, 6)
    assert all(state["a"][:600] == b"1" * 600 for state in found)
    kinds = Counter(state["a"][600:] for state in found)
    assert kinds[b""]
    assert kinds[b"2" * 1200]
    torn = [tail for tail in kinds if tail not in (b"", b"2" * 1200)]
    assert b"2" * 424 in torn, "the part in the sector that was there"
    assert any(tail.startswith(b"\0" * 424 + b"2" * 512) for tail in torn), (
        "a later sector without an earlier one"
    )


def test_a_name_is_in_every_state_only_once_its_directory_is_synced(tmp_path: Path) -> None:
    made = recording(
        opened("/r/new"),
        written("/r/new", "x", 0),
        synced("/r/new"),
        f'7 rename("{hexed("/r/new")}", "{hexed("/r/old")}") = 0',
        synced("/r"),
    )
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    before = states(made, tmp_path / "before", 5)
    assert {tuple(state) for state in before} == {(), ("new",), ("old",)}
    assert all(state == {"old": b"x"} for state in states(made, tmp_path / "after", 6))


def test_a_sync_covers_only_what_was_written_before_it_began(tmp_path: Path) -> None:
    made = recording(
        opened("/r/a"),
        synced("/r"),
        f"7 fdatasync(3<{hexed('/r/a')}> <unfinished ...>",
        written("/r/a", "late", 0).replace("7 ", "8 ", 1),
        "7 <... fdatasync resumed>) = 0",
    )
    assert any(state["a"] == b"" for state in states(made, tmp_path, 6))


def test_an_answer_counts_from_when_it_begins_to_leave() -> None:
    frame = hexed('{"type":"RESULT","requestId":"key-1","result"')
    made = recording(
        opened("/r/a"),
        f'7 write(9<{hexed("socket:[77]")}>, "{frame}", 40 <unfinished ...>',
        "7 <... write resumed>) = 40",
    )
    assert made.acknowledged_before(2) == []
    assert made.acknowledged_before(3) == ["key-1"]


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("strace")
def test_no_loss_of_power_takes_back_what_was_acknowledged() -> None:
    report = explore(states=8, seed=3, seconds=3.0)
    assert not report.violations, "\n".join(report.violations)
    assert report.counts["acknowledged and looked for"] > 0
    assert report.counts["unsynced dropped"] + report.counts["unsynced torn"] > 0
