"""The tree of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Terminal

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
COMMANDS = [
    *(
        ["ls"],
        ["get"],
        ["state"],
        ["history"],
        ["revert"],
        ["replay"],
        ["logs"],
        ["top"],
        ["fork"],
        ["rm"],
        ["call"],
        ["watch"],
    ),
    *(["init"], ["apply"], ["token"], ["doctor"]),
    *(["suspensions", name] for name in ("ls", "answer", "cancel")),
    *(["context", name] for name in ("add", "use", "ls", "rm")),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_and_the_document_has_the_command(
    panels: Terminal, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = panels(*words, "--help")
    assert shown.code == 0
    assert "--json" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "\x1b" not in shown.out
    assert f"panels {' '.join(words)}" in DOCUMENT


def test_program_alone_shows_all_commands(panels: Terminal) -> None:
    shown = panels()
    assert shown.code == 0
    for words in COMMANDS:
        assert f"\n  {words[0]} " in shown.out
    assert panels("--version").out.startswith("panels ")
