"""The sans-I/O peer, by example and by random conversations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panels_shared.messages import Drain, Forget, Goodbye, Heartbeat, Hello, ToWorker, Welcome
from panels_shared.wire import encode
from panels_worker.bus.peer import HELLO_INTERVAL_S, MAX_BAD_FRAMES, TRANSITIONS, Peer, Phase

HELLO = Hello("sandbox", b"p" * 16, 1, {})
FIRST = Welcome(b"first", 500)
SECOND = Welcome(b"second", 500)


def joined() -> Peer:
    peer = Peer(lambda: HELLO, now_s=0.0)
    peer.tick(0.0)
    peer.feed(encode([FIRST]), 0.1)
    peer.drain()
    peer.take_reset()
    return peer


def test_peer_says_hello_every_second_until_it_is_welcome() -> None:
    peer = Peer(lambda: HELLO, now_s=0.0)
    for now_s in (0.0, 0.4, 1.0, 1.9, 2.0):
        peer.tick(now_s)
    assert peer.drain() == [HELLO] * 3
    peer.feed(encode([FIRST]), 2.1)
    peer.tick(3.5)
    assert peer.drain() == []
    assert peer.phase is Phase.JOINED


def test_peer_delivers_nothing_before_it_is_welcome() -> None:
    peer = Peer(lambda: HELLO, now_s=0.0)
    assert peer.feed(encode([Forget(1, ())]), 0.0) == ()
    assert peer.phase is Phase.JOINING


def test_peer_says_hello_again_when_the_gateway_is_silent() -> None:
    peer = joined()
    peer.tick(1.9)
    assert peer.drain() == []
    peer.tick(2.2)
    assert peer.phase is Phase.JOINING
    assert peer.drain() == [HELLO]


def test_peer_keeps_everything_when_the_same_session_returns() -> None:
    peer = joined()
    peer.tick(5.0)
    assert list(peer.feed(encode([FIRST, Forget(1, ())]), 5.1)) == [Forget(1, ())]
    assert not peer.take_reset()
    assert peer.phase is Phase.JOINED


def test_peer_forgets_everything_when_the_session_is_new() -> None:
    peer = joined()
    messages = peer.feed(encode([Forget(1, ()), SECOND, Forget(2, ())]), 0.2)
    assert peer.take_reset()
    assert not peer.take_reset()
    assert list(messages) == [Forget(2, ())]


def test_peer_takes_any_frame_for_life() -> None:
    peer = joined()
    for now_s in (1.5, 3.0, 4.5):
        peer.feed(encode([Forget(1, ())]), now_s)
        peer.tick(now_s + 0.1)
    assert peer.phase is Phase.JOINED


def test_peer_begins_anew_after_a_bad_frame() -> None:
    peer = joined()
    assert peer.feed(b"\xc1", 1.0) == ()
    assert peer.take_reset()
    assert peer.drain() == [Goodbye(draining=False)]
    assert peer.deadline_s == 1.0 + HELLO_INTERVAL_S
    peer.tick(1.5)
    assert peer.drain() == []
    peer.tick(2.0)
    assert peer.drain() == [HELLO]
    peer.feed(encode([FIRST]), 2.1)
    assert peer.take_reset()


def test_peer_gives_up_on_a_gateway_that_sends_only_bad_frames() -> None:
    peer = joined()
    for _ in range(MAX_BAD_FRAMES):
        assert not peer.hopeless
        peer.feed(b"", 1.0)
    assert peer.hopeless


@pytest.mark.parametrize(
    "welcome", [Welcome(b"x", 0), Welcome(b"x", 10**9), Welcome(b"", 500), Welcome(b"x" * 65, 500)]
)
def test_peer_refuses_a_welcome_out_of_bounds(welcome: Welcome) -> None:
    peer = Peer(lambda: HELLO, now_s=0.0)
    peer.feed(encode([welcome]), 0.0)
    assert (peer.take_reset(), peer.session) == (True, None)


def test_peer_refuses_a_message_meant_for_the_other_side() -> None:
    peer = joined()
    peer.feed(encode([Heartbeat(b"w", 0)]), 0.2)
    assert (peer.take_reset(), peer.session) == (True, None)


def test_peer_leaves_in_two_steps() -> None:
    peer = joined()
    peer.leave()
    peer.leave()
    assert peer.drain() == [Goodbye(draining=True)]
    assert list(peer.feed(encode([Forget(1, ())]), 0.2)) == [Forget(1, ())]
    peer.depart()
    peer.depart()
    assert peer.drain() == [Goodbye(draining=False)]
    assert peer.feed(encode([Forget(1, ())]), 0.3) == ()


def test_peer_leaves_when_the_gateway_drains_it() -> None:
    peer = joined()
    assert list(peer.feed(encode([Forget(1, ()), Drain()]), 0.2)) == [Forget(1, ())]
    assert peer.drain() == [Goodbye(draining=True)]
    assert not peer.fenced
    peer.feed(encode([Drain()]), 0.3)
    assert peer.fenced


def test_pool_stays_when_the_gateway_drains_it() -> None:
    peer = Peer(lambda: HELLO, now_s=0.0, drainable=False)
    peer.feed(encode([FIRST, Drain()]), 0.0)
    assert peer.phase is Phase.JOINED
    assert peer.drain() == []


def test_peer_says_hello_at_once_after_it_was_stopped_itself() -> None:
    peer = joined()
    peer.rejoin(0.5)
    assert peer.drain() == [HELLO]


MESSAGES: st.SearchStrategy[ToWorker] = st.sampled_from(
    [FIRST, SECOND, Drain(), Forget(1, ()), Welcome(b"", 1)]
)
EVENTS = st.one_of(
    st.tuples(st.just("frame"), st.lists(MESSAGES, min_size=1, max_size=4).map(encode)),
    st.tuples(st.just("frame"), st.binary(max_size=12)),
    st.tuples(st.sampled_from(["tick", "leave", "depart", "rejoin"]), st.just(b"")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), EVENTS), max_size=30), st.booleans())
def test_peer_keeps_its_promises_in_any_conversation(
    events: list[tuple[float, tuple[str, bytes]]], drainable: bool
) -> None:
    peer = Peer(lambda: HELLO, now_s=0.0, drainable=drainable)
    now_s, session, said = 0.0, None, []
    for pause_s, (event, frame) in events:
        now_s += pause_s
        before = peer.phase
        if event == "frame":
            messages = peer.feed(frame, now_s)
            reset = peer.take_reset()
            assert not messages or peer.session is not None
            assert all(isinstance(message, Forget) for message in messages)
            if peer.session != session:
                assert reset
            session = peer.session
        elif event == "tick":
            peer.tick(now_s)
            assert peer.deadline_s is None or peer.deadline_s > now_s
        elif event == "leave":
            peer.leave()
        elif event == "depart":
            peer.depart()
        else:
            peer.rejoin(now_s)
        said += peer.drain()
        if peer.phase is not before and event != "frame":
            assert (before, peer.phase) in TRANSITIONS or (before, peer.phase) == (Phase.JOINED, Phase.LEFT)
    if peer.phase is Phase.LEFT:
        assert said[-1] == Goodbye(draining=False)


def test_peer_asks_for_its_hello_each_time() -> None:
    """What it proves itself with may not be there yet, or may have changed."""
    other = Hello("sandbox", b"p" * 16, 1, {}, b"another credential")
    hellos = iter([None, HELLO, other])
    peer = Peer(lambda: next(hellos), now_s=0.0)
    said = []
    for now_s in (0.0, 1.0, 2.0):
        peer.tick(now_s)
        said.append(peer.drain())
    assert said == [[], [HELLO], [other]]


def test_peer_is_silent_after_as_long_as_it_takes_to_be_lost() -> None:
    peer = Peer(lambda: HELLO, now_s=10.0)
    assert not peer.silent(11.9)
    assert peer.silent(12.1)
