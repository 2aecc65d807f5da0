"""The access log: one line a request, and never a token."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from panels_shared.loglines import MAX_FIELD_CHARS, fields_of
from tests.gateway.clients.test_upgrade import SECRET, make_token, url
from tests.support.gateway import Gateway
from tests.support.server import serving, until

pytestmark = pytest.mark.anyio

LOGGER = "panels.gateway.access"


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(r.levelname, r.getMessage()) for r in caplog.records if r.name == LOGGER]


async def test_requests_and_sockets_have_a_line_without_query_or_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    gateway = Gateway()
    await gateway.add("p", state={"n": 1})
    (tmp_path / "secret").write_text(SECRET)
    token = make_token(sub="ann")
    async with serving(gateway, "--access-log", secret_file=tmp_path / "secret") as (port, _):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await client.get("/panels/p/state", params={"token": token})
            await client.get("/panels/" + "x" * 1_000)
            await client.get("/health")
        async with connect(url(port, token=token), compression=None) as socket:
            assert json.loads(await socket.recv())["type"] == "CONNECTED"
        with pytest.raises(InvalidStatus):
            await connect(url(port, token="bad"), compression=None)
        await until(lambda: len(told(caplog)) == 5)
    lines = sorted(told(caplog))
    assert lines[0] == ("DEBUG", "GET /health 200")
    assert [text for level, text in lines if level == "INFO"] == [
        "GET /panels/p/state 200",
        f"GET {('/panels/' + 'x' * 1_000)[:MAX_FIELD_CHARS]} 401",
        "WEBSOCKET /panels/p/ws 101",
        "WEBSOCKET /panels/p/ws 401",
    ]
    first = next(r for r in caplog.records if r.getMessage() == "GET /panels/p/state 200")
    fields = fields_of(first)
    assert isinstance(fields.pop("ms"), int)
    assert fields == {"method": "GET", "path": "/panels/p/state", "status": 200, "address": "127.0.0.1"}
    for record in caplog.records:
        if record.name == LOGGER:
            assert token.split(".")[1] not in repr(record.__dict__)


async def test_access_log_is_off_unless_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with serving(Gateway()) as (port, _), httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/panels")).status_code == 200
    assert told(caplog) == []
