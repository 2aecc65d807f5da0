"""Fan-out: who watches a panel, and what of this loop turn each of them is to be sent.

During a turn commits are collected once per panel and answers once per client; ``Hub.flush`` at its end gives every
client all its frames in one write, in the order they arose. Most clients hear everything: for them the turn's bytes are
joined once and shared. The cost of a commit does not depend on the number of clients; that of a flush is one write each.
"""

from __future__ import annotations

from typing import Protocol

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.outbox import Commit
from panels_gateway.broadcast.topics import Topics
from panels_gateway.panels.panel import Mutation


class Subscriber(Protocol):
    """A client as the hub sees it. ``private`` is the hub's: what only this client is sent this turn, each with the
    number of the room's commits that come before it."""

    topics: Topics
    private: list[tuple[int, bytes]]

    def deliver(self, frames: bytes, items: list[Commit | bytes] | None) -> None:
        """Sends ``frames``. ``items`` is the same in parts, None where it was not needed to take it apart; a client that
        cannot write now keeps them (``Hub.flush`` asks ``congested`` first)."""

    @property
    def congested(self) -> bool:
        """Whether frames have to wait, so that ``items`` are wanted."""
        ...


class Room:
    """One panel's watchers and what its turn has brought so far."""

    __slots__ = ("_everything", "_filtered", "_hub", "_turn")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._everything: dict[Subscriber, None] = {}
        self._filtered: dict[Subscriber, None] = {}
        self._turn: list[Commit] = []

    def __len__(self) -> int:
        return len(self._everything) + len(self._filtered)

    def subscribers(self) -> list[Subscriber]:
        """Everyone here."""
        return [*self._everything, *self._filtered]

    def join(self, subscriber: Subscriber) -> None:
        """Adds a client, or sorts it anew after its topics changed. It hears what comes from now on."""
        self._flush_room()
        self.leave(subscriber)
        if subscriber.topics.are_default:
            self._everything[subscriber] = None
        else:
            self._filtered[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """Removes a client; nothing happens when it is not here."""
        self._everything.pop(subscriber, None)
        self._filtered.pop(subscriber, None)

    def publish(
        self,
        seq: int,
        mutations: list[Mutation],
        mutations_json: bytes,
        events: list[tuple[str, bytes]],
    ) -> None:
        """Broadcasts one commit: its PATCH to whoever wants the state, then its EVENTs (name, JSON object)."""
        if self._everything:
            patch = text_frame(messages.patch(mutations_json, seq)) if mutations else b""
            frames = (
                b"".join([text_frame(messages.event(fragment, seq)) for _, fragment in events])
                if events
                else b""
            )
            if patch or frames:
                if not self._turn:
                    self._hub.dirty_rooms.append(self)
                self._turn.append(Commit(seq, seq, mutations, patch, frames))
        for subscriber in self._filtered:
            self._publish_filtered(subscriber, seq, mutations, mutations_json, events)

    def send(self, subscriber: Subscriber, frame: bytes) -> None:
        """Queues ``frame`` for one client, behind everything published so far."""
        if not subscriber.private:
            self._hub.dirty_subscribers.append((self, subscriber))
        subscriber.private.append((len(self._turn) if subscriber in self._everything else 0, frame))

    def _publish_filtered(
        self,
        subscriber: Subscriber,
        seq: int,
        mutations: list[Mutation],
        mutations_json: bytes,
        events: list[tuple[str, bytes]],
    ) -> None:
        topics = subscriber.topics
        if mutations:
            if topics.all_state:
                self.send(subscriber, text_frame(messages.patch(mutations_json, seq)))
            elif wanted := [mutation for mutation in mutations if topics.want_key(mutation.key)]:
                fragment = messages.mutations_json(wanted)
                self.send(subscriber, text_frame(messages.patch(fragment, seq)))
        for name, fragment in events:
            if topics.want_event(name):
                self.send(subscriber, text_frame(messages.event(fragment, seq)))

    def flush(self) -> None:
        """Delivers the turn to everyone who hears everything, with their private frames in place."""
        turn = self._turn
        if not turn:
            return
        self._turn = []
        shared: bytes = b"".join(
            [part for commit in turn for part in (commit.patch_frame, commit.event_frames)]
        )
        for subscriber in list(self._everything):
            private = subscriber.private
            if not private and not subscriber.congested:
                subscriber.deliver(shared, None)
                continue
            items: list[Commit | bytes] = []
            done = 0
            for position, frame in private:
                items += turn[done:position]
                done = position
                items.append(frame)
            items += turn[done:]
            private.clear()
            _deliver(subscriber, items)

    def _flush_room(self) -> None:
        if self._turn:
            self._hub.dirty_rooms.remove(self)
            self.flush()


def _deliver(subscriber: Subscriber, items: list[Commit | bytes]) -> None:
    frames = b"".join([item if isinstance(item, bytes) else item.frames for item in items])
    subscriber.deliver(frames, items if subscriber.congested else None)


class Hub:
    """The rooms with something to send, and the flush at the end of a loop turn."""

    __slots__ = ("dirty_rooms", "dirty_subscribers")

    def __init__(self) -> None:
        self.dirty_rooms: list[Room] = []
        self.dirty_subscribers: list[tuple[Room, Subscriber]] = []

    def flush(self) -> None:
        """Delivers everything queued since the last flush."""
        if self.dirty_rooms:
            rooms, self.dirty_rooms = self.dirty_rooms, []
            for room in rooms:
                room.flush()
        if self.dirty_subscribers:
            subscribers, self.dirty_subscribers = self.dirty_subscribers, []
            for _, subscriber in subscribers:
                private = subscriber.private
                if private:  # else it went with its room
                    items: list[Commit | bytes] = [frame for _, frame in private]
                    private.clear()
                    _deliver(subscriber, items)
