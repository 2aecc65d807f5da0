from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast import topics as topics_module
from panels_gateway.broadcast.topics import MAX_TOPICS, Matcher, Topics


def test_topics_want_everything_at_first() -> None:
    topics = Topics()
    assert topics.are_default
    assert topics.want_key("any")
    assert topics.want_event("any")


def test_topics_want_only_what_is_left_after_remove() -> None:
    topics = Topics()
    topics.remove(["state"])
    assert not topics.are_default
    assert not topics.want_key("any")
    assert topics.want_event("any")


def test_topics_match_exact_keys_and_prefixes() -> None:
    topics = Topics()
    topics.remove(["state", "events"])
    topics.add(["state:count", "state:todo*", "event:chat.*", "event:done", "nonsense"])
    assert [topics.want_key(k) for k in ("count", "counter", "todo", "todos")] == [True, False, True, True]
    assert [topics.want_event(e) for e in ("chat.x", "chat", "done", "done2")] == [True, False, True, False]


def test_topics_refuse_more_than_their_bound_and_stay_as_they_were() -> None:
    topics = Topics()
    assert not topics.add([f"state:{n}" for n in range(MAX_TOPICS + 1)])
    assert topics.names == {"state", "events"}


def test_topics_ignore_a_topic_removed_that_is_not_there() -> None:
    topics = Topics()
    topics.remove(["state:x"])
    assert topics.are_default


def test_clients_with_the_same_topics_share_one_interest() -> None:
    first, second = Topics(), Topics()
    assert first.interest is second.interest
    for topics in (first, second):
        topics.remove(["state"])
        topics.add(["state:a*", "state:b"])
    assert first.interest is second.interest
    first.add(["state:c"])
    assert first.interest is not second.interest
    assert not second.want_key("c")


def test_interest_that_nobody_has_is_forgotten() -> None:
    topics = Topics()
    topics.add(["state:nobody-else-wants-this"])
    names = topics.names
    assert names in topics_module._interests
    topics.remove(["state:nobody-else-wants-this"])
    assert names not in topics_module._interests


TEXTS = st.text("ab", max_size=3)


@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=6), st.lists(TEXTS, max_size=9))
def test_matcher_finds_what_its_patterns_mean_one_by_one(
    patterns: list[tuple[str, bool]], names: list[str]
) -> None:
    matcher = Matcher.of(text + "*" * prefix for text, prefix in patterns)
    ordered = sorted(names)

    def wanted(name: str) -> bool:
        return any(name.startswith(text) if prefix else name == text for text, prefix in patterns)

    assert [matcher.matches(name) for name in ordered] == [wanted(name) for name in ordered]
    found = [index for first, end in matcher.among(ordered) for index in range(first, end)]
    assert sorted(found) == [index for index, name in enumerate(ordered) if wanted(name)]
    assert len(set(found)) == len(found)
