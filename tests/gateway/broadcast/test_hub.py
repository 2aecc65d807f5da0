from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.events import Event
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.hub import Hub, Room
from panels_gateway.broadcast.outbox import Commit
from panels_gateway.broadcast.topics import Topics
from tests.gateway.builders import payloads, setting


class FakeSubscriber:
    """Keeps what it is delivered."""

    def __init__(self, *topics: str, subject: str | None = None) -> None:
        self.subject = subject
        self.topics = Topics()
        if topics:
            self.topics.remove(["state", "events"])
            self.topics.add(topics)
        self.private: list[tuple[int, bytes]] = []
        self.position = 0
        self.congested = False
        self.writes: list[bytes] = []
        self.kept: list[Commit | bytes] = []

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        assert b"".join([item if isinstance(item, bytes) else item.frames for item in items]) == frames
        if self.congested:
            self.kept += items
        self.writes.append(frames)

    @property
    def heard(self) -> list[str]:
        """Everything delivered, one word a message."""
        found = []
        for payload in payloads(b"".join(self.writes)):
            message = json.loads(payload)
            kind = message["type"]
            if kind == "PATCH":
                found.append(f"patch{message['seq']}" + "".join(":" + m["key"] for m in message["mutations"]))
            elif kind == "EVENT":
                found.append(f"event{message['seq']}:{message['event']['name']}")
            else:
                found.append(message["code"])
        return found


def depart(hub: Hub) -> None:
    for departure in hub.seal():
        departure.subscriber.deliver(departure.frames, departure.items)


def publish(room: Room, seq: int, key: str = "k", *events: str) -> None:
    mutations = [setting(key, seq)] if key else []
    fragments: list[Event] = []
    for event in events:
        name, _, to = event.partition("@")
        fragments.append((name, b'{"name":"%b","payload":null,"timestamp":1}' % name.encode(), to or None))
    room.publish(seq, mutations, messages.mutations_json(mutations), fragments)


def answer(word: str) -> bytes:
    return text_frame(b'{"type":"RESULT","code":"%b"}' % word.encode())


def test_hub_gives_the_caller_patch_events_and_result_in_one_write() -> None:
    hub = Hub()
    room = Room(hub)
    caller, other = FakeSubscriber(), FakeSubscriber()
    room.join(caller)
    room.join(other)
    publish(room, 1, "k", "a", "b")
    room.send(caller, answer("result"))
    depart(hub)
    assert caller.heard == ["patch1:k", "event1:a", "event1:b", "result"]
    assert other.heard == ["patch1:k", "event1:a", "event1:b"]
    assert len(caller.writes) == len(other.writes) == 1


def test_event_for_one_subject_is_told_to_all_its_clients_and_to_nobody_else() -> None:
    hub = Hub()
    room = Room(hub)
    ada, also_ada = FakeSubscriber(subject="ada"), FakeSubscriber(subject="ada")
    only_x = FakeSubscriber("event:x", subject="ada")
    bob, nobody = FakeSubscriber(subject="bob"), FakeSubscriber()
    everyone = (ada, also_ada, only_x, bob, nobody)
    for subscriber in everyone:
        room.join(subscriber)
    publish(room, 1)
    publish(room, 2, "k", "x@ada", "all", "y@bob")
    room.send(bob, answer("result"))
    publish(room, 3, "", "x@ada")
    depart(hub)
    assert ada.heard == also_ada.heard == ["patch1:k", "patch2:k", "event2:x", "event2:all", "event3:x"]
    assert only_x.heard == ["event2:x", "event3:x"]
    # a version that told bob nothing is told all the same: versions have no gaps
    assert bob.heard == ["patch1:k", "patch2:k", "event2:all", "event2:y", "result", "patch3"]
    assert nobody.heard == ["patch1:k", "patch2:k", "event2:all", "patch3"]
    for subscriber in everyone:
        told = [json.loads(payload) for payload in payloads(b"".join(subscriber.writes))]
        for this, following in pairwise(message for message in told if "seq" in message):
            assert this.get("more", False) == (this["seq"] == following["seq"])


def test_hub_writes_nothing_twice_and_nothing_when_there_is_nothing() -> None:
    hub = Hub()
    room = Room(hub)
    subscriber = FakeSubscriber()
    room.join(subscriber)
    publish(room, 1)
    depart(hub)
    depart(hub)
    assert subscriber.heard == ["patch1:k"]
    assert len(subscriber.writes) == 1


def test_hub_tells_of_a_commit_that_changed_nothing_so_that_versions_have_no_gap() -> None:
    hub = Hub()
    room = Room(hub)
    everything, filtered = FakeSubscriber(), FakeSubscriber("state:k")
    room.join(everything)
    room.join(filtered)
    publish(room, 1, "")
    publish(room, 2)
    depart(hub)
    assert everything.heard == ["patch1", "patch2:k"]
    assert filtered.heard == ["patch2:k"]
    assert json.loads(payloads(filtered.writes[0])[0])["prevSeq"] == 0


def test_hub_says_more_on_all_messages_of_a_commit_but_its_last() -> None:
    hub = Hub()
    room = Room(hub)
    everything, filtered = FakeSubscriber(), FakeSubscriber("events")
    room.join(everything)
    room.join(filtered)
    publish(room, 1, "k", "a", "b")
    depart(hub)
    for subscriber, expected in ((everything, [True, True, False]), (filtered, [True, False])):
        told = [json.loads(payload) for payload in payloads(b"".join(subscriber.writes))]
        assert [message.get("more", False) for message in told] == expected


