"""docs/abi.md names the imports that there are, with the signatures that they have, and so do the headers in
examples/.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from panels_shared.limits import DEFAULT_LIMITS, DEFAULT_MAXIMA, MIB
from panels_worker.compiling.signatures import OPTIONAL_EXPORTS, PANELS_IMPORTS
from panels_worker.guest import wasi
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TEXT = (ROOT / "docs" / "abi.md").read_text()
CODES = {"i32": 0x7F, "i64": 0x7E, "f64": 0x7C}
ROW = re.compile(r"^\| `(\w+)` \| `\((.*?)\)(?: → (\w+|\(\)))?` \|", re.MULTILINE)


def documented() -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name, params, result in ROW.findall(TEXT):
        types = [part.rpartition(":")[2].strip() for part in params.split(",") if part.strip()]
        found[name] = (
            tuple(CODES[kind] for kind in types),
            () if result in ("", "()") else (CODES[result],),
        )
    return found


def test_imports_and_optional_exports_are_the_documented_ones() -> None:
    rows = documented()
    assert {name: rows[name] for name in PANELS_IMPORTS} == PANELS_IMPORTS
    assert {name: rows[name] for name in OPTIONAL_EXPORTS} == OPTIONAL_EXPORTS
    assert set(rows) == {*PANELS_IMPORTS, *OPTIONAL_EXPORTS, "alloc"}


def test_limits_are_the_documented_ones() -> None:
    for name, number in (
        ("fuel", DEFAULT_LIMITS.fuel),
        ("timeoutMs", DEFAULT_LIMITS.deadline_ms),
        ("hostCalls", DEFAULT_LIMITS.host_calls),
        ("events", DEFAULT_LIMITS.events),
    ):
        assert re.search(rf"\| `{name}`[^|]*\| {number:,} \|", TEXT), name
    assert f"above {DEFAULT_MAXIMA.memory_bytes // MIB} MiB or a table above {MAX_TABLE_ELEMENTS:,}" in TEXT


def test_calls_of_wasi_are_the_documented_ones() -> None:
    section = TEXT.partition("## WASI preview 1")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", row) for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)]
    assert sorted(name for row in rows for name in row) == sorted(wasi.IMPORTS)
    for errno, number in (("EBADF", wasi.EBADF), ("ENOSYS", wasi.ENOSYS)):
        row = re.search(rf"^\| (.*) \| `{errno}` \|$", section, re.MULTILINE)
        assert row is not None
        denied = {name for name, (_, answer) in wasi._DENIED.items() if answer == number}
        assert set(re.findall(r"`(\w+)`", row[1])) == denied


C_TYPES = {"size_t": 0x7F, "int32_t": 0x7F, "int64_t": 0x7E, "double": 0x7C}


def test_c_header_declares_every_import() -> None:
    text = (EXAMPLES / "c" / "panels.h").read_text()
    found = {}
    for name, kind, params in re.findall(
        r'^PANELS_IMPORT\("(\w+)"\)\n(\w+) \w+\((.*?)\);', text, re.MULTILINE | re.DOTALL
    ):
        given = [part.split() for part in params.split(",") if part.strip() != "void"]
        # the last word is the parameter's name; a pointer is an i32
        codes = tuple(0x7F if "*" in " ".join(words) else C_TYPES[words[-2]] for words in given)
        found[name] = (codes, () if kind == "void" else (C_TYPES[kind],))
    assert found == PANELS_IMPORTS


TS_TYPES = {"usize": 0x7F, "i32": 0x7F, "i64": 0x7E, "f64": 0x7C}


def test_assemblyscript_module_declares_every_import() -> None:
    text = (EXAMPLES / "assemblyscript" / "assembly" / "panels.ts").read_text()
    found = {}
    declaration = r'^@external\("panels", "(\w+)"\)\ndeclare function \w+\((.*?)\): (\w+);'
    for name, params, kind in re.findall(declaration, text, re.MULTILINE):
        codes = tuple(TS_TYPES[part.rpartition(": ")[2]] for part in params.split(", ") if part)
        found[name] = (codes, () if kind == "void" else (TS_TYPES[kind],))
    assert found == PANELS_IMPORTS


@pytest.mark.parametrize(
    ("language", "path"),
    [
        ("wat", "wat/increment.wat"),
        ("c", "c/counter.c"),
        ("ts", "assemblyscript/assembly/counter.ts"),
    ],
)
def test_walk_through_shows_the_examples_as_they_are(language: str, path: str) -> None:
    lines = [line.strip() for line in (EXAMPLES / path).read_text().splitlines()]
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        wanted = [line.strip() for line in block.splitlines()]
        assert any(lines[at : at + len(wanted)] == wanted for at in range(len(lines))), block
