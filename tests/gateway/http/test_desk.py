"""Who asks, which panel they mean, and the bytes that they sent, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from panels_gateway.access.tokens import principal_of
from panels_gateway.http import desk
from panels_gateway.panels.definition_body import DefinitionLimits
from panels_shared.errors import Code, RequestError
from tests.gateway.http.callers import COUNTER, assert_error, bearer, grant, make_client, make_token
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


# -- who may what ------------------------------------------------------------------------------------


async def test_everything_but_health_and_metrics_wants_a_token(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    await gateway.add("p")
    for method, path in [
        ("GET", "/panels"),
        ("POST", "/panels"),
        ("GET", "/panels/p"),
        ("GET", "/panels/none"),
        ("PUT", "/panels/p"),
        ("DELETE", "/panels/p"),
        ("GET", "/panels/p/state"),
        ("POST", "/panels/p/trigger/t"),
    ]:
        for headers in ({}, {"authorization": "Bearer nonsense"}):
            response = await guarded.request(method, path, headers=headers)
            assert_error(response, Code.UNAUTHORIZED)
            assert response.headers["www-authenticate"] == "Bearer"
    assert (await guarded.get("/health")).status_code == 200
    assert (await guarded.get("/metrics")).status_code == 200


async def test_a_token_is_taken_from_header_or_query(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.get("/panels", headers=bearer())).status_code == 200
    assert (await guarded.get("/panels", params={"token": make_token()})).status_code == 200
    both = await guarded.get("/panels", params={"token": make_token(sub="a")}, headers=bearer(sub="b"))
    assert_error(both, Code.UNAUTHORIZED)


async def test_permissions_are_asked_for(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p")
    reader, runner, owner = grant("p", "read"), grant("p", "trigger:t"), grant("p", "manage")
    assert (await guarded.get("/panels/p", headers=reader)).status_code == 200
    assert_error(await guarded.get("/panels/p", headers=runner), Code.FORBIDDEN)
    assert_error(await guarded.get("/panels/p/state", headers=owner), Code.FORBIDDEN)
    assert (await guarded.post("/panels/p/trigger/t", headers=runner)).status_code == 200
    assert_error(await guarded.post("/panels/p/trigger/u", headers=runner), Code.FORBIDDEN)
    assert_error(await guarded.post("/panels/p/trigger/t", headers=reader), Code.FORBIDDEN)
    assert_error(await guarded.put("/panels/p", headers=reader, json={"kind": "k"}), Code.FORBIDDEN)
    assert_error(await guarded.delete("/panels/p", headers=reader), Code.FORBIDDEN)
    assert (await guarded.delete("/panels/p", headers=owner)).status_code == 204


async def test_creation_needs_manage_on_the_id(guarded: httpx.AsyncClient) -> None:
    owner = grant("mine-*", "manage")
    assert (await guarded.post("/panels", headers=owner, json={**COUNTER, "id": "mine-1"})).status_code == 201
    assert_error(
        await guarded.post("/panels", headers=owner, json={**COUNTER, "id": "other"}), Code.FORBIDDEN
    )
    assert_error(await guarded.post("/panels", headers=owner, json=COUNTER), Code.FORBIDDEN)


async def test_lists_hold_only_what_may_be_read(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    for name in ("a1", "a2", "b1"):
        await gateway.add(name)
    listed = (await guarded.get("/panels", headers=grant("a*", "read"))).json()
    assert [panel["id"] for panel in listed["panels"]] == ["a1", "a2"]


async def test_concealed_panels_look_like_missing_ones(gateway: Gateway, tmp_path: Path) -> None:
    await gateway.add("p")
    stranger = grant("q", "read", "manage", "trigger:*")
    async with make_client(gateway, "--conceal-panels", secret_file=tmp_path / "s") as client:
        for method, path in [
            ("GET", ""),
            ("PUT", ""),
            ("DELETE", ""),
            ("GET", "/state"),
            ("POST", "/trigger/t"),
        ]:
            there = await client.request(method, f"/panels/p{path}", headers=stranger)
            missing = await client.request(method, f"/panels/x{path}", headers=stranger)
            assert_error(there, Code.PANEL_NOT_FOUND)
            assert there.text.replace("'p'", "'x'") == missing.text
        assert (await client.post("/panels/p/trigger/t", headers=grant("p", "trigger:t"))).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://gateway:3002"])
async def test_web_pages_of_other_origins_change_nothing(
    client: httpx.AsyncClient, gateway: Gateway, origin: str
) -> None:
    await gateway.add("p")
    for method, path in [
        ("POST", "/panels"),
        ("PUT", "/panels/p"),
        ("DELETE", "/panels/p"),
        ("POST", "/panels/p/trigger/t"),
    ]:
        assert_error(
            await client.request(method, path, headers={"origin": origin}, json=COUNTER), Code.FORBIDDEN
        )
    assert await gateway.kernel.residents.open("p") is not None
    response = await client.get("/panels/p", headers={"origin": origin})
    assert "access-control-allow-origin" not in response.headers


async def test_web_pages_of_allowed_origins_may_read_and_change(gateway: Gateway) -> None:
    await gateway.add("p")
    page = {"origin": "https://app.example"}
    async with make_client(gateway, "--allowed-origins", "https://app.example") as client:
        response = await client.post("/panels/p/trigger/t", headers=page)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (
            200,
            "https://app.example",
        )
        asked = {
            **page,
            "access-control-request-method": "PUT",
            "access-control-request-headers": "authorization",
        }
        preflight = await client.options("/panels/p", headers=asked)
        assert preflight.status_code == 200
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert_error(await client.post("/panels", headers={"origin": "https://evil.example"}), Code.FORBIDDEN)


# -- bodies ------------------------------------------------------------------------------------------


async def test_post_refuses_a_large_body_by_its_length(client: httpx.AsyncClient) -> None:
    response = await client.post("/panels", content=b"x" * (4 * 1024 * 1024 + 1))
    assert_error(response, Code.TOO_LARGE)


async def test_post_refuses_a_large_body_while_it_streams(gateway: Gateway) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000:
            sent += 1_000
            yield b"x" * 1_000

    async with make_client(gateway, "--max-body-bytes", "10KiB") as client:
        assert_error(await client.post("/panels", content=chunks()), Code.TOO_LARGE)
    assert sent <= 12_000


async def test_post_is_refused_while_too_many_panels_are_being_made(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "MAX_DEFINING", 1)
    gateway.compiling = False
    first = asyncio.create_task(client.post("/panels", json=COUNTER))
    await gateway.settle()
    assert len(gateway.prepares) == 1
    assert_error(await client.post("/panels", json=COUNTER), Code.OVERLOADED)
    gateway.compile_held()
    assert (await first).status_code == 201
    assert (await client.post("/panels", json=COUNTER)).status_code == 201


async def test_subject_may_make_as_many_panels_at_once_as_it_leaves_to_others() -> None:
    nobody: Any = None
    maker = desk.Desk(
        nobody, nobody, limits=DefinitionLimits(), public_url=None, max_args_bytes=1, body_timeout_s=1.0
    )
    with contextlib.ExitStack() as stack:
        most: list[int] = []
        for name in "abc":
            who = principal_of(name, expires_at=None, grants=None)
            count = 0
            with contextlib.suppress(RequestError):
                while True:
                    stack.enter_context(maker.defining(who))
                    count += 1
            most.append(count)
    assert most == [16, 8, 4]


async def test_bodies_are_refused_while_too_many_bytes_are_being_received(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield b" " * 800
        begun.set()
        await release.wait()
        yield b"{}"

    await gateway.add("p")
    monkeypatch.setattr(desk, "MAX_RECEIVING_BYTES", 1_000)
    first = asyncio.create_task(client.post("/panels/p/trigger/t", content=held()))
    await begun.wait()
    assert_error(await client.post("/panels/p/trigger/t", content=b" " * 300), Code.OVERLOADED)
    release.set()
    assert (await first).status_code == 200
    assert (await client.post("/panels/p/trigger/t", content=b"{}" + b" " * 900)).status_code == 200


async def test_a_body_that_does_not_come_in_time_is_refused(gateway: Gateway) -> None:
    async def held() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    await gateway.add("p")
    async with make_client(gateway, "--body-timeout-s=0.1") as client:
        assert_error(await client.post("/panels/p/trigger/t", content=held()), Code.INVALID_REQUEST)


# -- where clients watch -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil/path", "a b", "x" * 300, "[::1", "h:99999999"])
async def test_ws_url_never_echoes_a_host_that_is_none(
    client: httpx.AsyncClient, gateway: Gateway, host: str
) -> None:
    await gateway.add("p")
    response = await client.get("/panels/p", headers={"host": host})
    assert response.json()["wsUrl"] == "ws://localhost/panels/p/ws"


async def test_ws_url_is_made_from_the_public_url(gateway: Gateway) -> None:
    await gateway.add("p")
    async with make_client(gateway, "--public-url", "https://panels.example.org") as client:
        assert (await client.get("/panels/p")).json()["wsUrl"] == "wss://panels.example.org/panels/p/ws"
