"""The WebSocket upgrade over real sockets: its refusals as HTTP answers, in their order,
and no token in any log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from panels_gateway.clients.websocket import RETRY_MS, retry_within_ms
from tests.support.gateway import Gateway, completed
from tests.support.server import serving, until

pytestmark = pytest.mark.anyio

SECRET = "s" * 32


@pytest.fixture
async def gateway() -> Gateway:
    made = Gateway()
    await made.add("p", state={"n": 1})
    return made


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return path


@pytest.fixture
async def port(gateway: Gateway, secret_file: Path) -> AsyncIterator[int]:
    async with serving(gateway, secret_file=secret_file) as (made, _):
        yield made


def make_token(secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"exp": time.time() + 60, **claims}, secret, algorithm="HS256")


def url(port: int, path: str = "/panels/p/ws", token: str | None = None) -> str:
    return f"ws://127.0.0.1:{port}{path}" + (f"?token={token}" if token is not None else "")


async def refused(address: str, **options: Any) -> tuple[int, str]:
    """The HTTP status and error code of an upgrade that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(address, compression=None, **options)
    response = caught.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body or b"")["error"]["code"]


async def welcomed(address: str, **options: Any) -> ClientConnection:
    client = await connect(address, compression=None, **options)
    assert json.loads(await client.recv())["type"] == "CONNECTED"
    return client


async def test_upgrade_sends_connected(port: int) -> None:
    async with connect(url(port, token=make_token(sub="ann")), compression=None) as client:
        message = json.loads(await client.recv())
    assert (message["type"], message["panelId"], message["state"], message["seq"]) == (
        "CONNECTED",
        "p",
        {"n": 1},
        0,
    )


async def test_upgrade_refuses_an_unknown_panel_before_it_asks_for_a_token(port: int) -> None:
    assert await refused(url(port, "/panels/none/ws")) == (404, "PANEL_NOT_FOUND")
    assert await refused(url(port, "/panels/none/ws", make_token())) == (404, "PANEL_NOT_FOUND")


async def test_refused_upgrade_is_no_error_in_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await refused(url(port, "/panels/none/ws"))
        await welcomed(url(port, token=make_token()))
    assert [record.getMessage() for record in caplog.records] == []


async def test_refused_upgrades_are_told_in_one_line_each_and_never_by_uvicorn(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await refused(url(port), origin=Origin("https://app.example"))
        for _ in range(200):
            await refused(url(port, token="no.such.token"))
    ours = [r.getMessage() for r in caplog.records if r.name == "panels.gateway.refusals"]
    assert ours[0].startswith(
        "refused with 403: upgrade at '/panels/p/ws' from 127.0.0.1, origin 'https://app.example': "
        "expected a web page of an allowed origin, got 'https://app.example'"
    )
    assert "--allowed-origins" in ours[0]
    assert "--public-url" in ours[0]
    assert len(ours) < 100
    assert [r for r in caplog.records if r.name.startswith("uvicorn") and r.levelno >= logging.WARNING] == []


async def test_upgrade_refuses_other_paths(port: int) -> None:
    for path in ("/", "/panels/p", "/panels/p/ws/", "/panels/p/ws/x", "/panels//ws"):
        assert await refused(url(port, path, make_token())) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "token", [None, "", "nonsense", make_token("x" * 32), make_token(exp=time.time() - 60)]
)
async def test_upgrade_refuses_a_missing_or_bad_token(port: int, token: str | None) -> None:
    assert await refused(url(port, token=token)) == (401, "UNAUTHORIZED")


async def test_upgrade_refuses_a_token_without_read(port: int) -> None:
    token = make_token(panels=[{"id": "p", "allow": ["trigger:*", "manage"]}])
    assert await refused(url(port, token=token)) == (403, "FORBIDDEN")


async def test_upgrade_takes_a_token_from_header_or_subprotocol(port: int) -> None:
    token = make_token()
    async with await welcomed(url(port), additional_headers={"authorization": f"Bearer {token}"}):
        pass
    offered = [Subprotocol("panels.v1"), Subprotocol(f"bearer.{token}")]
    async with await welcomed(url(port), subprotocols=offered) as client:
        assert client.subprotocol == "panels.v1"


async def test_upgrade_refuses_two_tokens_that_differ(port: int) -> None:
    headers = {"authorization": f"Bearer {make_token(sub='b')}"}
    assert await refused(url(port, token=make_token(sub="a")), additional_headers=headers) == (
        401,
        "UNAUTHORIZED",
    )


