"""What the gateway says of itself."""

from __future__ import annotations

import httpx
import pytest

from panels_gateway.http.metrics import KEPT_S
from panels_gateway.kernel.readiness import KEPT_S as KEPT_READY_S
from panels_shared.outcome import Failed, Reason, Usage
from tests.gateway.http.callers import make_client
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


async def test_health_follows_the_kernel(client: httpx.AsyncClient, gateway: Gateway) -> None:
    response = await client.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ready")
    gateway.kernel.intake.closing = True
    response = await client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")


async def test_health_waits_for_a_worker_and_names_the_durability() -> None:
    gateway = Gateway(workers=False)
    async with make_client(gateway, "--durability=none") as client:
        response = await client.get("/health")
        assert (response.status_code, response.json()["durability"]) == (503, "none")
        gateway.start_workers()
        assert (await client.get("/health")).status_code == 200


async def test_metrics_count_requests_by_status(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p", state={"n": 123})
    await client.get("/nowhere")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert 'panels_http_requests_total{status="404"} 1' in lines
    assert "panels_panels 1" in lines
    assert "panels_workers 1" in lines
    assert "panels_bus_bad_frames_total 0" in lines
    assert 'panels_triggers_failed_total{reason="TIMEOUT"} 0' in lines


async def test_metrics_are_collected_once_for_many_who_ask(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    first = (await client.get("/metrics")).text
    await gateway.add("p")
    assert (await client.get("/metrics")).text == first
    gateway.now_s += KEPT_S
    assert "panels_panels 1" in (await client.get("/metrics")).text.splitlines()


async def test_clients_learn_little_where_administrators_have_a_port(gateway: Gateway) -> None:
    async with make_client(gateway, "--admin-listen=127.0.0.1:9001") as client:
        assert (await client.get("/metrics")).status_code == 404
        response = await client.get("/health")
        assert (response.status_code, response.json()) == (200, {"status": "ready"})
        gateway.kernel.intake.closing = True
        response = await client.get("/health")
        assert (response.status_code, response.json()) == (503, {"status": "unavailable"})


async def test_live_is_said_whatever_else_is_wrong(client: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.kernel.intake.closing = True
    response = await client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "live"})


async def test_ready_has_a_trigger_run_and_says_why_it_is_not(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})
    assert len(gateway.jobs) == 1
    assert (await client.get("/panels")).json()["panels"] == []
    gateway.respond_own = lambda number: Failed(Usage(), Reason.MEMORY_LIMIT, "what a worker says")
    gateway.now_s += KEPT_READY_S
    response = await client.get("/health/ready")
    reason = "a trigger of the gateway's own failed: MEMORY_LIMIT"
    assert (response.status_code, response.json()) == (503, {"status": "unavailable", "reason": reason})
    gateway.now_s += 3
    assert (await client.get("/health")).json()["problems"] == [f"/health/ready, 3 s ago: {reason}"]


async def test_clients_are_not_told_why_where_administrators_have_a_port() -> None:
    gateway = Gateway(workers=False)
    async with make_client(gateway, "--admin-listen=127.0.0.1:9001") as client:
        assert (await client.get("/health/live")).status_code == 200
        response = await client.get("/health/ready")
        assert (response.status_code, response.json()) == (503, {"status": "unavailable"})
