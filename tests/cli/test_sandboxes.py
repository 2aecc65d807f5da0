"""Sandboxes in /proc."""

from __future__ import annotations

from pathlib import Path

from panels_cli import sandboxes
from tests.cli.test_checks import STATUS


def test_only_sandboxes_are_found(tmp_path: Path) -> None:
    for pid, command, status in (
        ("5", b"python\0-m\0panels_worker.sandbox.process\0", STATUS.replace("ready", "waiting")),
        ("6", b"python\0-m\0panels_worker.sandbox.process\0", STATUS.replace("sandbox ready", "python")),
        ("7", b"python\0-m\0panels_worker.sandbox.process\0", STATUS),
        ("8", b"python\0-m\0panels_worker\0", STATUS),
        ("9", b"python\0-m\0panels_worker.sandbox.process\0", ""),
        ("self", b"panels_worker.sandbox", STATUS),
    ):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(command)
        (tmp_path / pid / "status").write_text(status)
    (tmp_path / "10").mkdir()
    assert [sandbox.pid for sandbox in sandboxes.find(tmp_path)] == [7]
    assert sandboxes.find(tmp_path / "none") == []
