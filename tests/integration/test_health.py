"""Ready means that a trigger works: a real gateway, real sandboxes, and what becomes of them."""

from __future__ import annotations

import signal
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter
from tests.support.system import System, eventually

DURABILITIES = ["process", "power", "none"]

pytestmark = pytest.mark.timeout(240)


def ready(url: str) -> tuple[int, dict[str, Any]]:
    """Status and body of /health/ready."""
    response = httpx.get(f"{url}/health/ready", timeout=60, trust_env=False)
    return response.status_code, response.json()


def await_ready(system: System) -> None:
    """Returns once a trigger works. The first one waits until the pool has compiled its handler."""
    eventually(lambda: ready(system.url)[0] == 200, within_s=60.0, what="/health/ready to answer 200")


@pytest.mark.parametrize("durability", DURABILITIES)
def test_ready_asks_a_sandbox_and_leaves_no_trace(make_system: MakeSystem, durability: str) -> None:
    system = make_system(processes=1, gateway=["--durability", durability, "--max-panels", "1"])
    await_ready(system)
    assert ready(system.url) == (200, {"status": "ready"})
    assert system.http.get("/panels").json()["panels"] == []
    assert system.http.get("/health").json()["journal"]["position"] == 0
    metrics = system.http.get("/metrics").text.splitlines()
    for line in ("panels_panels 0", "panels_dispatched_panels 0", "panels_fuel_total 0"):
        assert line in metrics
    with system.connect(system.make_panel(counter())) as client:  # the one panel that may be
        assert client.call("count") == 1


def test_sandboxes_that_hang_and_pools_that_go_are_told_with_the_reason(make_system: MakeSystem) -> None:
    system = make_system(processes=1)
    await_ready(system)
    (sandbox,) = system.sandboxes()
    sandbox.suspend()
    reasons = (
        "a trigger of the gateway's own has not been answered",
        "no worker is connected that can run a job",
    )
    try:
        status, body = eventually(lambda: _unready(system), what="a sandbox that hangs to be noticed") or (
            0,
            {},
        )
        assert status == 503
        assert body["status"] == "unavailable"
        assert body["reason"].startswith(reasons)
    finally:
        sandbox.resume()
    await_ready(system)
    system.pool.signal(signal.SIGKILL)
    system.pool.wait()
    eventually(
        lambda: ready(system.url) == (503, {"status": "unavailable", "reason": reasons[1]}),
        what="the pool's end to be noticed",
    )
    assert httpx.get(f"{system.url}/health/live", trust_env=False).json() == {"status": "live"}
    system.start_pool(processes=1)
    await_ready(system)


def _unready(system: System) -> tuple[int, dict[str, Any]] | None:
    found = ready(system.url)
    return found if found[0] != 200 else None


def test_pools_with_labels_alone_make_a_gateway_ready(make_system: MakeSystem) -> None:
    system = make_system(processes=0, pool=["--labels", "gpu"])
    assert ready(system.url)[0] == 503
    system.start_pool(processes=1)
    await_ready(system)
