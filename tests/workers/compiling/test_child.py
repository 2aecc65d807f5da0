"""What a compile child is given."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import pytest

from panels_worker.compiling.child import CompileChild, Request


def test_child_is_given_nothing_of_the_pools_environment_and_no_descriptor_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the compiler's place tells what it finds."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nenv\nls /proc/$$/fd\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("PANELS_WORKER_SECRET", "s3cret")
    with program.open() as file:
        kept_open = os.dup2(file.fileno(), 222, inheritable=True)
    found = CompileChild(Request(b"d" * 32, "wat", "handle", b"(module)"), {}, time.monotonic())
    try:
        assert select.select([found.pidfd], [], [], 20)[0]
        told = os.pread(found._output, 65_536, 0).decode()
    finally:
        found.close()
        os.close(kept_open)
    assert "PYTHONDONTWRITEBYTECODE=1" in told
    assert "s3cret" not in told
    assert str(kept_open) not in told.splitlines()
