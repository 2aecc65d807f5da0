"""What a panel's stream says between two positions: nothing is left out, and nothing is made twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast.offsets import Offset, Start
from panels_gateway.broadcast.topics import Topics, parse_topics
from panels_gateway.kernel import streams
from panels_gateway.kernel.images import PART_BYTES, Image
from panels_gateway.kernel.residents import Resident
from panels_gateway.kernel.streams import Body, Streams, release
from panels_shared.errors import Code, RequestError
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


async def read(made: Streams, resident: Resident, start: Start, topics: Topics | None = None) -> Body:
    return await made.body(resident, await made.span(resident, start), topics or Topics(), "a")


def messages(body: Body) -> list[dict[str, Any]]:
    text = b"".join(body.parts) if isinstance(body, Image) else body
    release(body)
    found: list[dict[str, Any]] = json.loads(text)
    return found


async def test_pages_lead_from_any_version_to_now(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway()
    resident = await gateway.add("p")
    for number in range(1, 8):
        await gateway.put(resident, n=number)
    made = Streams(gateway.kernel)
    monkeypatch.setattr(streams, "MAX_COMMITS", 3)
    for first in range(8):
        told: list[Any] = []
        span = await made.span(resident, Offset(resident.panel.epoch, first))
        while True:
            told += [message["value"] for message in messages(await made.body(resident, span, Topics(), "a"))]
            if span.complete:
                break
            span = await made.span(resident, span.end)
        assert told == list(range(first + 1, 8))


async def test_readers_at_the_same_place_share_what_they_are_sent() -> None:
    gateway = Gateway()
    resident = await gateway.add("p")
    await gateway.put(resident, n=1)
    made = Streams(gateway.kernel)
    start = Offset(resident.panel.epoch, 0)
    body = await read(made, resident, start)
    assert await read(made, resident, start) is body
    assert await read(made, resident, start, parse_topics("state:m")) == b"[]"
    # what has come since is not left out
    await gateway.put(resident, n=2)
    assert [message["value"] for message in messages(await read(made, resident, start))] == [1, 2]


async def test_pages_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway()
    resident = await gateway.add("p")
    for number in range(1, 5):
        await gateway.put(resident, n=number)
    made = Streams(gateway.kernel)
    monkeypatch.setattr(streams, "MAX_RECENT", 1)
    epoch = resident.panel.epoch
    oldest = await read(made, resident, Offset(epoch, 0))
    newest = await read(made, resident, Offset(epoch, 1))
    assert await read(made, resident, Offset(epoch, 1)) is newest
    assert await read(made, resident, Offset(epoch, 0)) is not oldest


async def test_large_snapshot_is_made_once_while_somebody_has_it() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", state={"large": "x" * 2 * PART_BYTES, "n": 1})
    images = gateway.kernel.images
    made = Streams(gateway.kernel)
    one, other = await read(made, resident, "beginning"), await read(made, resident, "beginning")
    assert one is other
    assert isinstance(one, Image)
    assert images.used_bytes == one.size
    release(one)
    assert [message.get("key") for message in messages(other)] == [None, "large", "n", None]
    assert images.used_bytes == 0
    again = await read(made, resident, "beginning")
    assert again is not one
    release(again)


async def test_snapshot_is_of_one_version_although_the_panel_changes_meanwhile() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", state={"n": 0})
    made = Streams(gateway.kernel)
    span = await made.span(resident, "beginning")
    await gateway.put(resident, n=1)
    snapshot = messages(await made.body(resident, span, Topics(), "a"))
    assert (span.end.seq, snapshot[1]["value"]) == (0, 0)
    assert [message["value"] for message in messages(await read(made, resident, span.end))] == [1]


async def test_other_history_is_gone() -> None:
    gateway = Gateway()
    resident = await gateway.add("p")
    made = Streams(gateway.kernel)
    for gone in (Offset("other", 0), Offset(resident.panel.epoch, 1)):
        with pytest.raises(RequestError) as caught:
            await made.span(resident, gone)
        assert caught.value.code is Code.HISTORY_GONE


@given(st.lists(st.integers(0, 2 * PART_BYTES), max_size=4))
async def test_parts_are_one_array(sizes: list[int]) -> None:
    told = [b'"%b"' % (b"x" * size) for size in sizes]
    parts = await streams._gathered(iter(told))
    assert [len(value) for value in json.loads(b"".join(parts))] == sizes
    assert all(len(part) <= 2 * PART_BYTES + 8 for part in parts)
