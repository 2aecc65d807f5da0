"""Fan-out: who watches a panel, and what each watcher is sent of this turn.

During a turn commits are collected once per panel and answers once per client. ``Hub.seal`` at the end of the
turn returns every client's frames as one *departure*, in the order in which they arose, and forgets the turn;
the departures leave when the turn is durable, while later turns are collected already. Most clients hear
everything: for them the bytes of a turn are joined once and shared. A commit costs the same for any number of
such clients; a departure costs one write each.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.events import Event, heard_by
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.outbox import Commit
from panels_gateway.broadcast.topics import Interest, Topics
from panels_gateway.panels.panel import Mutation


class Subscriber(Protocol):
    """A client as the hub sees it.

    ``private`` and ``position`` belong to the hub: what only this client is sent this turn, each frame with
    the number of the room's commits that come before it; and the version of the last commit that it was told
    of, or that cannot concern it, which is kept only for clients whose topics are not the default.
    """

    topics: Topics
    private: list[tuple[int, bytes]]
    position: int

    @property
    def subject(self) -> str | None:
        """Who it is, None for nobody in particular."""
        ...

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        """Sends ``frames``.

        ``items`` is the same in parts, for a client that cannot write now and has to keep them.
        """


class Departure(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What one client is sent of one turn, as bytes and in parts."""

    subscriber: Subscriber
    frames: bytes
    items: list[Commit | bytes]


