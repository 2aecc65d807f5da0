"""Large states over real sockets: whole, shared, as the client takes them, and cut off where it does not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from panels_gateway.kernel.residents import Resident
from tests.support.gateway import Gateway
from tests.support.server import serving, until

pytestmark = pytest.mark.anyio

STATE = {"n": 0, **{f"k{number}": "x" * 65_000 for number in range(60)}}


@pytest.fixture
async def gateway() -> Gateway:
    made = Gateway()
    await made.add("p", state=STATE)
    return made


@pytest.fixture
async def port(gateway: Gateway) -> AsyncIterator[int]:
    async with serving(gateway, "--body-timeout-s=2") as (made, _):
        yield made


def url(port: int, query: str = "") -> str:
    return f"ws://127.0.0.1:{port}/panels/p/ws{query}"


async def unread(port: int, request: str) -> socket.socket:
    """A socket that has sent ``request`` and takes almost nothing."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(made, ("127.0.0.1", port))
    await loop.sock_sendall(made, request.encode())
    return made


JOIN = (
    "GET /panels/p/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
GET = "GET /panels/p/state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def test_clients_get_the_whole_state_and_what_happens_after(gateway: Gateway, port: int) -> None:
    resident = await gateway.open()
    async with connect(url(port), max_size=None) as first, connect(url(port), max_size=None) as second:
        for client in (first, second):
            message = json.loads(await client.recv())
            assert (message["type"], message["seq"], message["state"]) == ("CONNECTED", 0, STATE)
            assert "recovered" not in message
        await gateway.put(resident, n=1)
        for client in (first, second):
            patch = json.loads(await client.recv())
            assert (patch["type"], patch["seq"], patch["mutations"][0]["key"]) == ("PATCH", 1, "n")
    async with connect(url(port, "?since=none"), max_size=None) as client:
        message = json.loads(await client.recv())
        assert (message["recovered"], message["seq"], message["state"]["n"]) == (False, 1, 1)
    await until(lambda: all(not image.holders for image in images(resident)))


def images(resident: Resident) -> list[Any]:
    return [resident.image] if resident.image is not None else []


async def test_state_over_http_is_whole_at_any_version(gateway: Gateway, port: int) -> None:
    resident = await gateway.open()
    await gateway.put(resident, n=1)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        now = (await client.get("/panels/p/state")).json()
        assert (now["seq"], now["state"]) == (1, {**STATE, "n": 1})
        before = (await client.get("/panels/p/state?seq=0")).json()
        assert (before["seq"], before["state"]) == (0, STATE)
        head = await client.head("/panels/p/state")
        assert (head.status_code, head.content) == (200, b"")
    await until(lambda: all(not image.holders for image in images(resident)))


async def test_history_that_is_large_is_whole(gateway: Gateway, port: int) -> None:
    resident = await gateway.open()
    for number in range(5):
        await gateway.put(resident, k1="y" * (50_000 + number))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for path in ("/panels/p/history", "/panels/p/keys/k1/history"):
            commits = (await client.get(path)).json()["commits"]
            assert {commit["seq"] for commit in commits} == {1, 2, 3, 4, 5}
            assert len((await client.get(path + "?limit=1")).json()["commits"]) == 1


async def test_clients_that_do_not_read_share_one_copy_and_are_cut_off(gateway: Gateway, port: int) -> None:
    kernel = gateway.kernel
    resident = await gateway.open()
    sockets = [await unread(port, request) for request in (JOIN, GET) for _ in range(10)]
    await until(lambda: resident.image is not None and resident.image.holders == 20)
    assert resident.image is not None
    assert kernel.images.used_bytes == resident.image.size
    await until(lambda: resident.image is None or not resident.image.holders)
    assert kernel.counters.connections == 0
    for each in sockets:
        each.close()


async def test_large_state_is_refused_while_there_is_no_room(gateway: Gateway, port: int) -> None:
    gateway.kernel.images.maximum = 0
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url(port), max_size=None):
            pass
    assert caught.value.response.status_code == 503
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/panels/p/state")).status_code == 503
    gateway.kernel.images.maximum = 1 << 30
    async with connect(url(port), max_size=None) as client_socket:
        assert json.loads(await client_socket.recv())["state"] == STATE
