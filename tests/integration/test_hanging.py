"""A sandbox that lives, beats and never answers: real processes, and a pool that is told to kill it."""

from __future__ import annotations

import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter
from tests.support.backdoor import start_taken_over_pool
from tests.support.system import eventually

pytestmark = pytest.mark.timeout(240)

#: Its second thread goes on beating and reporting, as one does whose first is stuck outside of the guest.
HANG = """
import time
from panels_worker.sandbox.sandbox import Sandbox

def attack(captive):
    captive.process.shared.beating = True
    Sandbox.run_next = lambda sandbox: time.sleep(3_600)
"""


def test_pool_kills_a_sandbox_whose_run_does_not_end_and_starts_another(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    # far above what this test takes: the pool itself sees nothing wrong
    taken = start_taken_over_pool(system, HANG, pool=["--max-job-s", "3600"])
    system.await_ready()
    panel = system.make_panel({**counter(), "limits": {"timeoutMs": 100}}, state={"count": 0})
    first = system.sandboxes()[0].pid
    answer = system.http.post(f"/panels/{panel}/trigger/count", json={"args": {}})
    assert "WORKER_LOST" in answer.text, answer.text
    eventually(lambda: "the gateway waits in vain" in taken.pool.text, what="the pool to kill it")
    eventually(lambda: first not in [each.pid for each in system.sandboxes()], what="it to be gone")
    eventually(lambda: len(system.sandboxes()) == 1, what="another to be started")
    shown = eventually(
        lambda: text if "panels_workers_hung_total 2" in (text := system.http.get("/metrics").text) else "",
        what="both to be counted",
    )
    assert "panels_pool_processes 1" in shown.splitlines()
