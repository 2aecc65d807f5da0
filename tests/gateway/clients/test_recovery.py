"""What a client that was away is sent: the query it asks with, and what comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_gateway.broadcast.topics import MAX_TOPIC_CHARS, MAX_TOPICS, Topics
from panels_gateway.clients import recovery
from panels_gateway.clients.recovery import Asked, Recovery, parse, read
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel.residents import Resident
from panels_shared.errors import Code, RequestError
from tests.gateway.builders import payloads
from tests.support.gateway import Gateway, Socket, only

pytestmark = pytest.mark.anyio


# -- the query ---------------------------------------------------------------------------------------


def test_parse_takes_what_a_client_may_ask() -> None:
    assert parse(b"") == Asked()
    assert parse(b"token=x&other=1") == Asked()
    assert parse(b"epoch=a.0&since=12") == Asked(True, "a.0", 12)
    assert parse(b"since=none&epoch=e") == Asked(True, "e", None)
    assert parse(b"epoch=e") == Asked()


def test_parse_takes_topics_in_place_of_the_default_ones() -> None:
    topics = parse(b"topics=state%3Aa%2Cb,event:x+y,").topics
    assert topics is not None
    assert topics.names == {"state:a,b", "event:x y"}
    empty = parse(b"topics=").topics
    assert empty is not None
    assert empty.names == set()


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (b"since=-1", "since"),
        (b"since=", "since"),
        (b"since=1.5", "since"),
        (b"since=NONE", "since"),
        (b"since=%D9%A3", "since"),
        (b"since=12345678901234567", "since"),
        (b"since=1&since=2", "since"),
        (b"since=1&epoch=" + b"e" * 65, "epoch"),
        (b"topics=a&topics=b", "topics"),
        (b"topics=" + b"a" * (MAX_TOPIC_CHARS + 1), "topics"),
        (b"topics=" + b",".join(b"%d" % n for n in range(MAX_TOPICS + 1)), "topics"),
        (b"since=\xff", "since"),
    ],
)
def test_parse_refuses_what_cannot_be_meant(query: bytes, path: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(query)
    assert caught.value.code is Code.INVALID_REQUEST
    assert caught.value.details == {"path": path}


# -- what comes of it --------------------------------------------------------------------------------


async def counted(gateway: Gateway, commits: int) -> Resident:
    resident = await gateway.add(state={"n": 0})
    for number in range(1, commits + 1):
        await gateway.trigger(resident, {"set": {"n": number}, "emit": {"e": number}})
    return resident


async def resumed(gateway: Gateway, resident: Resident, asked: Asked) -> Socket:
    _, socket = await gateway.resume(resident, asked)
    await gateway.settle()
    return socket


async def test_client_is_sent_what_it_missed_and_no_state() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 3)
    socket = await resumed(gateway, resident, Asked(True, resident.panel.epoch, 1))
    connected = socket.heard[0]
    assert (connected["recovered"], connected["seq"], "state" in connected) == (True, 3, False)
    assert socket.words == ["CONNECTED 3", "PATCH 2", "EVENT 2", "PATCH 3", "EVENT 3"]
    assert gateway.kernel.counters.recovered == 1


async def test_client_that_missed_nothing_is_sent_nothing() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 3)
    socket = await resumed(gateway, resident, Asked(True, resident.panel.epoch, 3))
    await gateway.put(resident, n=4)
    assert socket.words == ["CONNECTED 3", "PATCH 4"]
    assert socket.heard[0]["recovered"]


@pytest.mark.parametrize("why", ["none", "future", "epoch", "no epoch"])
async def test_client_with_something_of_no_use_gets_the_state_and_is_told_so(why: str) -> None:
    gateway = Gateway()
    resident = await counted(gateway, 3)
    epoch = resident.panel.epoch
    asked = {
        "none": Asked(True, epoch, None),
        "future": Asked(True, epoch, 4),
        "epoch": Asked(True, "other", 1),
        "no epoch": Asked(True, "", 1),
    }[why]
    socket = await resumed(gateway, resident, asked)
    (connected,) = socket.heard
    assert (connected["recovered"], connected["state"], connected["epoch"]) == (False, {"n": 3}, epoch)
    assert gateway.kernel.counters.resynced == 1


async def test_client_that_does_not_resume_hears_nothing_of_recovery() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 1)
    assert await read(Asked(), resident, gateway.kernel.histories, None) is None
    socket = await resumed(gateway, resident, Asked())
    assert "recovered" not in socket.heard[0]


async def test_client_gets_the_state_where_history_does_not_reach_back() -> None:
    gateway = Gateway(MemoryJournal(history_commits=1))
    resident = await counted(gateway, 5)
    socket = await resumed(gateway, resident, Asked(True, resident.panel.epoch, 0))
    assert [message.get("recovered") for message in socket.heard] == [False]


async def test_client_gets_the_state_where_what_it_missed_is_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway()
    resident = await counted(gateway, 3)
    asked = Asked(True, resident.panel.epoch, 0)
    monkeypatch.setattr(recovery, "RECOVERY_FLOOR_BYTES", 200)
    assert (await resumed(gateway, resident, asked)).heard[0]["recovered"] is False
    monkeypatch.setattr(recovery, "RECOVERY_FLOOR_BYTES", 4_000)
    assert (await resumed(gateway, resident, asked)).heard[0]["recovered"] is True
    monkeypatch.setattr(recovery, "MAX_RECOVERY_BYTES", 200)
    assert (await resumed(gateway, resident, asked)).heard[0]["recovered"] is False


async def test_commits_made_while_history_was_read_are_told_as_well() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 2)
    found = await read(Asked(True, resident.panel.epoch, 1), resident, gateway.kernel.histories, None)
    await gateway.put(resident, n=3)
    resident.holds += 1
    assert found is not None
    frames = found.complete(resident.panel, Topics(), None)
    # what is folded meanwhile cannot be told any more: the whole state is
    assert frames is None
    found = await read(Asked(True, resident.panel.epoch, 1), resident, gateway.kernel.histories, None)
    gateway.kernel.commits.change(resident, {"n": b"4"}, cause="test", subject=None)
    assert found is not None
    frames = found.complete(resident.panel, Topics(), None)
    assert frames is not None
    told = [json.loads(payload)["seq"] for payload in payloads(b"".join(frames))]
    assert told == [2, 2, 3, 4]
    assert found.position == 4


@pytest.mark.parametrize("since", [1, 2])
async def test_commit_that_was_made_and_folded_while_others_follow_is_never_a_silent_gap(since: int) -> None:
    gateway = Gateway()
    resident = await counted(gateway, 2)
    found = await read(Asked(True, resident.panel.epoch, since), resident, gateway.kernel.histories, None)
    await gateway.put(resident, n=3)
    gateway.kernel.commits.change(resident, {"n": b"4"}, cause="test", subject=None)
    assert [record.seq for record in resident.tail] == [4]
    assert found is not None
    assert found.complete(resident.panel, Topics(), None) is None


async def test_commits_that_make_what_was_read_too_large_bring_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "RECOVERY_FLOOR_BYTES", 500)
    gateway = Gateway()
    resident = await counted(gateway, 2)
    found = await read(Asked(True, resident.panel.epoch, 0), resident, gateway.kernel.histories, None)
    gateway.kernel.commits.change(resident, {"n": b"1" * 400}, cause="test", subject=None)
    assert isinstance(found, Recovery)
    assert found.complete(resident.panel, Topics(), None) is None


async def test_client_with_topics_is_told_where_it_was_and_sees_no_gap() -> None:
    """Of five commits it is told of one; the next that concerns it says which was the last."""
    gateway = Gateway()
    resident = await gateway.add(state={})
    for key in ("a", "b", "a", "a"):
        await gateway.put(resident, **{key: 1})
    asked = Asked(True, resident.panel.epoch, 0, only("state:b"))
    socket = await resumed(gateway, resident, asked)
    await gateway.put(resident, a=2)
    await gateway.put(resident, b=2)
    patches: list[dict[str, Any]] = socket.heard[1:]
    assert [(patch["seq"], patch.get("prevSeq")) for patch in patches] == [(2, 0), (6, 2)]


@pytest.mark.parametrize("topics", [Topics(), only("events")], ids=["default", "events"])
@pytest.mark.parametrize(("subject", "heard"), [("ada", ["e", "f"]), ("bob", ["f"]), (None, ["f"])])
async def test_events_for_another_subject_are_not_told_later_either(
    topics: Topics, subject: str | None, heard: list[str]
) -> None:
    gateway = Gateway()
    resident = await counted(gateway, 1)
    await gateway.trigger(resident, {"emit": {"e": 1}, "to": {"e": "ada"}})
    await gateway.trigger(resident, {"emit": {"f": 1}})
    asked = Asked(True, resident.panel.epoch, 1, topics)
    found = await read(asked, resident, gateway.kernel.histories, subject)
    assert found is not None
    frames = found.complete(resident.panel, topics, subject)
    told = [json.loads(payload) for payload in payloads(b"".join(frames or ()))]
    assert [message["event"]["name"] for message in told if message["type"] == "EVENT"] == heard
    assert found.position == 3
