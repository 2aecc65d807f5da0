"""Whoever applies what it is told knows who is there."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast import presence as module
from panels_gateway.broadcast.presence import Presence

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrives"), st.sampled_from([None, "ada", "bob", "cäsar", "dora"])),
        st.tuples(st.just("leaves"), st.integers(0, 9)),
        st.tuples(st.just("tells"), st.none()),
    )
)


class Listener:
    """A client that began to listen at some time."""

    def __init__(self, whole: bytes) -> None:
        message = json.loads(whole)
        assert message["whole"] is True
        self.clients: int = message["clients"]
        self.subjects: dict[str, int] = message["subjects"]

    def hear(self, change: bytes) -> None:
        message = json.loads(change)
        assert message["type"] == "PRESENCE"
        self.clients = message["clients"]
        self.subjects = ({} if "whole" in message else self.subjects) | message["subjects"]
        self.subjects = {subject: count for subject, count in self.subjects.items() if count}


@given(STEPS, st.sampled_from([1, 2, 256]), st.sampled_from([1, 2, 256]))
def test_listeners_know_who_is_there_whenever_they_came(
    steps: list[tuple[str, str | int | None]], room: int, changes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_SUBJECTS", room)
        patch.setattr(module, "MAX_CHANGED", changes)
        presence = Presence()
        there: list[str | None] = []
        listeners: list[Listener] = []
        for kind, what in [*steps, ("tells", None)]:
            if kind == "arrives":
                assert not isinstance(what, int)
                there.append(what)
                presence.arrived(what)
                listeners.append(Listener(presence.whole()))
            elif kind == "leaves" and there:
                assert isinstance(what, int)
                presence.left(there.pop(what % len(there)))
            elif kind == "tells":
                change = presence.change()
                for listener in listeners:
                    if change is not None:
                        listener.hear(change)
                assert presence.change() is None
        counts = Counter(subject for subject in there if subject is not None)
        shown = json.loads(presence.subjects())
        assert len(shown) == min(len(counts), room)
        assert shown.items() <= counts.items()
        assert presence.clients == len(there)
        for listener in listeners:
            assert (listener.subjects, listener.clients) == (shown, len(there))


def test_change_of_more_subjects_than_it_may_name_tells_all() -> None:
    presence = Presence()
    for number in range(module.MAX_CHANGED):
        presence.arrived(f"s{number}")
    change = json.loads(presence.change() or b"")
    assert (len(change["subjects"]), "whole" in change) == (module.MAX_CHANGED, False)
    for number in range(module.MAX_CHANGED):
        presence.left(f"s{number}")
    presence.arrived("somebody else")
    assert json.loads(presence.change() or b"") == {
        "type": "PRESENCE",
        "clients": 1,
        "subjects": {"somebody else": 1},
        "whole": True,
    }
