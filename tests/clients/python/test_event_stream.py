"""What an application reads that takes events with ``async for``."""

from __future__ import annotations

import asyncio

import pytest

from panels_client.errors import EventsLostError
from panels_client.event_stream import EventStream
from panels_client.messages import Event

pytestmark = pytest.mark.anyio


def event(number: int, name: str = "e") -> Event:
    return Event(name, number, 0, number)


async def read(stream: EventStream) -> list[int]:
    return [each.payload async for each in stream]


async def test_events_of_the_name_come_in_order_until_the_end() -> None:
    named, all_of_them = EventStream("e", 8), EventStream("*", 8)
    for stream in (named, all_of_them):
        for each in (event(1), event(2, "other"), event(3)):
            stream.put(each)
        stream.end()
    assert await read(named) == [1, 3]
    assert await read(all_of_them) == [1, 2, 3]


async def test_reader_waits_for_what_is_not_there_yet() -> None:
    stream = EventStream("e", 8)
    reading = asyncio.ensure_future(read(stream))
    for number in range(3):
        await asyncio.sleep(0)
        stream.put(event(number))
    await asyncio.sleep(0)
    assert not reading.done()
    stream.end()
    assert await reading == [0, 1, 2]


async def test_events_above_the_limit_are_told_as_lost_behind_those_that_wait() -> None:
    stream = EventStream("e", 2)
    for number in range(3):
        stream.put(event(number))
    stream.put(event(4))
    assert [(await anext(stream)).payload for _ in range(2)] == [0, 1]
    with pytest.raises(EventsLostError, match="at most 2 events"):
        await anext(stream)


def test_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        EventStream("e", 0)
