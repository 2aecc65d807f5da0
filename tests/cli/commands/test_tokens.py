"""`panels token`: the gateway takes what it makes."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Terminal


def test_gateway_takes_the_token_for_what_it_allows(panels: Terminal, panel: str, secret_file: Path) -> None:
    made = panels("token", "--secret-file", str(secret_file), "--sub", "bob", "--allow", "p=read")
    token = made.out.strip()
    assert panels("--token", token, "state", panel).code == 0
    refused = panels("--token", token, "call", panel, "do")
    assert refused.code == 1
    assert "(FORBIDDEN)" in refused.err
    shown = panels("token", "--secret-file", str(secret_file), "--ttl", "30m", "--json").json
    assert shown["claims"]["exp"] - shown["claims"]["iat"] == 1800


def test_secret_that_cannot_be_read_is_said(panels: Terminal, tmp_path: Path) -> None:
    assert "cannot be read" in panels("token", "--secret-file", str(tmp_path / "no")).err