class Room:
    """One panel's watchers, and what the open turn has brought for them.

    ``seq`` is the last version published. ``listening`` are those who hear of presence. ``bell`` is sent
    nothing, and is delivered to whenever commits have become durable; see ``broadcast.bell``.
    """

    __slots__ = ("_everything", "_filtered", "_hub", "_turn", "bell", "listening", "seq")

    def __init__(self, hub: Hub, seq: int = 0) -> None:
        self._hub = hub
        self._everything: dict[Subscriber, None] = {}
        self._filtered: dict[Subscriber, None] = {}
        self._turn: list[Commit] = []
        self.listening: dict[Subscriber, None] = {}
        self.bell: Subscriber | None = None
        self.seq = seq

    def __len__(self) -> int:
        return len(self._everything) + len(self._filtered)

    def subscribers(self) -> list[Subscriber]:
        """All subscribers in this room."""
        return [*self._everything, *self._filtered]

    def join(self, subscriber: Subscriber) -> None:
        """Adds a client, or files it again after its topics changed.

        It hears what is published from now on.
        """
        self._collect_early()
        if subscriber not in self._filtered:
            subscriber.position = self.seq
        self.leave(subscriber)
        if subscriber.topics.interest.presence:
            self.listening[subscriber] = None
        # one that was not told of the last versions is to hear so with the next one, which the shared frames
        # cannot say
        if subscriber.topics.are_default and subscriber.position == self.seq:
            self._everything[subscriber] = None
        else:
            self._filtered[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """Removes a client; does nothing if it is not here."""
        self._everything.pop(subscriber, None)
        self._filtered.pop(subscriber, None)
        self.listening.pop(subscriber, None)

    def publish(
        self,
        seq: int,
        mutations: list[Mutation],
        mutations_json: bytes,
        events: list[Event],
    ) -> None:
        """Broadcasts one commit: its PATCH, then its ``events``, each to those whom it is for."""
        self.seq = seq
        if self._everything:
            fragments = [fragment for _, fragment, to in events if to is None]
            own = None
            if len(fragments) < len(events):
                own = _Addressed(seq, mutations, mutations_json, events)
            if not self._turn:
                self._hub.dirty_rooms.append(self)
            self._turn.append(_commit(seq, mutations, mutations_json, fragments, own))
        if self._filtered:
            self._publish_filtered(seq, mutations, mutations_json, events)
        bell = self.bell
        if bell is not None and not bell.private:
            self._hub.dirty_subscribers.append(bell)
            bell.private.append((0, b""))

    def _publish_filtered(
        self, seq: int, mutations: list[Mutation], mutations_json: bytes, events: list[Event]
    ) -> None:
        caught_up: list[Subscriber] = []
        commit = _Filtering(seq, mutations, mutations_json, events)
        for subscriber in self._filtered:
            interest = subscriber.topics.interest
            frame = commit.frames(interest, subscriber.position, subscriber.subject)
            if frame:
                self.send(subscriber, frame)
                subscriber.position = seq
                if interest.are_default:
                    caught_up.append(subscriber)
        for subscriber in caught_up:
            self.join(subscriber)

    def send(self, subscriber: Subscriber, frame: bytes) -> None:
        """Queues ``frame`` for one client, behind everything published so far."""
        if not subscriber.private:
            self._hub.dirty_subscribers.append(subscriber)
        subscriber.private.append((len(self._turn) if subscriber in self._everything else 0, frame))

    def collect(self, departures: list[Departure]) -> None:
        """Adds to ``departures`` what clients without a filter are sent, private frames included."""
        turn = self._turn
        if not turn:
            return
        self._turn = []
        shared: bytes | None = None
        whole: list[Commit | bytes] = []
        addressed = _addressed(turn)
        for subscriber in self._everything:
            private = subscriber.private
            if addressed and subscriber.subject in addressed:
                departures.append(_merged(subscriber, _heard_by(subscriber.subject, turn, addressed)))
                continue
            if private:
                departures.append(_merged(subscriber, turn))
                continue
            if shared is None:
                whole += turn
                shared = b"".join(
                    [part for commit in turn for part in (commit.patch_frame, commit.event_frames)]
                )
            departures.append(Departure(subscriber, shared, whole))

    def _collect_early(self) -> None:
        # a newcomer must not get what was published before it joined
        if self._turn:
            self._hub.dirty_rooms.remove(self)
            self.collect(self._hub.early)


class _Filtering:
    """One commit, as clients with different topics see it: matched and encoded once for each interest, and
    each of its changes once in all.
    """

    __slots__ = (
        "_events",
        "_fragments",
        "_frames",
        "_json",
        "_keys",
        "_mutations",
        "_order",
        "_parts",
        "_seq",
        "_subjects",
    )

    def __init__(
        self, seq: int, mutations: list[Mutation], mutations_json: bytes, events: list[Event]
    ) -> None:
        self._seq = seq
        self._mutations = mutations
        self._json = mutations_json
        self._events = events
        #: whom any of the events is for alone; everybody else hears the same
        self._subjects = {to for _, _, to in events if to is not None}
        self._parts: dict[tuple[Interest, str | None], tuple[bytes, list[bytes]]] = {}
        self._frames: dict[tuple[Interest | None, int, str | None], bytes] = {}
        #: The changed keys in order, with the places of their changes, and the changes as JSON.
        self._keys: list[str] | None = None
        self._order: list[int] = []
        self._fragments: list[bytes] = []

    def frames(self, interest: Interest, position: int, subject: str | None) -> bytes:
        """The frames for clients of ``subject`` with this interest that were last told of version
        ``position``; b"" if they get none.
        """
        if subject not in self._subjects:
            subject = None
        found = self._frames.get((interest, position, subject))
        if found is None:
            found = self._frames[interest, position, subject] = self._encoded(interest, position, subject)
        return found

    def _encoded(self, interest: Interest, position: int, subject: str | None) -> bytes:
        parts = self._parts.get((interest, subject))
        if parts is None:
            parts = self._patch(interest), self._wanted_events(interest, subject)
            self._parts[interest, subject] = parts
        patch, fragments = parts
        if patch is self._json and not fragments:
            # everything, whichever topics said so
            found = self._frames.get((None, position, None))
            if found is None:
                found = self._frames[None, position, None] = self._framed(patch, fragments, position)
            return found
        return self._framed(patch, fragments, position)

    def _framed(self, patch: bytes, fragments: list[bytes], position: int) -> bytes:
        seq = self._seq
        previous = position if position != seq - 1 else None
        frames = b""
        if patch:
            frames = text_frame(messages.patch(patch, seq, more=bool(fragments), previous=previous))
        if fragments:
            frames += _event_frames(fragments, seq, previous)
        return frames

    def _patch(self, interest: Interest) -> bytes:
        mutations, matcher = self._mutations, interest.keys
        if not mutations or interest.all_state:
            return self._json if mutations else b""
        if not (matcher.names or matcher.prefixes):
            return b""
        if len(mutations) == 1:
            return self._json if matcher.matches(mutations[0].key) else b""
        keys = self._keys
        if keys is None:
            self._order = sorted(range(len(mutations)), key=lambda place: mutations[place].key)
            keys = self._keys = [mutations[place].key for place in self._order]
        found = matcher.among(keys)
        count = sum([end - first for first, end in found])
        if not count:
            return b""
        if count == len(mutations):
            return self._json
        places = [place for first, end in found for place in self._order[first:end]]
        if not self._fragments:
            self._fragments = [messages.mutation_json(mutation) for mutation in mutations]
        places.sort()
        return b"[%b]" % b",".join([self._fragments[place] for place in places])

    def _wanted_events(self, interest: Interest, subject: str | None) -> list[bytes]:
        heard = heard_by(subject, self._events)
        if interest.all_events:
            return [fragment for _, fragment, _ in heard]
        matches = interest.events.matches
        return [fragment for name, fragment, _ in heard if matches(name)]


class _Addressed:
    """A commit with events that are for one subject each, as it is to be told to those."""

    __slots__ = ("_events", "_json", "_mutations", "_seq", "subjects")

    def __init__(
        self, seq: int, mutations: list[Mutation], mutations_json: bytes, events: list[Event]
    ) -> None:
        self._seq = seq
        self._mutations = mutations
        self._json = mutations_json
        self._events = events
        self.subjects = {to for _, _, to in events if to is not None}

    def heard_by(self, subject: str | None) -> Commit:
        """The commit as ``subject`` hears it."""
        fragments = [fragment for _, fragment, _ in heard_by(subject, self._events)]
        return _commit(self._seq, self._mutations, self._json, fragments, None)


def _commit(
    seq: int, mutations: list[Mutation], mutations_json: bytes, events: list[bytes], own: _Addressed | None
) -> Commit:
    """A commit for those who hear ``events`` of it. One that changed nothing is told too, because versions
    have no gaps.
    """
    patch, frames = _frames(seq, bool(mutations), mutations_json, events)
    return Commit(seq, seq, mutations, patch, frames, own)


def _frames(seq: int, changed: bool, mutations_json: bytes, events: list[bytes]) -> tuple[bytes, bytes]:
    """The PATCH and the EVENTs of a commit for those who hear ``events``; ``changed``: it has mutations."""
    patch = frames = b""
    if changed or not events:
        patch = text_frame(messages.patch(mutations_json, seq, more=bool(events)))
    if len(events) == 1:
        frames = text_frame(messages.event(events[0], seq))
    elif events:
        frames = _event_frames(events, seq)
    return patch, frames


def _addressed(turn: list[Commit]) -> dict[str, list[Commit] | None] | None:
    """The subjects that events of the turn are for alone. None where there are none, as in most turns."""
    found: dict[str, list[Commit] | None] | None = None
    for commit in turn:
        if commit.own is not None:
            found = found if found is not None else {}
            found.update(dict.fromkeys(commit.own.subjects))
    return found


def _heard_by(
    subject: str | None, turn: list[Commit], addressed: dict[str, list[Commit] | None]
) -> list[Commit]:
    """The turn as ``subject`` hears it, made once for all its clients."""
    assert subject is not None
    own = addressed[subject]
    if own is None:
        own = addressed[subject] = [
            commit if commit.own is None else commit.own.heard_by(subject) for commit in turn
        ]
    return own


def commit_frames(
    topics: Topics, seq: int, position: int, mutations_json: bytes, events: list[Event], subject: str | None
) -> bytes:
    """The frames of a commit that is replayed from history to ``subject``; b"" if it does not concern these
    topics.
    """
    if topics.are_default:
        fragments = [fragment for _, fragment, _ in heard_by(subject, events)]
        return b"".join(_frames(seq, mutations_json != b"[]", mutations_json, fragments))
    mutations = messages.decode_mutations(mutations_json)
    return _Filtering(seq, mutations, mutations_json, events).frames(topics.interest, position, subject)


def _event_frames(fragments: list[bytes], seq: int, previous: int | None = None) -> bytes:
    last = len(fragments) - 1
    return b"".join(
        [
            text_frame(messages.event(fragment, seq, more=number < last, previous=previous))
            for number, fragment in enumerate(fragments)
        ]
    )


def _merged(subscriber: Subscriber, turn: list[Commit]) -> Departure:
    """What a client is sent that hears everything: the turn's commits, with its own frames in their
    places.
    """
    items: list[Commit | bytes] = []
    parts: list[bytes] = []
    private = subscriber.private
    # the end of the turn, as one more place
    private.append((len(turn), b""))
    done = 0
    for place, frame in private:
        while done < place:
            commit = turn[done]
            done += 1
            items.append(commit)
            parts.append(commit.patch_frame)
            parts.append(commit.event_frames)
        if frame:
            items.append(frame)
            parts.append(frame)
    private.clear()
    return Departure(subscriber, b"".join(parts), items)


class Hub:
    """The rooms and clients with something to send.

    ``early`` is what was collected before the end of the turn.
    """

    __slots__ = ("dirty_rooms", "dirty_subscribers", "early")

    def __init__(self) -> None:
        self.dirty_rooms: list[Room] = []
        self.dirty_subscribers: list[Subscriber] = []
        self.early: list[Departure] = []

    def seal(self) -> list[Departure]:
        """Returns everything queued since the last call.

        There is one departure for each client, or several if somebody joined meanwhile.
        """
        departures, self.early = self.early, []
        if self.dirty_rooms:
            rooms, self.dirty_rooms = self.dirty_rooms, []
            for room in rooms:
                room.collect(departures)
        if self.dirty_subscribers:
            subscribers, self.dirty_subscribers = self.dirty_subscribers, []
            for subscriber in subscribers:
                private = subscriber.private
                if private:
                    frames = [frame for _, frame in private]
                    private.clear()
                    departures.append(Departure(subscriber, b"".join(frames), list(frames)))
        return departures
