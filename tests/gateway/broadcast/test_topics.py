from __future__ import annotations

from panels_gateway.broadcast.topics import MAX_TOPICS, Topics


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
