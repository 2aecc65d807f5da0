"""The rules of resuming, by the vectors that any client can prove itself with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_client.messages import Connected, EventMessage, Patch, ProtocolViolation, decode
from panels_client.replica import MAX_EARLY_EVENTS, Replica
from tests.support.resume_runner import load

VECTORS = load()


class Reader:
    """A replica, and what its user was told."""

    def __init__(self, *, position: int, state: dict[str, Any]) -> None:
        self.replica = Replica()
        self.replica.restore(epoch="epoch", position=position, state=state)
        self.events: list[list[Any]] = []

    def hear_all(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            self.hear(message)

    def hear(self, raw: dict[str, Any]) -> None:
        message = decode(json.dumps(raw))
        if isinstance(message, Patch):
            self.replica.patch(message)
        elif isinstance(message, EventMessage) and self.replica.event(message):
            self.events.append([message.seq, message.event.name, message.event.payload])


def connected(vector: dict[str, Any], epoch: str = "epoch") -> Connected:
    sent = vector["sent"]
    seq = sent["seq"]
    if seq == "last":
        seq = 10**6
    return Connected(seq, epoch, sent["recovered"], sent.get("state"))


def resumed(vector: dict[str, Any]) -> Reader:
    had = vector["had"]
    reader = Reader(position=had["seq"], state=had["state"])
    for message in had["heard"]:
        reader.hear(message)
    if vector["asks"]["since"] == "none":
        reader.replica.spoil()
    assert reader.replica.asks()["since"] == str(vector["asks"]["since"])
    same = vector["asks"]["epoch"] == "current"
    reader.replica.connected(connected(vector, "epoch" if same else "another"))
    return reader


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_replica_ends_as_the_vector_says(vector: dict[str, Any]) -> None:
    reader = resumed(vector)
    for message in [*vector["sent"]["messages"], *vector.get("then", {}).get("messages", [])]:
        reader.hear(message)
    ends = vector["ends"]
    if ends["seq"] != "last":
        assert reader.replica.position == ends["seq"]
    assert dict(reader.replica.view.shown) == ends["state"]
    assert reader.events == ends["events"]


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS if vector["sent"]["recovered"]],
    ids=lambda vector: vector["name"],
)
def test_replica_ends_as_the_vector_says_however_often_it_is_cut_off(vector: dict[str, Any]) -> None:
    sent = vector["sent"]["messages"]
    for heard in range(len(sent) + 1):
        reader = resumed(vector)
        reader.hear_all(sent[:heard])
        for _ in range(2):
            reader.replica.connected(connected(vector))
        position = reader.replica.position
        reader.hear_all([message for message in sent if message["seq"] > position])
        reader.hear_all(vector.get("then", {}).get("messages", []))
        assert dict(reader.replica.view.shown) == vector["ends"]["state"]
        assert reader.events == vector["ends"]["events"]


@pytest.mark.parametrize(
    "vector",
    [vector for vector in VECTORS if len({m["seq"] for m in vector["sent"]["messages"]}) > 1],
    ids=lambda vector: vector["name"],
)
def test_replica_finds_the_gap_where_the_first_commit_is_missing(vector: dict[str, Any]) -> None:
    reader = resumed(vector)
    messages = vector["sent"]["messages"]
    rest = [message for message in messages if message["seq"] != messages[0]["seq"]]
    with pytest.raises(ProtocolViolation):
        reader.hear_all(rest)


def test_replica_asks_for_everything_once_its_state_is_void() -> None:
    replica = Replica()
    assert replica.asks() == {}
    replica.spoil()
    assert replica.asks() == {}
    replica.connected(Connected(4, "e", False, {"a": 1}))
    assert replica.asks() == {"epoch": "e", "since": "4"}
    replica.spoil()
    assert replica.asks() == {"epoch": "e", "since": "none"}
    with pytest.raises(ProtocolViolation):
        replica.connected(Connected(4, "e", True, None))
    assert replica.connected(Connected(5, "e", False, {"a": 2}))[0] == "resynced"
    assert replica.asks() == {"epoch": "e", "since": "5"}


@pytest.mark.parametrize(
    ("seq", "epoch", "greeting"), [(9, "e", "resynced"), (8, "e", "lost"), (9, "f", "lost")]
)
def test_replica_tells_another_history_from_its_own(seq: int, epoch: str, greeting: str) -> None:
    replica = Replica()
    replica.restore(epoch="e", position=9, state={})
    assert replica.connected(Connected(seq, epoch, False, {}))[0] == greeting


@pytest.mark.parametrize(("seq", "epoch"), [(3, "f"), (2, "e")])
def test_replica_refuses_a_recovery_that_cannot_be(seq: int, epoch: str) -> None:
    replica = Replica()
    replica.restore(epoch="e", position=3, state={})
    with pytest.raises(ProtocolViolation):
        replica.connected(Connected(seq, epoch, True, None))


def test_replica_refuses_a_unit_that_never_ends() -> None:
    reader = Reader(position=0, state={})
    event = {"type": "EVENT", "event": {"name": "e", "payload": 0, "timestamp": 0}, "seq": 1, "more": True}
    with pytest.raises(ProtocolViolation):
        reader.hear_all([event] * (MAX_EARLY_EVENTS + 1))
