"""Wakes those who read a panel's stream when a turn with a commit of the panel has left.

    Room.publish ──▶ Hub ──seal──▶ departure ──durable──▶ Bell.deliver ──▶ each reader looks at history

A reader is told nothing but that there is something: it takes what it has not sent yet from the panel's
history, as much at a time as its socket takes. So nothing is queued for a reader, however slow it is, and a
commit costs the same for any number of readers. A bell is in no room's count: a panel that is only read is
not watched, and its ``mount`` tools do not run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from panels_gateway.broadcast.topics import Topics

if TYPE_CHECKING:
    from panels_gateway.broadcast.hub import Room
    from panels_gateway.broadcast.outbox import Commit


class Bell:
    """The bell of one room; see the module's docstring. It is there while anybody listens."""

    __slots__ = ("_listeners", "_room", "position", "private", "subject", "topics")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._listeners: dict[Callable[[], None], None] = {}
        self.topics = Topics()
        self.private: list[tuple[int, bytes]] = []
        self.position = 0
        self.subject: str | None = None

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        """From the turn: commits of the panel are durable."""
        for listener in self._listeners:
            listener()


def listen(room: Room, listener: Callable[[], None]) -> None:
    """Has ``listener`` called whenever commits of the room's panel have become durable. It may not raise, and
    adds and removes no listeners.
    """
    bell = room.bell
    if bell is None:
        bell = room.bell = Bell(room)
    assert isinstance(bell, Bell)
    bell._listeners[listener] = None


def ignore(room: Room, listener: Callable[[], None]) -> None:
    """It is called no more. Does nothing if it was not to be called."""
    bell = room.bell
    if isinstance(bell, Bell):
        bell._listeners.pop(listener, None)
        if not bell._listeners:
            room.bell = None
