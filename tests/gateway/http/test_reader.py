"""One who reads live: what wakes a reader, and what ends it."""

from __future__ import annotations

import asyncio

import pytest

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.broadcast import bell
from panels_gateway.http.reader import Reader
from panels_gateway.kernel.residents import Resident
from panels_shared.errors import CloseCode, Code
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


async def reader_of(gateway: Gateway) -> tuple[Reader, Resident]:
    resident = await gateway.add("p")
    until_s = asyncio.get_running_loop().time() + 60
    made = Reader(resident.panel, ANONYMOUS, gateway.kernel.turn, until_s)
    bell.listen(resident.room, made.stir)
    return made, resident


async def test_commit_wakes_a_reader() -> None:
    gateway = Gateway()
    reader, resident = await reader_of(gateway)
    waiting = asyncio.create_task(reader.wait(0, reader.until_s))
    await gateway.settle()
    assert not waiting.done()
    await gateway.put(resident, n=1)
    assert await waiting
    assert await reader.wait(0, reader.until_s), "what has come already is not waited for"


async def test_time_ends_waiting_and_not_the_reader() -> None:
    reader, _ = await reader_of(Gateway())
    assert not await reader.wait(0, 0.0)
    assert not reader.over


async def test_what_ends_a_reader_first_is_what_it_is_told() -> None:
    reader, _ = await reader_of(Gateway())
    waiting = asyncio.create_task(reader.wait(0, reader.until_s))
    await asyncio.sleep(0)
    reader.dismiss("the token was revoked")
    reader.end()
    assert await waiting
    assert reader.error is not None
    assert reader.error.code is Code.UNAUTHORIZED


async def test_deletion_is_told_when_it_is_durable() -> None:
    gateway = Gateway()
    reader, _ = await reader_of(gateway)
    reader.close(CloseCode.PANEL_DELETED, "the panel was deleted")
    assert not reader.over
    await gateway.settle()
    assert reader.error is not None
    assert reader.error.code is Code.PANEL_NOT_FOUND
