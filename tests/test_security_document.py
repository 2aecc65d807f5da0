"""docs/security.md: every row of the threat model has a test, and what the page names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from panels_gateway.configuration.options import OPTIONS as GATEWAY_OPTIONS
from panels_worker.config import OPTIONS as WORKER_OPTIONS

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = (ROOT / "docs" / "security.md").read_text()
PACKAGES: Final = ("gateway/panels_gateway", "workers/panels_worker", "shared/panels_shared")
ASSETS: Final = ("state", "secrets", "sources", "CPU", "memory", "record", "host")
COLUMNS: Final = "| Asset | What stops it | Shown by | What remains |"
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)(?:\[([^`]*)\])?`")


class Row(NamedTuple):
    """One row of the threat model."""

    attacker: str
    assets: tuple[str, ...]
    stops: str
    shown: str
    remains: str


class Found(NamedTuple):
    """The tests of a file by name, with whether each is parametrised, and all text literals of the file."""

    parametrised: dict[str, bool]
    texts: frozenset[str]


def rows() -> list[Row]:
    """All rows of the threat model, in order."""
    model = PAGE[PAGE.index("## The threat model") : PAGE.index("## How to run hardened")]
    found: list[Row] = []
    for section in re.split(r"^### ", model, flags=re.MULTILINE)[1:]:
        attacker, _, body = section.partition("\n")
        table = [line for line in body.splitlines() if line.startswith("|")]
        assert table[:1] == [COLUMNS], attacker
        for line in table[2:]:
            _, assets, stops, shown, remains, _ = (cell.strip() for cell in line.split("|"))
            found.append(Row(attacker, tuple(assets.split(", ")), stops, shown, remains))
    return found


ROWS: Final = rows()


@cache
def found_in(path: str) -> Found:
    """What the file of tests ``path`` holds. A test that is always skipped is none."""
    tree = ast.parse((ROOT / path).read_text(), path)
    parametrised: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if not any(re.match(r"pytest\.mark\.(skip|xfail)\b", mark) for mark in marks):
                parametrised[node.name] = any("parametrize" in mark for mark in marks)
    nodes = ast.walk(tree)
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return Found(parametrised, frozenset(texts))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.attacker}: {', '.join(row.assets)}")
def test_row_has_tests_that_exist(row: Row) -> None:
    assert row.stops
    assert set(row.assets) <= set(ASSETS)
    named = _TEST.findall(row.shown)
    assert named
    assert len(named) == row.shown.count("`") / 2, "only tests stand in this column"
    for path, name, case in named:
        assert (ROOT / path).is_file(), path
        tests = found_in(path)
        assert name in tests.parametrised, f"{path}::{name}"
        if case:
            assert tests.parametrised[name], f"{path}::{name} has no cases"
            assert case in tests.texts, f"{path}::{name}[{case}]"


def test_overview_has_a_dot_for_each_row() -> None:
    overview = PAGE[PAGE.index("<!-- overview -->") : PAGE.index("<!-- end of overview -->")]
    heading, _, *lines = (line for line in overview.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in heading.split("|")[2:-1]] == list(ASSETS)
    shown: dict[str, set[str]] = {}
    for line in lines:
        _, link, *cells, _ = (cell.strip() for cell in line.split("|"))
        attacker = link[1 : link.rindex("](")]
        shown[attacker] = {asset for asset, cell in zip(ASSETS, cells, strict=True) if cell == "●"}
    meant: dict[str, set[str]] = {}
    for row in ROWS:
        meant.setdefault(row.attacker, set()).update(row.assets)
    assert shown == meant


def test_modules_and_options_that_the_page_names_exist() -> None:
    modules = set(re.findall(r"`((?!tests/)[a-z_/]+\.py)`", PAGE))
    missing = [name for name in modules if not any((ROOT / base / name).is_file() for base in PACKAGES)]
    assert missing == []
    options = {f"--{option.name}" for option in (*GATEWAY_OPTIONS, *WORKER_OPTIONS)}
    assert set(re.findall(r"--[a-z][a-z-]+[a-z]", re.sub(r"<!--.*?-->|\(#[^)]*\)", "", PAGE))) <= options
