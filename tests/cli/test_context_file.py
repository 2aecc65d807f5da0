"""The file of contexts: where it is, and who may read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from panels_cli import context_file
from panels_cli.context import MAX_FILE_BYTES, Context, Contexts
from panels_cli.faults import UsageError


def test_location_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert context_file.location({}) == Path("/h/.config/panels/config.toml")
    assert context_file.location({"XDG_CONFIG_HOME": "/x"}) == Path("/x/panels/config.toml")
    assert context_file.location({"XDG_CONFIG_HOME": "relative"}) == Path("/h/.config/panels/config.toml")
    assert context_file.location({"PANELS_CLI_CONFIG": "f"}) == Path("f")


def test_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "config.toml"
    contexts = Contexts().add("c", Context("http://h", "a.b.c"))
    before = os.umask(0)
    try:
        context_file.write(path, contexts)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert context_file.read(path) == contexts
    assert [found.name for found in path.parent.iterdir()] == ["config.toml"]
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        context_file.read(path)


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    assert context_file.read(tmp_path / "none") == Contexts()
    path = tmp_path / "f"
    for content in (b"\xff", b"#" * (MAX_FILE_BYTES + 1)):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(UsageError, match="expected"):
            context_file.read(path)
    with pytest.raises(UsageError, match="cannot be written"):
        context_file.write(path / "below", Contexts())
    with pytest.raises(UsageError, match="cannot be read"):
        context_file.read(tmp_path)
