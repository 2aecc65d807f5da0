"""The HTTP protocol's bounds, over real sockets: what is too large, too slow or ambiguous."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from panels_gateway.access.addresses import Addresses
from panels_gateway.http.protocol import HardenedHttpProtocol, HttpLimits
from tests.support.gateway import Gateway
from tests.support.server import serving, until

pytestmark = pytest.mark.anyio

HOST = b"Host: localhost\r\n"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.fixture
async def gateway() -> Gateway:
    made = Gateway()
    await made.add("p")
    return made


@pytest.fixture
async def port(gateway: Gateway) -> AsyncIterator[int]:
    async with serving(gateway, "--header-timeout-s=0.3", "--body-timeout-s=0.3") as (made, _):
        yield made


async def exchange(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Everything the server says until it closes the socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def get(
    path: bytes = b"/health", headers: bytes = b"", ending: bytes = b"Connection: close\r\n\r\n"
) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + headers + ending


async def test_request_is_answered(port: int) -> None:
    assert status_of(await exchange(port, get())) == 200


async def test_request_with_a_large_body_behind_its_head_is_not_a_large_head(port: int) -> None:
    body = b'{"args":"' + b"x" * 60_000 + b'"}'
    head = (
        b"POST /panels/p/trigger/t HTTP/1.1\r\n"
        + HOST
        + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    assert status_of(await exchange(port, head + body)) == 200


async def test_requests_on_one_connection_are_each_given_their_own_time(port: int) -> None:
    again = get(ending=b"\r\n")
    answer = await exchange(port, again, again, again, get(), pause_s=0.15)
    assert answer.count(b"HTTP/1.1 200") == 4


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(get(headers=b"X: " + b"x" * 9_000 + b"\r\n"), 431, id="long line"),
        pytest.param(get(headers=b"X: y\r\n" * 300), 431, id="many headers"),
        pytest.param(get(headers=b"X: " + b"x" * 7_000 + b"\r\n") + b"", 200, id="long but allowed line"),
        pytest.param(get(headers=(b"X: " + b"x" * 7_000 + b"\r\n") * 5), 431, id="large head"),
        pytest.param(get(b"/" + b"x" * 9_000), 431, id="long URL"),
        pytest.param(
            get(headers=b"X: " + b"x" * 9_000 + b"\r\n" + UPGRADE, ending=b"\r\n"),
            431,
            id="upgrade with a long line",
        ),
        pytest.param(
            get(headers=b"X: y\r\n" * 300 + UPGRADE, ending=b"\r\n"), 431, id="upgrade with many headers"
        ),
        pytest.param(get(headers=b"Host: other\r\n"), 400, id="two hosts"),
        pytest.param(
            get(headers=b"Host: other\r\n" + UPGRADE, ending=b"\r\n"), 400, id="upgrade with two hosts"
        ),
        pytest.param(get(headers=b"Origin: a\r\nOrigin: b\r\n"), 400, id="two origins"),
        pytest.param(get(headers=b"Authorization: a\r\nAuthorization: b\r\n"), 400, id="two authorizations"),
        pytest.param(get(headers=b"Content-Length: 1\r\nContent-Length: 2\r\n"), 400, id="two lengths"),
        pytest.param(
            get(headers=b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, id="length and chunks"
        ),
        pytest.param(get(headers=b"Content-Length: x\r\n"), 400, id="no number"),
        pytest.param(
            get(headers=b"Content-Length: 5\r\n" + UPGRADE, ending=b"\r\nhello"),
            400,
            id="upgrade with a body",
        ),
        pytest.param(b"GARBAGE\r\n\r\n", 400, id="garbage"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, 400, id="TLS"),
        pytest.param(get(headers=b"X\x00Y: 1\r\n"), 400, id="NUL in a name"),
        pytest.param(get(headers=b" folded\r\n"), 400, id="folded header"),
    ],
)
async def test_head_is_refused_and_the_socket_closed(port: int, request_bytes: bytes, status: int) -> None:
    answer = await exchange(port, request_bytes)
    assert status_of(answer) == status
    if status != 200:
        assert b"connection: close" in answer
        assert b'{"error":{"code":"INVALID_REQUEST"' in answer


async def test_client_that_sends_too_much_hears_why_and_keeps_its_connection(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(3):
            response = await client.post("/panels", content=b"x" * 6_000_000)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "TOO_LARGE"


async def test_head_without_end_is_cut_at_its_limit_and_not_by_time(gateway: Gateway) -> None:
    async with serving(gateway, "--header-timeout-s=30") as (port, _):
        answer = await exchange(port, b"GET / HTTP/1.1\r\nX: ", *[b"x" * 30_000] * 20)
    assert answer == b"" or status_of(answer) == 431


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX",
        b"POST /panels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{",
    ],
    ids=["silence", "one byte", "half a head", "half a body"],
)
async def test_half_a_request_is_cut_in_time(port: int, beginning: bytes) -> None:
    began = asyncio.get_running_loop().time()
    await exchange(port, beginning)
    assert asyncio.get_running_loop().time() - began < 2


async def test_a_byte_now_and_then_gains_no_time(port: int) -> None:
    request = get(headers=b"X: " + b"y" * 100 + b"\r\n")
    began = asyncio.get_running_loop().time()
    assert await exchange(port, *[bytes([byte]) for byte in request], pause_s=0.05) == b""
    assert asyncio.get_running_loop().time() - began < 2 < len(request) * 0.05


async def test_body_that_comes_slowly_is_refused(gateway: Gateway) -> None:
    async with serving(gateway, "--body-timeout-s=0.2") as (port, _):
        head = b"POST /panels HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n"
        assert b"within 0.2 s" in await exchange(port, head, *[b" "] * 10, b"", pause_s=0.05)


async def test_answer_that_nobody_takes_is_cut(gateway: Gateway) -> None:
    resident = await gateway.add("large")
    resident.panel.state["text"] = b'"' + b"x" * 15_000_000 + b'"'
    async with serving(gateway, "--body-timeout-s=0.2") as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(get(b"/panels/large/state"))
        await reader.readexactly(1)
        await until(lambda: not server.server_state.connections)
        writer.transport.abort()


async def test_connections_above_the_limit_are_answered_503(gateway: Gateway) -> None:
    async with serving(gateway, "--max-connections=2") as (port, _):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(get(ending=b"\r\n"))
        for reader, _ in held:
            await reader.readuntil(b"}")
        answer = await exchange(port, get())
        assert answer == b"" or status_of(answer) == 503
        held[0][1].close()
        await held[0][1].wait_closed()
        assert status_of(await exchange(port, get())) == 200
        held[1][1].close()


async def test_no_socket_is_left_behind(gateway: Gateway) -> None:
    async with serving(gateway, "--header-timeout-s=0.2") as (port, server):
        bad = [
            get(headers=b"X: " + b"x" * 9_000 + b"\r\n" + UPGRADE, ending=b"\r\n"),
            b"GET",
            get(headers=b"Host: i\r\n"),
            b"",
        ]
        await asyncio.gather(*[exchange(port, part) for part in bad * 25])
        await until(lambda: not server.server_state.connections)


class Wire(asyncio.Transport):
    """The transport of a socket from some address."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 1)})
        self.written = b""
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


