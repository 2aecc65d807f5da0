from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.panels.panel import CommitRefusedError, Mutation, StateLimits
from tests.gateway.builders import deleting, make_panel, setting

keys = st.sampled_from(["a", "b", "c", "long key", "ü"])
values = st.one_of(st.integers(0, 9), st.text(max_size=5), st.lists(st.integers(0, 3), max_size=3))
commits = st.lists(
    st.lists(st.one_of(st.builds(setting, keys, values), st.builds(deleting, keys)), min_size=1, max_size=4),
    max_size=12,
)


def test_panel_counts_one_version_per_commit() -> None:
    panel = make_panel()
    assert panel.commit([setting("a", 1), setting("b", 2)]) == 1
    assert panel.commit([deleting("a")]) == 2
    assert panel.state == {"b": b"2"}


def test_panel_changes_nothing_when_a_commit_is_refused_for_its_size() -> None:
    panel = make_panel({"a": b"1"}, limits=StateLimits(bytes=10))
    with pytest.raises(CommitRefusedError, match="at most 10 bytes"):
        panel.commit([setting("a", 2), setting("b", "x" * 20)])
    assert panel.state == {"a": b"1"}
    assert panel.seq == 0


def test_panel_over_its_bound_may_still_shrink() -> None:
    panel = make_panel({"a": b"1" * 30}, limits=StateLimits(bytes=10))
    assert panel.commit([setting("a", "x" * 15)]) == 1


def test_panel_refuses_a_key_that_is_too_long() -> None:
    with pytest.raises(CommitRefusedError, match="256 characters"):
        make_panel().commit([setting("k" * 257, 1)])


def test_panel_refuses_too_many_keys() -> None:
    panel = make_panel(limits=StateLimits(keys=2))
    panel.commit([setting("a", 1), setting("b", 1)])
    with pytest.raises(CommitRefusedError, match="at most 2 state keys"):
        panel.commit([setting("c", 1)])
    panel.commit([deleting("a"), setting("c", 1)])


def test_panel_refuses_a_set_without_value() -> None:
    with pytest.raises(CommitRefusedError, match="a value"):
        make_panel().commit([Mutation("set", "a")])


def test_panel_says_nothing_of_versions_it_never_had() -> None:
    panel = make_panel()
    assert panel.changes_since(1) is None
    assert panel.changes_since(0) == {}


def test_panel_forgets_old_changes_rather_than_grow() -> None:
    panel = make_panel()
    for number in range(3_000):
        panel.commit([setting(f"k{number}", 1)])
        panel.commit([deleting(f"k{number}")])
    assert len(panel._changed) <= 2 * len(panel.state) + 1_025
    assert panel.changes_since(0) is None
    assert panel.changes_since(panel.seq - 1) == {"k2999": None}


@given(commits, st.integers(0, 12))
def test_panel_changes_since_a_version_lead_from_it_to_now(run: list[list[Mutation]], start: int) -> None:
    panel = make_panel({"a": b"0"})
    history = [dict(panel.state)]
    for commit in run:
        panel.commit(commit)
        history.append(dict(panel.state))
    since = min(start, panel.seq)
    replica = dict(history[since])
    changes = panel.changes_since(since)
    assert changes is not None
    for key, value in changes.items():
        if value is None:
            replica.pop(key, None)
        else:
            replica[key] = value
    assert replica == panel.state


@given(commits)
def test_panel_keeps_its_size_in_step_and_its_state_json_whole(run: list[list[Mutation]]) -> None:
    panel = make_panel()
    model: dict[str, object] = {}
    for commit in run:
        panel.commit(commit)
        for mutation in commit:
            if mutation.op == "set":
                assert isinstance(mutation.value, msgspec.Raw)
                model[mutation.key] = msgspec.json.decode(mutation.value)
            else:
                model.pop(mutation.key, None)
    assert panel.state_bytes == sum(len(key) + len(value) for key, value in panel.state.items())
    assert msgspec.json.decode(panel.state_json()) == model


def test_panel_replaces_its_state_as_one_version() -> None:
    panel = make_panel({"a": b"1", "b": b"2"})
    seq, changes = panel.replace_state({"b": b"2", "c": b"3"})
    assert (seq, dict(changes)) == (1, {"a": None, "c": b"3"})
    assert panel.changes_since(0) == {"a": None, "c": b"3"}
