"""docs/abi.md names the imports that there are, with the signatures that they have."""

from __future__ import annotations

import re
from pathlib import Path

from panels_shared.limits import DEFAULT_LIMITS, DEFAULT_MAXIMA, MIB
from panels_worker.engine import MAX_TABLE_ELEMENTS
from panels_worker.preflight import _OPTIONAL_EXPORTS, PANELS_IMPORTS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "abi.md").read_text()
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
    assert {name: rows[name] for name in _OPTIONAL_EXPORTS} == _OPTIONAL_EXPORTS
    assert set(rows) == {*PANELS_IMPORTS, *_OPTIONAL_EXPORTS, "alloc"}


def test_limits_are_the_documented_ones() -> None:
    for name, number in (
        ("fuel", DEFAULT_LIMITS.fuel),
        ("deadlineMs", DEFAULT_LIMITS.deadline_ms),
        ("hostCalls", DEFAULT_LIMITS.host_calls),
        ("events", DEFAULT_LIMITS.events),
    ):
        assert re.search(rf"\| `{name}`[^|]*\| {number:,} \|", TEXT), name
    assert f"above {DEFAULT_MAXIMA.memory_bytes // MIB} MiB or a table above {MAX_TABLE_ELEMENTS:,}" in TEXT
