"""The HTTP API, through ASGI, with a kernel that has no workers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from panels_gateway.access.keys import load_keyring
from panels_gateway.access.tokens import TokenRules, TokenVerifier
from panels_gateway.app import create_app
from panels_gateway.configuration.config import load
from panels_gateway.http import api
from panels_gateway.observe.counters import BrokerCounters
from panels_gateway.panels.definition import PanelDefinition
from panels_gateway.panels.panel import Panel
from panels_shared.errors import CODES, Code, RequestError
from tests.support.fake_kernel import FakeKernel

SECRET = "s" * 32
COUNTER = {"kind": "counter", "initialState": {"n": 0}, "tools": [{"name": "inc", "handler": "$state.n++"}]}


def make_client(kernel: FakeKernel, *flags: str, secret_file: Path | None = None) -> httpx.AsyncClient:
    verifier = None
    auth = ["--no-auth"]
    if secret_file is not None:
        secret_file.write_text(SECRET)
        verifier = TokenVerifier(load_keyring(secret_file, None, ()), TokenRules(), clock=time.time)
        auth = ["--jwt-secret-file", str(secret_file)]
    config = load([*auth, *flags], {}, directory=Path("/nowhere"))
    app = create_app(kernel.as_kernel(), config, verifier, bus=BrokerCounters(), port=3001)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)  # type: ignore[arg-type, unused-ignore]
    return httpx.AsyncClient(transport=transport, base_url="http://gateway:3001")


def bearer(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {make_token(**claims)}"}


def make_token(**claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 60, **claims}, SECRET, algorithm="HS256")


def grant(panel_id: str, *allow: str) -> dict[str, str]:
    return bearer(panels=[{"id": panel_id, "allow": list(allow)}])


def assert_error(response: httpx.Response, code: Code) -> dict[str, Any]:
    assert response.status_code == CODES[code].http_status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert body["error"]["code"] == code.value
    assert body["error"]["message"]
    details: dict[str, Any] = body["error"].get("details", {})
    return details


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
async def client(kernel: FakeKernel) -> AsyncIterator[httpx.AsyncClient]:
    async with make_client(kernel) as made:
        yield made


@pytest.fixture
async def guarded(kernel: FakeKernel, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with make_client(kernel, secret_file=tmp_path / "secret") as made:
        yield made


# -- panels -------------------------------------------------------------------------------------------------


async def test_post_makes_a_panel(client: httpx.AsyncClient) -> None:
    response = await client.post("/panels", json={**COUNTER, "id": "c"})
    assert response.status_code == 201
    assert response.json() == {"id": "c", "status": "active", "wsUrl": "ws://gateway:3001/panels/c/ws"}
    assert response.headers["location"] == "/panels/c"
    assert (await client.get("/panels/c/state")).json() == {"panelId": "c", "seq": 0, "state": {"n": 0}}


async def test_post_makes_up_an_id(client: httpx.AsyncClient) -> None:
    first, second = [(await client.post("/panels", json=COUNTER)).json()["id"] for _ in range(2)]
    assert first != second
    assert len(first) >= 16


async def test_post_refuses_a_body_with_the_path_of_the_field(client: httpx.AsyncClient) -> None:
    response = await client.post("/panels", json={"kind": "k", "tools": [{"name": "t", "handler": 1}]})
    assert assert_error(response, Code.INVALID_REQUEST)["path"] == "tools[0].handler"


async def test_post_refuses_an_existing_id(client: httpx.AsyncClient) -> None:
    await client.post("/panels", json={**COUNTER, "id": "c"})
    assert_error(await client.post("/panels", json={**COUNTER, "id": "c"}), Code.PANEL_EXISTS)


async def test_post_passes_on_what_the_kernel_refuses(client: httpx.AsyncClient, kernel: FakeKernel) -> None:
    kernel.refusal = RequestError(Code.INVALID_HANDLER, "tool 't': no", {"tool": "t", "line": 1, "column": 2})
    assert assert_error(await client.post("/panels", json=COUNTER), Code.INVALID_HANDLER)["line"] == 1
    kernel.refusal = RequestError(Code.TOO_MANY_PANELS, "full", {"retryAfterMs": 1_500})
    response = await client.post("/panels", json=COUNTER)
    assert_error(response, Code.TOO_MANY_PANELS)
    assert response.headers["retry-after"] == "2"


async def test_post_refuses_a_large_body_by_its_length(client: httpx.AsyncClient) -> None:
    response = await client.post("/panels", content=b"x" * (4 * 1024 * 1024 + 1))
    assert_error(response, Code.TOO_LARGE)


async def test_post_refuses_a_large_body_while_it_streams(kernel: FakeKernel) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000:
            sent += 1_000
            yield b"x" * 1_000

    async with make_client(kernel, "--max-body-bytes", "10KiB") as client:
        assert_error(await client.post("/panels", content=chunks()), Code.TOO_LARGE)
    assert sent <= 12_000


async def test_post_is_refused_while_too_many_panels_are_being_made(
    client: httpx.AsyncClient, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def held(definition: PanelDefinition) -> Panel:
        begun.set()
        await release.wait()
        return kernel.add(definition.id)

    monkeypatch.setattr(api, "MAX_DEFINING", 1)
    monkeypatch.setattr(kernel, "create_panel", held)
    first = asyncio.create_task(client.post("/panels", json=COUNTER))
    await begun.wait()
    assert_error(await client.post("/panels", json=COUNTER), Code.OVERLOADED)
    release.set()
    assert (await first).status_code == 201
    assert (await client.post("/panels", json=COUNTER)).status_code == 201


async def test_bodies_are_refused_while_too_many_bytes_are_being_received(
    client: httpx.AsyncClient, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield b" " * 800
        begun.set()
        await release.wait()
        yield b"{}"

    kernel.add("p")
    monkeypatch.setattr(api, "MAX_RECEIVING_BYTES", 1_000)
    first = asyncio.create_task(client.post("/panels/p/trigger/t", content=held()))
    await begun.wait()
    assert_error(await client.post("/panels/p/trigger/t", content=b" " * 300), Code.OVERLOADED)
    release.set()
    assert (await first).status_code == 200
    assert (await client.post("/panels/p/trigger/t", content=b"{}" + b" " * 900)).status_code == 200


async def test_put_replaces_a_panel_and_keeps_state_unless_given(client: httpx.AsyncClient) -> None:
    await client.post("/panels", json={**COUNTER, "id": "c"})
    response = await client.put("/panels/c", json={"kind": "other"})
    assert (response.status_code, response.json()["id"]) == (200, "c")
    assert (await client.get("/panels/c/state")).json()["state"] == {"n": 0}
    await client.put("/panels/c", json={"kind": "other", "initialState": {"m": 1}})
    assert (await client.get("/panels/c/state")).json()["state"] == {"m": 1}
    assert (
        assert_error(await client.put("/panels/c", json={"kind": "k", "id": "d"}), Code.INVALID_REQUEST)[
            "path"
        ]
        == "id"
    )
    assert_error(await client.put("/panels/d", json={"kind": "k"}), Code.PANEL_NOT_FOUND)


async def test_delete_removes_a_panel(client: httpx.AsyncClient) -> None:
    await client.post("/panels", json={**COUNTER, "id": "c"})
    response = await client.delete("/panels/c")
    assert (response.status_code, response.content) == (204, b"")
    assert_error(await client.delete("/panels/c"), Code.PANEL_NOT_FOUND)


async def test_get_describes_a_panel_without_its_sources(client: httpx.AsyncClient) -> None:
    await client.post("/panels", json={**COUNTER, "id": "c", "title": "T", "metadata": {"a": 1}})
    response = await client.get("/panels/c")
    body = response.json()
    assert (body["id"], body["kind"], body["title"], body["metadata"]) == ("c", "counter", "T", {"a": 1})
    assert body["tools"][0]["name"] == "inc"
    assert body["tools"][0]["limits"]["timeoutMs"] == 5_000
    assert body["tools"][0]["trigger"] == {"type": "manual"}
    assert "$state" not in response.text


async def test_get_lists_panels_in_pages(client: httpx.AsyncClient, kernel: FakeKernel) -> None:
    for name in "dacb":
        kernel.add(name)
    first = (await client.get("/panels", params={"limit": 3})).json()
    assert ([panel["id"] for panel in first["panels"]], first["next"]) == (["a", "b", "c"], "c")
    rest = (await client.get("/panels", params={"limit": 3, "after": first["next"]})).json()
    assert ([panel["id"] for panel in rest["panels"]], rest["next"]) == (["d"], None)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "9" * 5_000])
async def test_get_refuses_a_page_size(client: httpx.AsyncClient, limit: str) -> None:
    assert (
        assert_error(await client.get("/panels", params={"limit": limit}), Code.INVALID_REQUEST)["path"]
        == "limit"
    )


@pytest.mark.parametrize("host", ["evil/path", "a b", "x" * 300, "[::1", "h:99999999"])
async def test_ws_url_never_echoes_a_host_that_is_none(
    client: httpx.AsyncClient, kernel: FakeKernel, host: str
) -> None:
    kernel.add("p")
    response = await client.get("/panels/p", headers={"host": host})
    assert response.json()["wsUrl"] == "ws://localhost/panels/p/ws"


async def test_ws_url_is_made_from_the_public_url(kernel: FakeKernel) -> None:
    kernel.add("p")
    async with make_client(kernel, "--public-url", "https://panels.example.org") as client:
        assert (await client.get("/panels/p")).json()["wsUrl"] == "wss://panels.example.org/panels/p/ws"


# -- triggers -----------------------------------------------------------------------------------------------


async def test_trigger_answers_with_the_result(client: httpx.AsyncClient, kernel: FakeKernel) -> None:
    kernel.add("p")
    response = await client.post("/panels/p/trigger/inc", json={"args": {"by": 2}})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["result"]["returnValue"] == {"by": 2}
    assert (await client.post("/panels/p/trigger/inc")).json()["result"]["returnValue"] is None


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"", {}, None),
        (b'{"requestId":"b"}', {"x-request-id": "h"}, "b"),
        (b"{}", {"x-request-id": "h"}, "h"),
    ],
)
async def test_trigger_takes_the_request_id_from_body_or_header(
    client: httpx.AsyncClient, kernel: FakeKernel, body: bytes, headers: dict[str, str], expected: str | None
) -> None:
    seen: list[str | None] = []

    async def answer(tool: str, args: bytes, request_id: str | None) -> bytes:
        seen.append(request_id)
        return b'{"type":"RESULT"}'

    kernel.add("p")
    kernel.answer = answer
    await client.post("/panels/p/trigger/inc", content=body, headers=headers)
    assert seen == [expected]


async def test_trigger_turns_an_error_message_into_an_error(
    client: httpx.AsyncClient, kernel: FakeKernel
) -> None:
    async def answer(tool: str, args: bytes, request_id: str | None) -> bytes:
        return json.dumps(
            {"type": "ERROR", "code": "EXECUTION_ERROR", "message": "no", "details": {"reason": "TIMEOUT"}},
            separators=(",", ":"),
        ).encode()

    kernel.add("p")
    kernel.answer = answer
    response = await client.post("/panels/p/trigger/inc")
    assert assert_error(response, Code.EXECUTION_ERROR) == {"reason": "TIMEOUT"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"1",
        b'{"arg":1}',
        b'{"requestId":1}',
        b'{"requestId":"' + b"x" * 257 + b'"}',
        b'{"args":NaN}',
        b'{"args":"\\ud800"}',
        b"\xff",
        b'{"args":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)
async def test_trigger_refuses_a_body(client: httpx.AsyncClient, kernel: FakeKernel, body: bytes) -> None:
    kernel.add("p")
    assert_error(await client.post("/panels/p/trigger/inc", content=body), Code.PARSE_ERROR)


async def test_trigger_of_an_unknown_panel_is_not_found(client: httpx.AsyncClient) -> None:
    assert_error(await client.post("/panels/none/trigger/inc"), Code.PANEL_NOT_FOUND)


# -- the gateway --------------------------------------------------------------------------------------------


async def test_health_follows_the_kernel(client: httpx.AsyncClient, kernel: FakeKernel) -> None:
    assert (await client.get("/health")).status_code == 200
    kernel.ready = False
    response = await client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")


async def test_metrics_count_requests_by_status(client: httpx.AsyncClient, kernel: FakeKernel) -> None:
    kernel.add("p", n=b"123")
    await client.get("/nowhere")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert 'panels_http_requests_total{status="404"} 1' in lines
    assert "panels_panels 1" in lines
    assert "panels_state_bytes 4" in lines
    assert "panels_jobs 3" in lines
    assert "panels_bus_bad_frames_total 0" in lines
    assert 'panels_triggers_failed_total{reason="TIMEOUT"} 0' in lines


@pytest.mark.parametrize(
    "path", ["/", "/panel", "/panels/", "/panels/a/b", "/panels/a%2Fb", "/panels/p/ws/x", "/%00"]
)
async def test_unknown_paths_answer_in_the_same_shape(client: httpx.AsyncClient, path: str) -> None:
    assert_error(await client.get(path), Code.NOT_FOUND)


async def test_unknown_methods_answer_in_the_same_shape(client: httpx.AsyncClient) -> None:
    response = await client.patch("/panels/p")
    assert_error(response, Code.METHOD_NOT_ALLOWED)
    assert "PUT" in response.headers["allow"]


async def test_a_defect_answers_without_its_detail(client: httpx.AsyncClient, kernel: FakeKernel) -> None:
    async def answer(tool: str, args: bytes, request_id: str | None) -> bytes:
        raise ZeroDivisionError("inner detail")

    kernel.add("p")
    kernel.answer = answer
    response = await client.post("/panels/p/trigger/inc")
    assert_error(response, Code.INTERNAL)
    assert "inner" not in response.text


# -- who may what -------------------------------------------------------------------------------------------


async def test_everything_but_health_and_metrics_wants_a_token(
    guarded: httpx.AsyncClient, kernel: FakeKernel
) -> None:
    kernel.add("p")
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


async def test_permissions_are_asked_for(guarded: httpx.AsyncClient, kernel: FakeKernel) -> None:
    kernel.add("p")
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


async def test_lists_hold_only_what_may_be_read(guarded: httpx.AsyncClient, kernel: FakeKernel) -> None:
    for name in ("a1", "a2", "b1"):
        kernel.add(name)
    listed = (await guarded.get("/panels", headers=grant("a*", "read"))).json()
    assert [panel["id"] for panel in listed["panels"]] == ["a1", "a2"]


async def test_concealed_panels_look_like_missing_ones(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.add("p")
    stranger = grant("q", "read", "manage", "trigger:*")
    async with make_client(kernel, "--conceal-panels", secret_file=tmp_path / "s") as client:
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
    client: httpx.AsyncClient, kernel: FakeKernel, origin: str
) -> None:
    kernel.add("p")
    for method, path in [
        ("POST", "/panels"),
        ("PUT", "/panels/p"),
        ("DELETE", "/panels/p"),
        ("POST", "/panels/p/trigger/t"),
    ]:
        assert_error(
            await client.request(method, path, headers={"origin": origin}, json=COUNTER), Code.FORBIDDEN
        )
    assert "p" in kernel.panels
    response = await client.get("/panels/p", headers={"origin": origin})
    assert "access-control-allow-origin" not in response.headers


async def test_web_pages_of_allowed_origins_may_read_and_change(kernel: FakeKernel) -> None:
    kernel.add("p")
    page = {"origin": "https://app.example"}
    async with make_client(kernel, "--allowed-origins", "https://app.example") as client:
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