async def test_upgrade_refuses_web_pages_of_other_origins_first(port: int) -> None:
    for origin in ("https://evil.example", "null", f"http://localhost:{port}.evil.example"):
        assert await refused(url(port, token=make_token()), origin=Origin(origin)) == (403, "FORBIDDEN")
        assert await refused(url(port, "/panels/none/ws"), origin=Origin(origin)) == (403, "FORBIDDEN")
    async with await welcomed(url(port, token=make_token()), origin=Origin(f"http://127.0.0.1:{port}")):
        pass


async def test_upgrade_conceals_panels_when_told_to(gateway: Gateway, secret_file: Path) -> None:
    async with serving(gateway, "--conceal-panels", secret_file=secret_file) as (port, _):
        assert await refused(url(port)) == (401, "UNAUTHORIZED")
        assert await refused(url(port, "/panels/none/ws")) == (401, "UNAUTHORIZED")
        stranger = make_token(panels=[{"id": "q", "allow": ["read"]}])
        assert await refused(url(port, token=stranger)) == (404, "PANEL_NOT_FOUND")
        assert await refused(url(port, "/panels/none/ws", stranger)) == (404, "PANEL_NOT_FOUND")
        assert await refused(url(port, "/panels/none/ws", make_token())) == (404, "PANEL_NOT_FOUND")


async def test_upgrade_is_refused_while_shutting_down(port: int, gateway: Gateway) -> None:
    gateway.kernel.intake.closing = True
    assert await refused(url(port, token=make_token())) == (503, "UNAVAILABLE")


async def test_upgrade_bounds_the_connections_of_a_subject(gateway: Gateway, secret_file: Path) -> None:
    async with serving(gateway, "--max-connections-per-subject=2", secret_file=secret_file) as (port, _):
        ann = url(port, token=make_token(sub="ann"))
        first, second = await welcomed(ann), await welcomed(ann)
        assert await refused(ann) == (503, "OVERLOADED")
        async with await welcomed(url(port, token=make_token(sub="bob"))):
            pass
        await first.close()
        await until(lambda: gateway.kernel.counters.connections == 1)
        await (await welcomed(ann)).close()
        await second.close()


async def test_socket_is_closed_when_its_token_expires(port: int) -> None:
    expires_at = time.time() + 0.3
    async with await welcomed(url(port, token=make_token(exp=expires_at))) as client:
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
        assert time.time() >= expires_at
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4401, "the token has expired")


async def test_socket_outlives_its_token_with_a_new_one(gateway: Gateway, secret_file: Path) -> None:
    async with (
        serving(gateway, "--token-warning-s=59", secret_file=secret_file) as (port, _),
        await welcomed(url(port, token=make_token(sub="ann", exp=time.time() + 59.2))) as client,
    ):
        warning = json.loads(await client.recv())
        assert warning["type"] == "TOKEN_EXPIRING"
        token = make_token(sub="ann", exp=warning["expiresAt"] + 1)
        await client.send(json.dumps({"type": "REFRESH", "token": token, "requestId": "r"}))
        answer = json.loads(await client.recv())
        assert answer == {"type": "REFRESHED", "requestId": "r", "expiresAt": warning["expiresAt"] + 1}


async def test_refresh_without_authentication_finds_nothing_to_renew(gateway: Gateway) -> None:
    async with serving(gateway) as (port, _), await welcomed(url(port)) as client:
        await client.send(json.dumps({"type": "REFRESH", "token": "anything"}))
        assert json.loads(await client.recv()) == {"type": "REFRESHED", "expiresAt": None}


async def test_upgrade_takes_no_token_within_its_leeway(port: int) -> None:
    assert await refused(url(port, token=make_token(exp=time.time() - 2))) == (401, "UNAUTHORIZED")


async def test_shutdown_closes_sockets_with_1012(
    gateway: Gateway, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "randint", lambda first, last: (first, last)[1])
    async with serving(gateway, secret_file=secret_file) as (port, server):
        client = await welcomed(url(port, token=make_token()))
        server.stop()
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    told = re.fullmatch(r"retry in ([0-9]+) ms", caught.value.rcvd.reason)
    assert told is not None
    assert RETRY_MS < int(told[1]) == retry_within_ms(1)


def test_clients_are_told_to_come_back_as_fast_as_a_gateway_takes_them() -> None:
    assert [retry_within_ms(clients) for clients in (0, 1, 100, 1_000, 10_000, 10**6)] == [
        100, 100, 160, 700, 6_100, 10_000
    ]  # fmt: skip


