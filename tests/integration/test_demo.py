"""scripts/demo, as somebody who has just cloned the repository runs it."""

from __future__ import annotations

import re
import subprocess
import sys

import psutil
import pytest

from tests.integration.guests import ROOT


@pytest.mark.timeout(120)
def test_demo_shows_everything_once_and_leaves_nothing_behind() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), "--once", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert re.search(r"ws://127\.0\.0\.1:\d+/panels/counter/ws\?token=\S+", run.stdout)
    for kind in ("CONNECTED", "PATCH", "EVENT", "RESULT", "ERROR"):
        assert kind in run.stdout
    record = run.stdout[run.stdout.index("The record.") :]
    order = ("SIGKILL", "gateway ", "recovered ", "one effect", "seq 4: count = 4", "Your turn")
    places = [record.index(word, record.index("SIGKILL")) for word in order]
    assert places == sorted(places), record
    assert (
        record.count("seq 3: count = 3") == 2
    )  # bob heard it before the kill, ada after it, and nobody twice
    assert record.count("seq 3, recovered") == 2
    approval = run.stdout[run.stdout.index("A refund that waits") :]
    steps = ("human.asked", "PROGRESS", "SIGKILL", "ANSWER true", "ANSWERED", "RESULT", "approved ")
    places = [approval.index(word) for word in steps]
    assert places == sorted(places), approval
    folder = re.search(r"/tmp/panels-demo-\w+", run.stdout)
    assert folder is not None
    left = [
        " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline", "cwd"])
        if folder[0] in f"{process.info['cwd']} {process.info['cmdline']}"
    ]
    assert left == []
