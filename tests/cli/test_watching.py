"""A watcher: every vector of resuming, gaps, and what it does when a connection ends."""

from __future__ import annotations

from typing import Any

import pytest

from panels_cli.watching import (
    MAX_WAIT_S,
    Changed,
    Gap,
    GiveUp,
    Greeted,
    Happened,
    Retry,
    Told,
    Watcher,
)
from tests.support.resume_runner import load


def watcher_at(seq: int, state: dict[str, Any]) -> Watcher:
    watcher = Watcher()
    watcher.hear({"type": "CONNECTED", "seq": seq, "epoch": "e", "state": state})
    return watcher


@pytest.mark.parametrize("vector", load(), ids=lambda vector: vector["name"])
def test_watcher_ends_as_a_vector_says(vector: dict[str, Any]) -> None:
    had, asks, sent = vector["had"], vector["asks"], vector["sent"]
    watcher = watcher_at(had["seq"], had["state"])
    heard = [watcher.hear(message) for message in had["heard"]]
    if asks["since"] != "none" and asks.get("epoch") == "current":
        assert watcher.query() == {"epoch": "e", "since": str(asks["since"])}
    greeting = {"type": "CONNECTED", "epoch": "e", **sent}
    if sent["seq"] == "last":
        greeting["seq"] = 99
    watcher.hear(greeting)
    then = vector.get("then", {"messages": []})["messages"]
    heard += [watcher.hear(message) for message in (*sent["messages"], *then)]
    assert not any(isinstance(item, Gap) for item in heard)
    ends = vector["ends"]
    assert watcher.state == ends["state"]
    assert watcher.position == (99 if ends["seq"] == "last" else ends["seq"])
    events = [[item.seq, item.name, item.payload] for item in heard if isinstance(item, Happened)]
    assert events == ends["events"]


def test_gap_makes_it_ask_for_everything() -> None:
    watcher = watcher_at(1, {})
    assert isinstance(watcher.hear({"type": "PATCH", "mutations": [], "seq": 3}), Gap)
    assert watcher.query() == {"epoch": "e", "since": "none"}
    again = watcher.hear({"type": "CONNECTED", "seq": 3, "epoch": "e", "state": {"a": 1}, "recovered": False})
    assert again == Greeted("resynced", 3, {}, {"a": 1})
    assert watcher.query() == {"epoch": "e", "since": "3"}


@pytest.mark.parametrize(
    "message",
    [
        {"type": "PATCH", "mutations": [], "seq": 1},
        {"type": "PATCH", "seq": 2},
        {"type": "PATCH", "mutations": [1], "seq": 2},
        {"type": "EVENT", "event": None, "seq": 2},
        {"type": "EVENT", "event": {}, "seq": "x"},
        {"type": "CONNECTED"},
    ],
)
def test_message_that_the_protocol_does_not_allow_is_a_gap(message: dict[str, Any]) -> None:
    assert isinstance(watcher_at(1, {}).hear(message), Gap)


def test_values_before_and_after_are_told() -> None:
    watcher = watcher_at(1, {"a": 1, "b": 2})
    mutations = [{"op": "set", "key": "a", "value": 3}, {"op": "delete", "key": "b"}]
    changed = watcher.hear({"type": "PATCH", "mutations": mutations, "seq": 2})
    assert changed == Changed(2, {"a": 1, "b": 2}, {"a": 3})
    assert isinstance(watcher.hear({"type": "PONG"}), Told)


def test_waits_grow_to_a_bound_and_begin_anew_after_a_greeting() -> None:
    watcher = watcher_at(1, {})
    waits = [watcher.closed(None, chance=1.0) for _ in range(20)]
    seconds = [wait.after_s for wait in waits if isinstance(wait, Retry)]
    assert len(seconds) == 20
    assert seconds == sorted(seconds)
    assert seconds[-1] == MAX_WAIT_S
    watcher.hear({"type": "CONNECTED", "seq": 1, "epoch": "e", "recovered": True})
    assert watcher.closed(1012, chance=1.0) == waits[0]


def test_some_ends_are_final() -> None:
    watcher = watcher_at(1, {})
    for code in (4401, 4404):
        assert isinstance(watcher.closed(code, chance=0), GiveUp)
    for status in (400, 401, 403, 404):
        assert isinstance(watcher.refused(status, chance=0), GiveUp)
    for status in (429, 503):
        assert isinstance(watcher.refused(status, chance=0), Retry)
    assert isinstance(watcher.unreachable(chance=0), Retry)
    assert isinstance(Watcher().unreachable(chance=0), GiveUp)