async def hold_a_trigger(gateway: Gateway) -> None:
    gateway.respond = lambda call: None
    gateway.submit(await gateway.open())
    await gateway.settle()
    assert gateway.held == gateway.kernel.unanswered == 1


async def test_shutdown_waits_for_triggers_that_run(gateway: Gateway) -> None:
    await hold_a_trigger(gateway)
    async with serving(gateway) as (port, server):
        client = await welcomed(url(port))
        server.stop()
        await until(lambda: gateway.kernel.intake.closing)
        await client.ping()
        gateway.answer_held(completed(1, events={"last": None}))
        assert json.loads(await client.recv())["event"]["name"] == "last"
        with pytest.raises(ConnectionClosed):
            await client.recv()


async def test_shutdown_does_not_wait_longer_than_its_grace(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    await hold_a_trigger(gateway)
    async with serving(gateway, "--shutdown-grace-s=0.1") as (_, server):
        await until(lambda: server.started)
        server.stop()
        await until(lambda: "did not end in time" in caplog.text)
        await until(lambda: gateway.kernel.unanswered == 0)


async def test_no_token_reaches_a_log(
    gateway: Gateway, secret_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every route, good and bad, with every logger at its most talkative that the
    gateway's own setup allows.
    """
    good, bad = (
        make_token(sub="CANARY", panels=[{"id": "*", "allow": ["read"]}]),
        make_token("y" * 32, sub="CANARY"),
    )
    caplog.set_level(logging.INFO)
    async with serving(gateway, secret_file=secret_file) as (port, _):
        for token in (good, bad, "CANARY-nonsense"):
            for path in ("/panels/p/ws", "/panels/none/ws", "/nowhere"):
                try:
                    await (await connect(url(port, path, token), compression=None)).close()
                except InvalidStatus as exc:
                    _assert_silent(token, (exc.response.body or b"").decode())
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                logging.getLogger("httpx").disabled = True
                for path in ("/panels", "/panels/p", "/panels/none", "/nowhere", "/metrics"):
                    for how in (
                        {"params": {"token": token}},
                        {"headers": {"authorization": f"Bearer {token}"}},
                    ):
                        answer = await client.get(path, **how)  # type: ignore[arg-type]
                        _assert_silent(token, answer.text)
        await until(lambda: gateway.kernel.counters.connections == 0)
    for record in caplog.records:
        if record.name.startswith(("uvicorn", "panels")):
            _assert_silent("CANARY", record.getMessage())
            for token in (good, bad):
                _assert_silent(token, record.getMessage())
    assert any("accepted" in record.getMessage() for record in caplog.records), (
        "the line that used to leak is not there"
    )


def _assert_silent(token: str, text: str) -> None:
    assert token not in text


async def test_gateway_without_authentication_answers_to_its_own_names_only(gateway: Gateway) -> None:
    """What a page of another site can do that has its own name resolve to this machine."""
    async with serving(gateway) as (port, _), httpx.AsyncClient() as client:
        for path in ("/panels/p/state", "/health", "/metrics", "/nowhere"):
            address = f"http://127.0.0.1:{port}{path}"
            answer = await client.get(address, headers={"host": f"evil.example:{port}"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
            assert "evil.example" in answer.json()["error"]["message"]
        evil = f"ws://evil.example:{port}/panels/p/ws"
        assert await refused(evil, host="127.0.0.1", port=port) == (403, "FORBIDDEN")
        shown = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
        assert 'panels_refusals_total{reason="host"} 5' in shown
        await (await welcomed(url(port))).close()
    async with serving(gateway, "--allowed-hosts=evil.example") as (port, _), httpx.AsyncClient() as client:
        address = f"http://127.0.0.1:{port}/panels"
        assert (await client.get(address, headers={"host": "evil.example"})).status_code == 200
        assert (await client.get(address)).status_code == 403


async def test_gateway_with_authentication_answers_to_any_name(port: int) -> None:
    address = f"ws://panels.example.org:{port}/panels/p/ws?token={make_token()}"
    await (await welcomed(address, host="127.0.0.1", port=port)).close()


def from_address(address: str) -> dict[str, Any]:
    return {"additional_headers": {"x-forwarded-for": address}}


async def test_upgrade_bounds_the_connections_of_an_address(gateway: Gateway, secret_file: Path) -> None:
    flags = ["--trusted-proxies=127.0.0.1", "--max-connections-per-address=2"]
    async with serving(gateway, *flags, secret_file=secret_file) as (port, _):
        clients = [
            await welcomed(url(port, token=make_token(sub=subject)), **from_address(address))
            for subject, address in (("a", "2001:db8::1"), ("b", "2001:db8::2"))
        ]
        address = url(port, token=make_token(sub="c"))
        assert await refused(address, **from_address("2001:db8::3")) == (503, "OVERLOADED")
        await (await welcomed(address, **from_address("2001:db8:0:1::3"))).close()
        await clients[0].close()
        await until(lambda: gateway.kernel.counters.connections == 1)
        await (await welcomed(address, **from_address("2001:db8::3"))).close()
        await clients[1].close()


async def test_upgrade_bounds_how_often_an_address_comes(gateway: Gateway) -> None:
    async with serving(gateway, "--trusted-proxies=127.0.0.1", "--upgrade-rate=0.1") as (port, _):
        attacker = from_address("198.51.100.7")
        assert await refused(url(port, "/panels/none/ws"), **attacker) == (404, "PANEL_NOT_FOUND")
        assert await refused(url(port), **attacker) == (429, "RATE_LIMITED")
        await (await welcomed(url(port), **from_address("198.51.100.8"))).close()
        async with serving(gateway, "--upgrade-rate=0.1") as (other, _):
            # without a proxy that is trusted the header is the client's word
            for _ in range(3):
                await (await welcomed(url(other), **attacker)).close()


async def test_tokens_that_are_not_valid_are_bounded_in_rate(gateway: Gateway, secret_file: Path) -> None:
    flags = ["--trusted-proxies=127.0.0.1", "--auth-failure-rate=0.2"]
    async with (
        serving(gateway, *flags, secret_file=secret_file) as (port, _),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        known = make_token(sub="known")

        async def status(token: str, address: str = "198.51.100.7") -> int:
            headers = {"authorization": f"Bearer {token}", "x-forwarded-for": address}
            return (await client.get("/panels/p", headers=headers)).status_code

        assert await status(known) == 200
        assert [await status(f"guess-{number}") for number in range(3)] == [401, 401, 429]
        assert await status(make_token(sub="new")) == 429
        assert await status(known) == 200
        assert await status(make_token(sub="new"), "198.51.100.8") == 200
        assert await refused(url(port, token="guess"), **from_address("198.51.100.7")) == (
            429,
            "RATE_LIMITED",
        )
        async with await welcomed(url(port, token=known), **from_address("198.51.100.7")) as socket:
            await socket.send(json.dumps({"type": "REFRESH", "token": "guess"}))
            assert json.loads(await socket.recv())["code"] == "RATE_LIMITED"
        shown = (await client.get("/metrics")).text
        assert 'panels_refusals_total{reason="auth_failures"} 4' in shown


async def closed_with(client: ClientConnection) -> tuple[int, list[str]]:
    """The code that the client is closed with, and the types of what it hears before."""
    heard = [json.loads(message)["type"] async for message in ending(client)]
    assert client.close_code is not None
    return client.close_code, heard


async def ending(client: ClientConnection) -> AsyncIterator[str | bytes]:
    """What the client hears until it is closed."""
    try:
        while True:
            yield await client.recv()
    except ConnectionClosed:
        return


@pytest.mark.parametrize("message", ['{"type":"PING"}', "nonsense", '{"type":"SUBSCRIBE","topics":[]}'])
async def test_flood_of_messages_is_closed(gateway: Gateway, message: str) -> None:
    async with serving(gateway, "--message-rate=5") as (port, _):
        async with await welcomed(url(port)) as client:
            for _ in range(40):
                await client.send(message)
            code, heard = await closed_with(client)
        assert code == 1008
        assert len(heard) <= 11
        async with httpx.AsyncClient() as http:
            shown = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        assert 'panels_refusals_total{reason="message_rate"} 1' in shown


async def test_triggers_do_not_count_as_messages(gateway: Gateway) -> None:
    async with serving(gateway, "--message-rate=0.5") as (port, _), await welcomed(url(port)) as client:
        for _ in range(40):
            await client.send('{"type":"TRIGGER","tool":"t"}')
        assert [json.loads(await client.recv())["type"] for _ in range(40)] == ["RESULT"] * 40
        await client.send('{"type":"PING"}')
        assert json.loads(await client.recv())["type"] == "PONG"


async def test_client_that_answers_no_ping_is_closed(gateway: Gateway) -> None:
    async with serving(gateway, "--ping-interval-s=0.1", "--ping-timeout-s=0.1") as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /panels/p/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        async with asyncio.timeout(5):
            said = await reader.read()
        writer.close()
        assert said.startswith(b"HTTP/1.1 101 ")
        assert (1011).to_bytes(2, "big") in said[-40:]
