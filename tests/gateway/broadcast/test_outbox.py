from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.outbox import Commit, Outbox, OutboxLimits
from panels_gateway.observe.counters import OutboxCounters
from tests.gateway.builders import payloads, setting


def commit(seq: int, key: str, value: object, event: bytes = b"") -> Commit:
    mutations = [setting(key, value)]
    payload = messages.patch(messages.mutations_json(mutations), seq)
    return Commit(seq, seq, mutations, text_frame(payload), text_frame(event) if event else b"")


def test_outbox_gives_back_in_order_what_was_put() -> None:
    outbox = Outbox(OutboxLimits())
    outbox.put([commit(1, "a", 1, b'{"e":1}'), text_frame(b'"answer"')])
    kinds = payloads(outbox.drain(1 << 20))
    assert len(kinds) == 3
    assert kinds[1:] == [b'{"e":1}', b'"answer"']
    assert not outbox
    assert outbox.size_bytes == 0


def test_outbox_drains_at_least_one_item_of_any_size() -> None:
    outbox = Outbox(OutboxLimits())
    outbox.put([text_frame(b"x" * 1000), text_frame(b"y")])
    assert len(payloads(outbox.drain(1))) == 1
    assert outbox


def test_outbox_merges_patches_above_its_soft_bound() -> None:
    outbox = Outbox(OutboxLimits(soft_bytes=500, hard_bytes=100_000))
    for seq in range(1, 51):
        assert outbox.put([commit(seq, f"k{seq % 2}", seq, b'"e%d"' % seq)])
    assert outbox.put([text_frame(b'"answer"')])
    got = [msgspec.json.decode(payload) for payload in payloads(outbox.drain(1 << 20))]
    patches = [message for message in got if isinstance(message, dict)]
    assert len(patches) < 50
    state: dict[str, object] = {}
    seen = 0
    for patch in patches:
        assert patch.get("firstSeq", patch["seq"]) == seen + 1
        seen = patch["seq"]
        for mutation in patch["mutations"]:
            state[mutation["key"]] = mutation["value"]
    assert seen == 50
    assert state == {"k0": 50, "k1": 49}
    assert [message for message in got if isinstance(message, str)] == [f"e{n}" for n in range(1, 51)] + [
        "answer"
    ]


def test_outbox_says_more_on_a_merged_patch_while_events_of_its_commits_follow() -> None:
    """A client that is cut off in between must not believe that it has everything up to the patch's
    version.
    """
    for event in (b"", b'"e"'):
        outbox = Outbox(OutboxLimits(soft_bytes=1, hard_bytes=100_000))
        outbox.put([commit(1, "k", 1), commit(2, "k", 2), commit(3, "k", 3, event)])
        merged = msgspec.json.decode(payloads(outbox.drain(1 << 20))[0])
        assert (merged["firstSeq"], merged["seq"], merged.get("more", False)) == (1, 3, bool(event))


def test_outbox_says_when_a_client_is_too_far_behind() -> None:
    outbox = Outbox(OutboxLimits(soft_bytes=100, hard_bytes=400))
    assert outbox.put([text_frame(b"x" * 300)])
    assert not outbox.put([text_frame(b"x" * 300)])


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99), st.booleans()), max_size=40),
    st.integers(60, 2000),
)
def test_outbox_leads_to_the_same_state_however_it_merges(
    run: list[tuple[str, int, bool]], soft: int
) -> None:
    outbox = Outbox(OutboxLimits(soft_bytes=soft, hard_bytes=1 << 30))
    model: dict[str, int] = {}
    events: list[int] = []
    for seq, (key, value, with_event) in enumerate(run, 1):
        outbox.put([commit(seq, key, value, b"%d" % seq if with_event else b"")])
        model[key] = value
        if with_event:
            events.append(seq)
    state: dict[str, int] = {}
    heard: list[int] = []
    while outbox:
        for payload in payloads(outbox.drain(200)):
            message = msgspec.json.decode(payload)
            if isinstance(message, int):
                heard.append(message)
            else:
                state.update({m["key"]: m["value"] for m in message["mutations"]})
    assert (state, heard) == (model, events)


def test_what_waits_in_all_outboxes_is_counted_until_their_clients_are_gone() -> None:
    counters = OutboxCounters()
    first, second = (Outbox(OutboxLimits(soft_bytes=100, hard_bytes=10_000), counters) for _ in range(2))
    first.put([b"x" * 60])
    second.put([b"y" * 50])
    assert counters.bytes == first.size_bytes + second.size_bytes == 110
    first.drain(1_000)
    assert counters.bytes == 50
    second.clear()
    assert (counters.bytes, bool(second)) == (0, False)
