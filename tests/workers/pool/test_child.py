"""A child process of the pool: its pipes and its end."""

from __future__ import annotations

import logging
import select
import signal
import sys

import pytest

from panels_shared.loglines import fields_of
from panels_shared.messages import WorkerId
from panels_worker.pool.child import MAX_LOG_BYTES, Child
from panels_worker.status import Report, State

WORKER = WorkerId(b"w" * 16)


def start(code: str, config: bytes = b"") -> Child:
    return Child(WORKER, config, command=(sys.executable, "-I", "-c", code))


def wait(fd: int) -> None:
    assert select.select([fd], [], [], 10)[0]


def finish(child: Child) -> int:
    """Reads its log until it ends, as the pool's loop does."""
    while child.pidfd not in select.select([child.pidfd, child.log_fd], [], [], 10)[0]:
        child.read_log()
    return child.reap()


def test_child_gets_its_configuration_on_standard_input() -> None:
    child = start("import sys; sys.exit(len(sys.stdin.buffer.read()))", b"x" * 42)
    assert finish(child) == 42


def test_child_survives_a_process_that_dies_before_it_reads() -> None:
    child = start("import os; os.close(0); os._exit(3)", b"x" * 60_000)
    assert finish(child) == 3


def test_child_reads_the_newest_report() -> None:
    child = start(
        "import sys, struct, time;"
        "sys.stdout.buffer.write(struct.pack('<BQI', 0, 1, 2) + struct.pack('<BQI', 1, 5, 6) + b'rest');"
        "sys.stdout.flush(); time.sleep(60)"
    )
    wait(child.reports_fd)
    assert child.read_report() == Report(State.READY, 5, 6)
    assert child.read_report() is None
    assert child.rss_bytes() > 1_000_000
    child.send_signal(signal.SIGKILL)
    assert finish(child) == -9
    child_rss = child.rss_bytes()
    assert child_rss == 0


def test_child_passes_its_log_on_without_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ours = '{"level":"info","logger":"panels.worker.sandbox","event":"hello","fields":{"job":3}}'
    child = start(f"import sys; sys.stderr.write({ours!r} + '\\nERROR \\x1b[2Jbad\\nTraceback\\nlast')")
    finish(child)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [
        ("INFO", "hello"),
        ("WARNING", "ERROR \ufffd[2Jbad"),
        ("WARNING", "Traceback"),
        ("WARNING", "last"),
    ]
    assert fields_of(caplog.records[0]) == {"worker": WORKER.hex()[:16], "pid": child.pid, "job": 3}


def test_child_drops_the_log_of_one_that_writes_too_much(caplog: pytest.LogCaptureFixture) -> None:
    child = start("import sys; [sys.stderr.write('INFO ' + 'x' * 999 + '\\n') for _ in range(2000)]")
    assert finish(child) == 0
    written = sum(len(record.getMessage()) for record in caplog.records)
    assert written < MAX_LOG_BYTES + 65_536
    assert "logs too much" in caplog.records[-1].getMessage()
