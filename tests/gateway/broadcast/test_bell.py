"""Readers of a stream are woken when commits have left, and cost a room nothing else."""

from __future__ import annotations

from panels_gateway.broadcast import bell
from panels_gateway.broadcast.hub import Hub, Room


def commit(room: Room, seq: int) -> None:
    room.publish(seq, [], b"[]", [])


def leave(hub: Hub) -> None:
    for departure in hub.seal():
        departure.subscriber.deliver(departure.frames, departure.items)


def test_bell_rings_once_a_turn_and_when_the_turn_leaves() -> None:
    hub = Hub()
    room = Room(hub)
    heard: list[str] = []
    bell.listen(room, lambda: heard.append("a"))
    bell.listen(room, lambda: heard.append("b"))
    commit(room, 1)
    commit(room, 2)
    assert heard == []
    leave(hub)
    assert heard == ["a", "b"]
    leave(hub)
    assert heard == ["a", "b"]


def test_listener_that_left_is_not_called() -> None:
    hub = Hub()
    room = Room(hub)
    heard: list[str] = []

    def one() -> None:
        heard.append("one")

    def other() -> None:
        heard.append("other")

    bell.listen(room, one)
    bell.listen(room, other)
    commit(room, 1)
    bell.ignore(room, one)
    leave(hub)
    assert heard == ["other"]
    bell.ignore(room, other)
    bell.ignore(room, other)
    assert room.bell is None
    commit(room, 2)
    assert hub.seal() == []


def test_listeners_are_not_in_the_room() -> None:
    room = Room(Hub())
    bell.listen(room, lambda: None)
    assert len(room) == 0
    assert room.subscribers() == []
