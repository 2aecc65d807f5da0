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
    before = {process.pid for process in psutil.process_iter()}
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), "--once", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    left = [
        " ".join(process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline", "cwd"])
        if process.pid not in before and "panels-demo-" in str(process.info["cwd"])
    ]

    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert re.search(r"ws://127\.0\.0\.1:\d+/panels/counter/ws\?token=\S+", run.stdout)
    for kind in ("CONNECTED", "PATCH", "EVENT", "RESULT", "ERROR"):
        assert kind in run.stdout
    assert left == []
