"""Making, listing, showing, replacing, forking and deleting panels over HTTP."""

from __future__ import annotations

import json

import httpx
import pytest

from panels_gateway.panels.definition_body import DefinitionLimits, parse
from panels_shared.errors import Code
from panels_shared.messages import Refusal
from tests.gateway.http.callers import COUNTER, assert_error, grant
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


async def test_post_makes_a_panel(client: httpx.AsyncClient) -> None:
    response = await client.post("/panels", json={**COUNTER, "id": "c"})
    assert response.status_code == 201
    assert response.json() == {"id": "c", "status": "active", "wsUrl": "ws://gateway:3001/panels/c/ws"}
    assert response.headers["location"] == "/panels/c"
    epoch = (await client.get("/panels/c")).json()["epoch"]
    assert (await client.get("/panels/c/state")).json() == {
        "panelId": "c",
        "seq": 0,
        "epoch": epoch,
        "state": {"n": 0},
    }


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


async def test_post_passes_on_why_a_handler_is_refused(client: httpx.AsyncClient, gateway: Gateway) -> None:
    made = parse(json.dumps(COUNTER).encode(), DefinitionLimits(), default_id="c")
    gateway.refusals[made.tools[0].handler.digest] = Refusal("syntax", "no", 1, 2)
    details = assert_error(await client.post("/panels", json=COUNTER), Code.INVALID_HANDLER)
    assert (details["line"], details["column"], details["tool"]) == (1, 2, "inc")


async def test_post_says_when_to_try_again_where_there_are_too_many_panels(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.kernel.making.maximum = 0
    response = await client.post("/panels", json=COUNTER)
    assert_error(response, Code.TOO_MANY_PANELS)
    assert response.headers["retry-after"] == "1"


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


async def test_get_lists_panels_in_pages(client: httpx.AsyncClient, gateway: Gateway) -> None:
    for name in "dacb":
        await gateway.add(name)
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


# -- forks -------------------------------------------------------------------------------------------


async def test_fork_makes_a_panel_with_the_state_of_a_version(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    source = await gateway.add("p", state={"n": 0})
    await gateway.put(source, n=1)
    await gateway.put(source, n=2)
    response = await client.post("/panels/p/fork", json={"id": "q", "seq": 1})
    assert (response.status_code, response.headers["location"]) == (201, "/panels/q")
    forked = (await client.get("/panels/q/state")).json()
    assert (forked["seq"], forked["state"]) == (0, {"n": 1})
    named = (await client.post("/panels/p/fork")).json()["id"]
    assert (await client.get(f"/panels/{named}/state")).json()["state"] == {"n": 2}


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"id":1}', b'{"id":"a/b"}', b'{"id":""}', b'{"seq":"1"}', b'{"x":1}']
)
async def test_fork_refuses_a_body(client: httpx.AsyncClient, gateway: Gateway, body: bytes) -> None:
    await gateway.add("p")
    assert_error(await client.post("/panels/p/fork", content=body), Code.INVALID_REQUEST)


async def test_fork_needs_read_on_the_old_and_manage_on_the_new(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    await gateway.add("p")
    reader, owner = grant("p", "read"), grant("*", "read", "manage")
    assert_error(await guarded.post("/panels/p/fork", headers=reader, json={"id": "q"}), Code.FORBIDDEN)
    assert_error(
        await guarded.post("/panels/p/fork", headers=grant("q", "manage"), json={"id": "q"}), Code.FORBIDDEN
    )
    assert (await guarded.post("/panels/p/fork", headers=owner, json={"id": "q"})).status_code == 201
    assert_error(await guarded.post("/panels/p/fork", headers=owner, json={"id": "q"}), Code.PANEL_EXISTS)


async def test_get_of_a_sockets_path_says_that_an_upgrade_is_missing(client: httpx.AsyncClient) -> None:
    for path in ("/panels/none/ws", "/panels/c/ws?token=nonsense"):
        response = await client.get(path)
        assert_error(response, Code.UPGRADE_REQUIRED)
        assert response.headers["upgrade"] == "websocket"
        assert "Upgrade: websocket" in response.json()["error"]["message"]
    assert (await client.post("/panels/c/ws")).status_code == 405
