"""`panels context`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ISSUER, Terminal


def test_contexts_are_kept_used_and_removed(
    panels: Terminal, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PANELS_URL")
    monkeypatch.delenv("PANELS_TOKEN")
    token = tmp_path / "token"
    token.write_text(ISSUER.mint() + "\n")
    assert panels("context", "add", "here", "--url", url + "/", "--token-file", str(token)).code == 0
    assert panels("context", "add", "there", "--url", "https://panels.example").code == 0
    assert panels("ls").code == 0
    listed = panels("context", "ls").out.splitlines()
    assert listed[1].split() == ["*", "here", url, "yes"]
    assert panels("context", "use", "there", "--json").json["current"] == "there"
    assert panels("-c", "here", "ls").code == 0
    assert panels("context", "rm", "there").out == "removed there\n"
    assert panels("context", "use", "there").code == 2
    assert token.read_text().strip() not in panels("context", "ls", "--json").out


def test_token_comes_from_one_place(panels: Terminal, tmp_path: Path) -> None:
    both = ("--token", "a.b.c", "--token-file", "x")
    assert panels("context", "add", "a", "--url", "http://h", *both).code == 2
    missing = panels("context", "add", "a", "--url", "http://h", "--token-file", str(tmp_path / "no"))
    assert "cannot be read" in missing.err