async def test_sockets_of_an_address_are_bounded_unless_it_is_a_proxys() -> None:
    limits = HttpLimits(max_connections_per_address=2)
    made = HardenedHttpProtocol.with_limits(limits, Addresses(["10.0.0.0/8"]))
    config = uvicorn.Config(lambda: None, log_config=None)
    config.load()
    state = ServerState()

    def accept(peer: str) -> tuple[HardenedHttpProtocol, Wire]:
        protocol, wire = made(config, state, {}), Wire(peer)
        protocol.connection_made(wire)
        return protocol, wire

    sockets = [accept("203.0.113.5") for _ in range(3)]
    assert [wire.closing for _, wire in sockets] == [False, False, True]
    assert sockets[2][1].written.startswith(b"HTTP/1.1 503 ")
    assert b"of one address" in sockets[2][1].written
    others = [accept(peer) for peer in ("203.0.113.6", *["10.0.0.1"] * 3, *["127.0.0.1"] * 3)]
    assert not any(wire.closing for _, wire in others)
    for protocol, _ in (sockets[2], sockets[0]):
        protocol.connection_lost(None)
    sockets.append(accept("203.0.113.5"))
    assert not sockets[3][1].closing
    for protocol, _ in (sockets[1], sockets[3], *others):
        protocol.connection_lost(None)
    assert len(made.counts) == 0