def test_hub_lets_a_sealed_turn_leave_while_the_next_one_is_open() -> None:
    hub = Hub()
    room = Room(hub)
    subscriber = FakeSubscriber()
    room.join(subscriber)
    publish(room, 1)
    first = hub.seal()
    publish(room, 2)
    room.send(subscriber, answer("result"))
    second = hub.seal()
    assert subscriber.heard == []
    for departure in [*first, *second]:
        departure.subscriber.deliver(departure.frames, departure.items)
    assert subscriber.heard == ["patch1:k", "patch2:k", "result"]
    assert hub.seal() == []


def test_hub_tells_a_filtered_client_only_what_it_wants() -> None:
    hub = Hub()
    room = Room(hub)
    one = FakeSubscriber("state:a", "event:x*")
    all_state = FakeSubscriber("state")
    for subscriber in (one, all_state):
        room.join(subscriber)
    publish(room, 1, "a", "x1", "y")
    publish(room, 2, "b", "y")
    depart(hub)
    assert one.heard == ["patch1:a", "event1:x1"]
    assert all_state.heard == ["patch1:a", "patch2:b"]


def test_hub_tells_a_client_that_joins_only_what_comes_after() -> None:
    hub = Hub()
    room = Room(hub)
    early, late = FakeSubscriber(), FakeSubscriber()
    room.join(early)
    publish(room, 1)
    room.join(late)
    room.send(late, answer("connected"))
    publish(room, 2)
    depart(hub)
    assert early.heard == ["patch1:k", "patch2:k"]
    assert late.heard == ["connected", "patch2:k"]


def test_hub_keeps_commits_whole_for_a_congested_client() -> None:
    hub = Hub()
    room = Room(hub)
    slow = FakeSubscriber()
    slow.congested = True
    room.join(slow)
    publish(room, 1, "k", "e")
    room.send(slow, answer("result"))
    depart(hub)
    assert [type(item) for item in slow.kept] == [Commit, bytes]


def test_hub_forgets_a_client_that_left() -> None:
    hub = Hub()
    room = Room(hub)
    subscriber = FakeSubscriber()
    room.join(subscriber)
    publish(room, 1)
    room.leave(subscriber)
    room.leave(subscriber)
    depart(hub)
    assert subscriber.heard == []
    assert len(room) == 0


steps = st.lists(
    st.one_of(
        st.just("publish"),
        st.just("flush"),
        st.tuples(st.just("send"), st.integers(0, 2)),
        st.tuples(st.just("filter"), st.integers(0, 2)),
    ),
    max_size=30,
)


@given(steps)
def test_hub_keeps_every_client_s_order_and_loses_nothing(run: list[str | tuple[str, int]]) -> None:
    hub = Hub()
    room = Room(hub)
    subscribers = [FakeSubscriber() for _ in range(3)]
    expected: list[list[str]] = [[], [], []]
    for subscriber in subscribers:
        room.join(subscriber)
    seq = 0
    for step in run:
        if step == "publish":
            seq += 1
            publish(room, seq, "k", "e")
            for subscriber, words in zip(subscribers, expected, strict=True):
                words.append(f"patch{seq}:k")
                if subscriber.topics.want_event("e"):
                    words.append(f"event{seq}:e")
        elif step == "flush":
            depart(hub)
        elif step[0] == "send":
            room.send(subscribers[int(step[1])], answer(f"answer{seq}"))
            expected[int(step[1])].append(f"answer{seq}")
        else:
            subscriber = subscribers[int(step[1])]
            subscriber.topics.remove(["events"])
            room.join(subscriber)
    depart(hub)
    assert [subscriber.heard for subscriber in subscribers] == expected


def test_commit_is_encoded_once_for_clients_with_the_same_topics() -> None:
    hub = Hub()
    room = Room(hub)
    alike = [FakeSubscriber("state:a*", "event:x") for _ in range(3)]
    other = FakeSubscriber("state:b")
    for subscriber in (*alike, other):
        room.join(subscriber)
    mutations = [setting(key, 1) for key in ("b", "a2", "c", "a1")]
    events: list[Event] = [
        (name, b'{"name":"%b","payload":null,"timestamp":1}' % name.encode(), None) for name in "xy"
    ]
    room.publish(1, mutations, messages.mutations_json(mutations), events)
    depart(hub)
    assert [subscriber.heard for subscriber in alike] == [["patch1:a2:a1", "event1:x"]] * 3
    assert len({id(subscriber.writes[0]) for subscriber in alike}) == 1
    assert other.heard == ["patch1:b"]


@given(
    st.lists(st.sampled_from(["a", "ab", "b", "c"]), max_size=6),
    st.sets(st.sampled_from(["a*", "ab", "b", "c*"])),
)
def test_filtered_patch_has_the_wanted_changes_in_their_order(keys: list[str], wanted: set[str]) -> None:
    hub = Hub()
    room = Room(hub)
    subscriber = FakeSubscriber("event:none", *(f"state:{text}" for text in wanted))
    room.join(subscriber)
    mutations = [setting(key, number) for number, key in enumerate(keys)]
    room.publish(1, mutations, messages.mutations_json(mutations), [])
    depart(hub)
    shown = [key for key in keys if key in wanted or (key[0] + "*") in wanted]
    assert subscriber.heard == (["patch1:" + ":".join(shown)] if shown else [])
