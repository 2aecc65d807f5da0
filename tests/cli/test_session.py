"""The options before the command, and standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from panels_cli import session
from panels_cli.context import Context
from panels_cli.faults import UsageError
from panels_cli.session import Session


def test_file_of_contexts_is_read_only_where_it_is_needed(tmp_path: Path) -> None:
    broken = tmp_path / "config.toml"
    broken.write_text("x")
    broken.chmod(0o600)
    environment = {"PANELS_CLI_CONFIG": str(broken)}
    target = Session(url="http://h", token="a.b.c", environment=environment).target()
    assert target.context == Context("http://h", "a.b.c")
    with pytest.raises(UsageError):
        Session(url="http://h", environment=environment).target()


def test_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_INPUT_BYTES", 3)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abc")))
    assert session.read_input() == b"abc"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"abcd")))
    with pytest.raises(UsageError, match="at most 3 bytes"):
        session.read_input()


def test_nobody_is_asked_where_nobody_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    session.confirm("Sure?", yes=True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(UsageError, match="--yes"):
        session.confirm("Sure?", yes=False)
