"""A panel as a stream: pages, long polls and server-sent events, as the Durable Streams protocol has them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from panels_gateway.http import reader, streams
from panels_gateway.http.streams import Timing
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel import streams as pages
from panels_gateway.kernel.residents import Resident
from panels_shared.errors import Code
from tests.gateway.http.callers import assert_error, bearer, grant, make_client
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

STREAM = "/panels/p/stream"


def said(response: httpx.Response) -> list[Any]:
    """What a page says, in short."""
    assert response.status_code == 200, response.text
    return [word(message) for message in response.json()]


def word(message: dict[str, Any]) -> Any:
    headers = message["headers"]
    return headers["control"] if "control" in headers else (message["key"], message.get("value"))


async def read(client: httpx.AsyncClient, **query: str) -> httpx.Response:
    return await client.get(STREAM, params=query)


async def counted(gateway: Gateway, commits: int = 3) -> Resident:
    resident = await gateway.add("p", state={"n": 0})
    for number in range(1, commits + 1):
        await gateway.put(resident, n=number)
    return resident


def offset(resident: Resident, seq: int) -> str:
    return f"{resident.panel.epoch}_{seq:016d}"


class Events:
    """A client of server-sent events that calls the application itself, and takes what it is sent when it
    likes.
    """

    def __init__(self, client: httpx.AsyncClient, query: str, headers: dict[str, str]) -> None:
        self.status = 0
        self.text = ""
        self.over = False
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()
        self.told = asyncio.Event()
        self.aborted = False
        transport: Any = client._transport
        scope = {
            "type": "http",
            "method": "GET",
            "path": STREAM,
            "raw_path": STREAM.encode(),
            "root_path": "",
            "scheme": "http",
            "server": ("gateway", 3001),
            "client": ("192.0.2.1", 1),
            "query_string": query.encode(),
            "headers": [
                (b"host", b"gateway:3001"),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
            "extensions": {"panels.abort": self._abort},
        }
        self.task = asyncio.create_task(transport.app(scope, self._receive, self._send))

    def _abort(self) -> None:
        self.aborted = True

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += bytes(message.get("body", b"")).decode()
            self.over = not message.get("more_body", False)
        self.told.set()

    async def until(self, look: Callable[[list[Any]], bool]) -> None:
        """Returns once ``look`` finds in what was heard what it looks for."""
        async with asyncio.timeout(5):
            while not look(self.heard):
                self.told.clear()
                await self.told.wait()

    @property
    def heard(self) -> list[Any]:
        """The events up to now, in short: comments are None."""
        found: list[Any] = []
        for event in self.text.split("\n\n")[:-1]:
            lines: dict[str, str] = {}
            for line in event.split("\n"):
                name, _, value = line.partition(": ")
                lines[name] = value
            if lines.get("event") == "data":
                found.append([word(message) for message in json.loads(lines["data"])])
            elif lines.get("event") == "control":
                control = json.loads(lines["data"])
                assert control["streamCursor"].isdigit()
                found.append((int(control["streamNextOffset"][-16:]), control.get("upToDate", False)))
            else:
                found.append(None)
        return found


@asynccontextmanager
async def listening(
    gateway: Gateway, client: httpx.AsyncClient, query: str, headers: dict[str, str] | None = None
) -> AsyncIterator[Events]:
    events = Events(client, query, headers or {})
    await gateway.settle()
    try:
        yield events
    finally:
        events.gone.set()
        events.takes.set()
        await asyncio.wait_for(events.task, 5)


# -- pages -------------------------------------------------------------------------------------------


async def test_beginning_is_the_state_and_what_follows_are_commits(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway)
    for query in ({}, {"offset": "-1"}):
        page = await read(client, **query)
        assert said(page) == ["snapshot-start", ("n", 3), "snapshot-end"]
        assert page.headers["content-type"] == "application/json"
        assert page.headers["stream-next-offset"] == offset(resident, 3)
        assert page.headers["stream-up-to-date"] == "true"
        assert page.headers["cache-control"] == "private, no-cache"
        assert page.headers["x-content-type-options"] == "nosniff"
    await gateway.trigger(resident, {"set": {"m": {}}, "delete": ["n"], "emit": {"e": 5}})
    page = await read(client, offset=page.headers["stream-next-offset"])
    (*changes, event) = said(page)
    assert changes == [("m", {}), ("n", None)]
    assert event == ("4.0", {"name": "e", "payload": 5, "timestamp": 1.0})
    assert said(await read(client, offset=offset(resident, 0)))[:3] == [("n", 1), ("n", 2), ("n", 3)]


async def test_page_with_events_for_one_subject_is_of_its_reader_alone(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway, 1)
    await gateway.trigger(resident, {"emit": {"e": 1, "f": 2}, "to": {"e": "ada"}})
    tags: dict[str, str] = {}
    for subject, heard in (
        ("bob", ["2.1"]),
        ("ada", ["2.0", "2.1"]),
        ("eve", ["2.1"]),
        ("ada", ["2.0", "2.1"]),
    ):
        page = await guarded.get(
            STREAM, params={"offset": offset(resident, 1)}, headers=grant("p", "read", sub=subject)
        )
        assert [key for key, _ in said(page)] == heard
        tags[subject] = page.headers["etag"]
    assert len(set(tags.values())) == 3


async def test_end_is_an_empty_page(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await counted(gateway)
    for asked in ("now", offset(resident, 3)):
        page = await read(client, offset=asked)
        assert (said(page), page.headers["stream-next-offset"]) == ([], offset(resident, 3))
        assert page.headers["stream-up-to-date"] == "true"
        assert ("etag" in page.headers) == (asked != "now")
    assert (await read(client, offset="now")).headers["cache-control"] == "no-store"


async def test_pages_are_bounded_and_without_a_gap(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = await counted(gateway, 5)
    monkeypatch.setattr(pages, "MAX_COMMITS", 2)
    told: list[Any] = []
    page = await read(client, offset=offset(resident, 0))
    while True:
        told.append([value for _, value in said(page)])
        if "stream-up-to-date" in page.headers:
            break
        page = await read(client, offset=page.headers["stream-next-offset"])
    assert told == [[1, 2], [3, 4], [5]]
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 1)
    assert len(said(await read(client, offset=offset(resident, 0)))) == 1


async def test_large_pages_and_snapshots_are_sent_in_parts(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await gateway.add("p", state={"large": "x" * 200_000, "n": 1})
    images = gateway.kernel.images
    page = await read(client)
    assert said(page) == ["snapshot-start", ("large", "x" * 200_000), ("n", 1), "snapshot-end"]
    assert page.headers["stream-next-offset"] == offset(resident, 0)
    await gateway.put(resident, large="y" * 300_000)
    assert said(await read(client, offset=offset(resident, 0))) == [("large", "y" * 300_000)]
    assert images.used_bytes == 0
    images.maximum = 1
    assert_error(await read(client), Code.OVERLOADED)
    assert images.used_bytes == 0


async def test_who_has_a_page_is_not_sent_it_again(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await counted(gateway)
    page = await read(client, offset=offset(resident, 1))
    asked = {"if-none-match": page.headers["etag"]}
    again = await client.get(STREAM, params={"offset": offset(resident, 1)}, headers=asked)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["stream-next-offset"] == offset(resident, 3)
    await gateway.put(resident, n=4)
    again = await client.get(STREAM, params={"offset": offset(resident, 1)}, headers=asked)
    assert said(again) == [("n", 2), ("n", 3), ("n", 4)]


async def test_topics_choose_what_is_told(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await gateway.add("p", state={"a": 0, "b": 0})
    await gateway.trigger(resident, {"set": {"a": 1, "b": 1}, "emit": {"e": 1}})
    assert said(await read(client, topics="state:a")) == ["snapshot-start", ("a", 1), "snapshot-end"]
    assert said(await read(client, topics="state:b", offset=offset(resident, 0))) == [("b", 1)]
    page = await read(client, topics="event:other", offset=offset(resident, 0))
    assert (said(page), page.headers["stream-next-offset"]) == ([], offset(resident, 1))


async def test_position_that_the_stream_does_not_have_is_gone(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway)
    for gone in (f"other.0_{1:016d}", offset(resident, 4)):
        for live in ({}, {"live": "sse"}, {"live": "long-poll"}):
            assert_error(await read(client, offset=gone, **live), Code.HISTORY_GONE)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("offset=x", "offset"),
        ("offset=", "offset"),
        ("live=sse", "offset"),
        ("live=long-poll", "offset"),
        ("offset=now&live=", "live"),
        ("offset=now&live=true", "live"),
        ("offset=now&offset=-1", "offset"),
        ("topics=" + "a" * 301, "topics"),
    ],
)
async def test_query_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, gateway: Gateway, query: str, path: str
) -> None:
    await gateway.add("p")
    response = await client.get(f"{STREAM}?{query}")
    assert assert_error(response, Code.INVALID_REQUEST)["path"] == path


async def test_head_tells_the_end(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await counted(gateway)
    response = await client.head(STREAM)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["stream-next-offset"] == offset(resident, 3)
    assert response.headers["cache-control"] == "no-store"
    assert (await client.head("/panels/none/stream")).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_stream_is_only_read(client: httpx.AsyncClient, gateway: Gateway, method: str) -> None:
    await gateway.add("p")
    assert_error(await client.request(method, STREAM), Code.METHOD_NOT_ALLOWED)


async def test_stream_needs_the_permission_to_read(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p")
    assert_error(await guarded.get(STREAM), Code.UNAUTHORIZED)
    assert_error(await guarded.get(STREAM, headers=grant("p", "trigger:*")), Code.FORBIDDEN)
    assert said(await guarded.get(STREAM, headers=grant("p", "read"))) == ["snapshot-start", "snapshot-end"]


@pytest.mark.parametrize("query", ["", "offset=now", "offset=-1&live=long-poll"])
async def test_stream_shows_what_is_durable(query: str) -> None:
    gateway = Gateway(MemoryJournal(hold=True))
    async with make_client(gateway) as client:
        adding = asyncio.create_task(gateway.add("p"))
        await gateway.settle()
        gateway.journal.release(gateway.journal.position)
        gateway.submit(await adding, {"set": {"n": 1}})
        await gateway.settle()
        reading = asyncio.create_task(client.get(f"{STREAM}?{query}"))
        await gateway.settle()
        assert not reading.done()
        gateway.journal.release(gateway.journal.position)
        assert (await reading).headers["stream-next-offset"].endswith("1")


# -- long polls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["now", "3"])
async def test_long_poll_waits_for_the_next_commit(
    client: httpx.AsyncClient, gateway: Gateway, start: str
) -> None:
    resident = await counted(gateway)
    asked = start if start == "now" else offset(resident, 3)
    polling = asyncio.create_task(read(client, offset=asked, live="long-poll", topics="state:n"))
    await gateway.settle()
    await gateway.put(resident, other=1)
    assert not polling.done()
    await gateway.put(resident, n=5)
    page = await polling
    assert said(page) == [("n", 5)]
    assert page.headers["stream-next-offset"] == offset(resident, 5)
    assert page.headers["stream-cursor"].isdigit()
    assert ("etag" in page.headers) == (start != "now")
    assert resident.room.bell is None
    assert not gateway.kernel.making.watchers


async def test_long_poll_with_something_to_tell_does_not_wait(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway)
    page = await read(client, offset=offset(resident, 2), live="long-poll", cursor="99999999999")
    assert said(page) == [("n", 3)]
    assert int(page.headers["stream-cursor"]) > 99999999999


async def test_long_poll_that_has_waited_long_enough_is_answered_with_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "Timing", lambda: Timing(long_poll_s=0.0))
    resident = await counted(gateway)
    async with make_client(gateway) as client:
        response = await read(client, offset=offset(resident, 3), live="long-poll")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["stream-next-offset"] == offset(resident, 3)
    assert response.headers["stream-up-to-date"] == "true"
    assert response.headers["stream-cursor"].isdigit()
    assert response.headers["cache-control"] == "no-store"
    assert "etag" not in response.headers


async def test_gateway_that_stops_ends_long_polls(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await counted(gateway)
    polling = asyncio.create_task(read(client, offset="now", live="long-poll"))
    await gateway.settle()
    gateway.kernel.close()
    assert (await polling).status_code == 204
    assert_error(await read(client, offset="now", live="long-poll"), Code.UNAVAILABLE)


async def test_deletion_of_the_panel_ends_long_polls(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await counted(gateway)
    polling = asyncio.create_task(read(client, offset="now", live="long-poll"))
    await gateway.settle()
    assert (await client.delete("/panels/p")).status_code == 204
    assert_error(await polling, Code.PANEL_NOT_FOUND)


# -- server-sent events ------------------------------------------------------------------------------


async def test_events_begin_with_what_was_missed_and_go_on(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway)
    async with listening(gateway, client, f"live=sse&offset={offset(resident, 1)}") as events:
        assert events.status == 200
        assert events.heard == [[("n", 2), ("n", 3)], (3, True)]
        await gateway.put(resident, n=4)
        assert events.heard[2:] == [[("n", 4)], (4, True)]
        assert not events.over
    assert resident.room.bell is None
    assert not gateway.kernel.making.watchers


async def test_events_from_now_say_first_where_they_are(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await counted(gateway)
    async with listening(gateway, client, "live=sse&offset=now&topics=state:n") as events:
        assert events.heard == [(3, True)]
        await gateway.put(resident, other=1)
        await gateway.put(resident, n=4)
        assert events.heard[1:] == [[("n", 4)], (5, True)]


async def test_events_of_a_large_state_are_one_event(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p", state={"large": ["x" * 200_000]})
    async with listening(gateway, client, "live=sse&offset=-1") as events:
        assert events.heard == [["snapshot-start", ("large", ["x" * 200_000]), "snapshot-end"], (0, True)]
    assert gateway.kernel.images.used_bytes == 0


async def test_events_end_after_a_while(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "Timing", lambda: Timing(events_s=0.0))
    resident = await counted(gateway)
    query = f"live=sse&offset={offset(resident, 2)}"
    async with make_client(gateway) as client, listening(gateway, client, query) as events:
        await asyncio.wait_for(events.task, 5)
        assert events.heard == [[("n", 3)], (3, True)]
        assert events.over


async def test_events_are_kept_alive(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "Timing", lambda: Timing(keep_alive_s=0.0))
    resident = await counted(gateway)
    query = f"live=sse&topics=state:n&offset={offset(resident, 3)}"
    async with make_client(gateway) as client, listening(gateway, client, query) as events:
        await events.until(lambda heard: heard[:2] == [(3, True), None])
        # what the topics pass over moves the reader nevertheless
        await gateway.put(resident, other=1)
        await events.until(lambda heard: (4, True) in heard)


async def test_token_that_expires_ends_what_is_live(gateway: Gateway, tmp_path: Path) -> None:
    await counted(gateway)
    async with make_client(gateway, secret_file=tmp_path / "secret") as client:
        panels = [{"id": "p", "allow": ["read"]}]
        headers = bearer(panels=panels, exp=time.time() + 0.5)
        async with listening(gateway, client, "live=sse&offset=now", headers) as events:
            await asyncio.wait_for(events.task, 10)
            assert (events.status, events.over) == (200, True)
        # the leeway is not for what lasts
        headers = bearer(panels=panels, exp=time.time() - 1)
        response = await client.get(f"{STREAM}?live=sse&offset=now", headers=headers)
        assert_error(response, Code.UNAUTHORIZED)
        assert (await client.get(STREAM, headers=headers)).status_code == 200


async def test_reader_that_does_not_read_is_cut_off(gateway: Gateway) -> None:
    resident = await counted(gateway)
    query = "live=sse&offset=now"
    async with (
        make_client(gateway, "--body-timeout-s=1") as client,
        listening(gateway, client, query) as events,
    ):
        events.takes.clear()
        await gateway.put(resident, n=4)
        await asyncio.wait_for(events.task, 10)
        assert events.aborted
    assert not gateway.kernel.making.watchers


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_revocation_ends_what_is_live(gateway: Gateway, tmp_path: Path, live: str) -> None:
    resident = await counted(gateway)
    async with make_client(gateway, secret_file=tmp_path / "secret") as client:
        headers = bearer(sub="s", panels=[{"id": "p", "allow": ["read"]}])
        async with listening(gateway, client, f"live={live}&offset=now", headers) as events:
            revoked = await client.post(
                "/revocations", json={"sub": "s"}, headers=bearer(sub="admin", panels_admin=True)
            )
            assert revoked.status_code == 201
            await gateway.put(resident, n=4)
            await asyncio.wait_for(events.task, 5)
            assert events.over
            assert ("UNAUTHORIZED" in events.text) == (live == "long-poll")
            assert '"n"' not in events.text


@pytest.mark.parametrize(
    ("flag", "scope"),
    [("--max-connections-per-subject", "subject"), ("--max-connections-per-address", "address")],
)
async def test_live_readers_are_bounded(gateway: Gateway, flag: str, scope: str) -> None:
    await gateway.add("p")
    query = "live=sse&offset=now"
    async with make_client(gateway, f"{flag}=1") as client:
        async with listening(gateway, client, query):
            assert gateway.kernel.counters.stream_readers == 1
            async with listening(gateway, client, query) as refused:
                assert (refused.status, json.loads(refused.text)["error"]["details"]["scope"]) == (503, scope)
            assert said(await read(client, offset="now")) == []
        async with listening(gateway, client, query) as events:
            assert events.status == 200
        assert gateway.kernel.counters.stream_readers == 0


async def test_live_readers_are_bounded_in_all(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.add("p")
    monkeypatch.setattr(reader, "MAX_READERS", 0)
    assert assert_error(await read(client, offset="now", live="sse"), Code.OVERLOADED)["scope"] == "gateway"


async def test_position_before_retention_is_gone() -> None:
    gateway = Gateway(MemoryJournal(history_commits=1))
    async with make_client(gateway) as client:
        resident = await counted(gateway, 5)
        for live in ({}, {"live": "sse"}, {"live": "long-poll"}):
            assert_error(await read(client, offset=offset(resident, 1), **live), Code.HISTORY_GONE)
        assert said(await read(client))[1:2] == [("n", 5)]
