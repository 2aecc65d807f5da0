"""`panels top` against a gateway."""

from __future__ import annotations

import json

from tests.cli.conftest import Terminal


def test_top_prints_pictures_and_ends(panels: Terminal, panel: str) -> None:
    shown = panels("top", "--interval", "0.1", "--count", "2")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["triggers", "workers", "gateway", "record"]
    assert sum(line.startswith("triggers") for line in lines) == 2


def test_top_as_json_is_a_picture_a_line(panels: Terminal, panel: str) -> None:
    shown = panels("top", "--interval", "0.1", "--count", "2", "--json")
    pictures = [json.loads(line) for line in shown.out.splitlines()]
    assert len(pictures) == 2
    assert pictures[0]["levels"]["panels_panels"] == 1


def test_top_says_when_nobody_is_there(panels: Terminal) -> None:
    shown = panels("--url", "http://127.0.0.1:9", "top", "--count", "1")
    assert shown.code == 3
