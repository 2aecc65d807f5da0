"""The scenarios behind tests/vectors/resume, written by hand: no server had a part in what they expect.

``python -m tests.support.resume_scenarios`` writes the files anew; a test compares them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "vectors" / "resume"

Json = dict[str, Any]


# -- operations --------------------------------------------------------------------------------------------


def commit(
    sets: Mapping[str, Any] | None = None,
    *,
    delete: Sequence[str] = (),
    emit: Sequence[tuple[str, Any]] = (),
) -> Json:
    """A trigger of the tool ``apply``."""
    return {
        "commit": {"set": dict(sets or {}), "delete": list(delete), "emit": [list(pair) for pair in emit]}
    }


# -- messages ----------------------------------------------------------------------------------------------


def patch(seq: int, *mutations: Json, **place: Any) -> Json:
    """A PATCH; ``place`` is prevSeq, firstSeq, more."""
    return {"type": "PATCH", "mutations": list(mutations), "seq": seq, **place}


def put(key: str, value: Any) -> Json:
    """A mutation that sets a key."""
    return {"op": "set", "key": key, "value": value}


def gone(key: str) -> Json:
    """A mutation that deletes a key."""
    return {"op": "delete", "key": key}


def event(seq: int, name: str, payload: Any, **place: Any) -> Json:
    """An EVENT, without its timestamp, which no vector can know."""
    return {"type": "EVENT", "event": {"name": name, "payload": payload}, "seq": seq, **place}


def recovered(seq: int, *messages: Json) -> Json:
    """The server sends what was missed."""
    return {"recovered": True, "seq": seq, "messages": list(messages)}


def resynced(seq: int, state: Json, *messages: Json) -> Json:
    """The server sends the whole state."""
    return {"recovered": False, "seq": seq, "state": state, "messages": list(messages)}


def vector(
    name: str,
    about: str,
    *,
    operations: Sequence[Json],
    had: Json,
    asks: Json | None = None,
    sent: Json,
    ends: Json,
    initial: Json | None = None,
    then: Json | None = None,
    needs: Json | None = None,
) -> Json:
    """One vector, its fields in the order in which a person reads them. ``asks`` names what is not the
    usual.
    """
    made: Json = {"name": name, "about": about}
    if needs is not None:
        made["needs"] = needs
    made["panel"] = {"initialState": initial or {}}
    made["operations"] = list(operations)
    made["had"] = {"heard": [], **had}
    made["asks"] = {"epoch": "current", "since": had["seq"], **(asks or {})}
    made["sent"] = sent
    if then is not None:
        made["then"] = then
    made["ends"] = {"events": [], **ends}
    return made


# -- scenarios ---------------------------------------------------------------------------------------------


def _plain() -> Iterator[Json]:
    yield vector(
        "plain",
        "Two commits were missed; they come in order, and no state.",
        operations=[commit({"n": 1}), commit({"n": 2}), commit({"n": 3})],
        had={"seq": 1, "state": {"n": 1}},
        sent=recovered(3, patch(2, put("n", 2)), patch(3, put("n", 3))),
        ends={"seq": 3, "state": {"n": 3}},
    )
    yield vector(
        "nothing-missed",
        "Nothing was committed while the client was away: recovered, and no message follows until something happens.",
        operations=[commit({"n": 1})],
        had={"seq": 1, "state": {"n": 1}},
        sent=recovered(1),
        then={"operations": [commit({"n": 2})], "messages": [patch(2, put("n", 2))]},
        ends={"seq": 2, "state": {"n": 2}},
    )
    yield vector(
        "from-the-beginning",
        "A client that has the state of version 0 is sent every commit there has been.",
        initial={"n": 0},
        operations=[commit({"n": 1}), commit({"n": 2})],
        had={"seq": 0, "state": {"n": 0}},
        sent=recovered(2, patch(1, put("n", 1)), patch(2, put("n", 2))),
        ends={"seq": 2, "state": {"n": 2}},
    )
    yield vector(
        "live-after-recovery",
        "What is committed after the resume follows what was missed without a seam.",
        operations=[commit({"n": 1}), commit({"n": 2}, emit=[("counted", 2)])],
        had={"seq": 1, "state": {"n": 1}},
        sent=recovered(2, patch(2, put("n", 2), more=True), event(2, "counted", 2)),
        then={
            "operations": [commit({"n": 3}, emit=[("counted", 3)])],
            "messages": [patch(3, put("n", 3), more=True), event(3, "counted", 3)],
        },
        ends={"seq": 3, "state": {"n": 3}, "events": [[2, "counted", 2], [3, "counted", 3]]},
    )
    yield vector(
        "deletes",
        "Keys that were deleted while the client was away are deleted in its state.",
        initial={"a": 1, "b": 2, "c": 3},
        operations=[commit(delete=["a"]), commit({"b": 20}, delete=["c"])],
        had={"seq": 0, "state": {"a": 1, "b": 2, "c": 3}},
        sent=recovered(2, patch(1, gone("a")), patch(2, put("b", 20), gone("c"))),
        ends={"seq": 2, "state": {"b": 20}},
    )
    yield vector(
        "set-after-delete",
        "A key that was deleted and set again has its new value, and null is a value like any other.",
        initial={"a": 1},
        operations=[commit(delete=["a"]), commit({"a": None})],
        had={"seq": 0, "state": {"a": 1}},
        sent=recovered(2, patch(1, gone("a")), patch(2, put("a", None))),
        ends={"seq": 2, "state": {"a": None}},
    )
    keys: Json = {
        "ключ": "значение",
        "鍵": {"深い": ["値"]},
        "👩‍🚀": "🚀",
        "e\u0301": 1,
        "\u00e9": 2,
        "a b/c?d=e&f": True,
        "": 0,
    }
    yield vector(
        "unicode-keys",
        "Keys are any text: other scripts, joined emoji, two spellings of é that are two keys, punctuation, the empty key.",
        operations=[commit(keys), commit(delete=["e\u0301", ""])],
        had={"seq": 0, "state": {}},
        sent=recovered(
            2,
            patch(1, *(put(key, value) for key, value in keys.items())),
            patch(2, gone("e\u0301"), gone("")),
        ),
        ends={"seq": 2, "state": {key: value for key, value in keys.items() if key not in ("e\u0301", "")}},
    )
    yield vector(
        "keys-of-prototypes",
        "Keys that have a meaning in some languages are ordinary keys.",
        operations=[commit({"constructor": 1, "toString": 2, "hasOwnProperty": 3})],
        had={"seq": 0, "state": {}},
        sent=recovered(1, patch(1, put("constructor", 1), put("toString", 2), put("hasOwnProperty", 3))),
        ends={"seq": 1, "state": {"constructor": 1, "toString": 2, "hasOwnProperty": 3}},
    )


def _events() -> Iterator[Json]:
    yield vector(
        "events-only",
        "A commit without mutations takes a version too; its EVENTs are all there is of it.",
        operations=[commit({"n": 1}), commit(emit=[("rang", "a"), ("rang", "b")]), commit({"n": 2})],
        had={"seq": 1, "state": {"n": 1}},
        sent=recovered(3, event(2, "rang", "a", more=True), event(2, "rang", "b"), patch(3, put("n", 2))),
        ends={"seq": 3, "state": {"n": 2}, "events": [[2, "rang", "a"], [2, "rang", "b"]]},
    )
    yield vector(
        "events-are-not-folded",
        "Events are told again one by one, even where the state is one small key that changed many times.",
        operations=[commit({"n": number}, emit=[("at", number)]) for number in range(1, 6)],
        had={"seq": 2, "state": {"n": 2}},
        sent=recovered(
            5,
            *(
                message
                for number in range(3, 6)
                for message in (patch(number, put("n", number), more=True), event(number, "at", number))
            ),
        ),
        ends={"seq": 5, "state": {"n": 5}, "events": [[3, "at", 3], [4, "at", 4], [5, "at", 5]]},
    )


def _topics() -> Iterator[Json]:
    yield vector(
        "filtered-one-key",
        "Of three missed commits one concerns the client's key: its PATCH holds that key, and prevSeq says that nothing between does.",
        operations=[commit({"x": 1}), commit({"y": 2}), commit({"y": 3}), commit({"x": 4, "y": 4})],
        had={"seq": 1, "state": {"x": 1}},
        asks={"topics": ["state:x"]},
        sent=recovered(4, patch(4, put("x", 4), prevSeq=1)),
        ends={"seq": 4, "state": {"x": 4}},
    )
    yield vector(
        "filtered-then-live",
        "Nothing that was missed concerns the client last: what comes live still follows the last version that it was told of.",
        operations=[commit({"x": 1}), commit({"x": 2}), commit({"y": 3}), commit({"y": 4})],
        had={"seq": 1, "state": {"x": 1}},
        asks={"topics": ["state:x"]},
        sent=recovered(4, patch(2, put("x", 2))),
        then={
            "operations": [commit({"y": 5}), commit({"x": 6})],
            "messages": [patch(6, put("x", 6), prevSeq=2)],
        },
        ends={"seq": 6, "state": {"x": 6}},
    )
    yield vector(
        "filtered-nothing",
        "No missed commit concerns the client, and none is sent; the first live one names the version that the client came with.",
        operations=[commit({"x": 1}), commit({"y": 2}), commit({"y": 3})],
        had={"seq": 1, "state": {"x": 1}},
        asks={"topics": ["state:x"]},
        sent=recovered(3),
        then={"operations": [commit({"x": 4})], "messages": [patch(4, put("x", 4), prevSeq=1)]},
        ends={"seq": 4, "state": {"x": 4}},
    )
    yield vector(
        "filtered-prefix",
        "A * at the end of a topic matches all keys that begin so, and the key that is just the prefix.",
        operations=[
            commit({"user:1": "ada", "users": 1, "user:": 0}),
            commit({"other": 1}),
            commit(delete=["user:1"]),
        ],
        had={"seq": 0, "state": {}},
        asks={"topics": ["state:user:*"]},
        sent=recovered(
            3, patch(1, put("user:1", "ada"), put("user:", 0)), patch(3, gone("user:1"), prevSeq=1)
        ),
        ends={"seq": 3, "state": {"user:": 0}},
    )
    yield vector(
        "filtered-events",
        "A client of events only: PATCHes are left out, and the last EVENT of a commit that it wants has no more.",
        operations=[
            commit({"n": 1}, emit=[("a", 1), ("b", 1), ("a", 2)]),
            commit({"n": 2}),
            commit(emit=[("b", 3)]),
            commit({"n": 4}, emit=[("a", 4)]),
        ],
        had={"seq": 0, "state": {}},
        asks={"topics": ["event:a"]},
        sent=recovered(4, event(1, "a", 1, more=True), event(1, "a", 2), event(4, "a", 4, prevSeq=1)),
        ends={"seq": 4, "state": {}, "events": [[1, "a", 1], [1, "a", 2], [4, "a", 4]]},
    )
    yield vector(
        "filtered-event-prefix",
        "Prefixes of event names, beside a key: all messages of one commit carry the same prevSeq.",
        operations=[
            commit({"y": 1}),
            commit({"x": 2}, emit=[("chat.said", "hi"), ("chat", "no"), ("typing", 1)]),
        ],
        had={"seq": 0, "state": {}},
        asks={"topics": ["state:x", "event:chat.*"]},
        sent=recovered(
            2, patch(2, put("x", 2), prevSeq=0, more=True), event(2, "chat.said", "hi", prevSeq=0)
        ),
        ends={"seq": 2, "state": {"x": 2}, "events": [[2, "chat.said", "hi"]]},
    )
    yield vector(
        "state-without-events",
        "With the topic state alone a commit of events only is left out, and the version after it says so.",
        operations=[commit({"n": 1}), commit(emit=[("rang", 1)]), commit({"n": 2}, emit=[("rang", 2)])],
        had={"seq": 1, "state": {"n": 1}},
        asks={"topics": ["state"]},
        sent=recovered(3, patch(3, put("n", 2), prevSeq=1)),
        ends={"seq": 3, "state": {"n": 2}},
    )
    yield vector(
        "topics-changed",
        "A client that watched everything resumes with one key: it keeps the state that it has, and hears of that key.",
        operations=[
            commit({"x": 1, "y": 1}, emit=[("e", 1)]),
            commit({"y": 2}, emit=[("e", 2)]),
            commit({"x": 3}),
        ],
        had={"seq": 1, "state": {"x": 1, "y": 1}},
        asks={"topics": ["state:x"]},
        sent=recovered(3, patch(3, put("x", 3), prevSeq=1)),
        ends={"seq": 3, "state": {"x": 3, "y": 1}},
    )
    yield vector(
        "topics-widened",
        "A client that wants keys of which it has no value says since=none: it is sent the whole state.",
        operations=[commit({"x": 1, "y": 1}), commit({"y": 2})],
        had={"seq": 1, "state": {"x": 1}},
        asks={"since": "none", "topics": ["state:x", "state:y"]},
        sent=resynced(2, {"x": 1, "y": 2}),
        then={
            "operations": [commit({"z": 3}), commit({"y": 4})],
            "messages": [patch(4, put("y", 4), prevSeq=2)],
        },
        ends={"seq": 4, "state": {"x": 1, "y": 4}},
    )
    yield vector(
        "topics-unknown",
        "Topics of a form that the server does not know are kept, match nothing and harm nothing.",
        operations=[commit({"x": 1}), commit({"x": 2}), commit({"weather": 3})],
        had={"seq": 1, "state": {"x": 1}},
        asks={"topics": ["state:x", "weather:today", "*"]},
        sent=recovered(3, patch(2, put("x", 2))),
        ends={"seq": 2, "state": {"x": 2}},
    )
    yield vector(
        "topics-none",
        "An empty list of topics hears nothing at all; the client is where it was.",
        operations=[commit({"x": 1}), commit({"x": 2}, emit=[("e", 1)])],
        had={"seq": 1, "state": {"x": 1}},
        asks={"topics": []},
        sent=recovered(2),
        ends={"seq": 1, "state": {"x": 1}},
    )
    yield vector(
        "topics-escaped",
        "Topics are joined by commas and each is percent-encoded: a comma within one is %2C.",
        operations=[
            commit({"a,b": 1, "a": 1, "b": 1, "ä +": 1}),
            commit({"a": 2}),
            commit({"a,b": 3, "ä +": 3}),
        ],
        had={"seq": 1, "state": {"a,b": 1, "ä +": 1}},
        asks={"topics": ["state:a,b", "state:ä +"]},
        sent=recovered(3, patch(3, put("a,b", 3), put("ä +", 3), prevSeq=1)),
        ends={"seq": 3, "state": {"a,b": 3, "ä +": 3}},
    )


def _units() -> Iterator[Json]:
    yield vector(
        "merged",
        "The client read slowly and was sent three versions as one PATCH; it resumes after the last of them.",
        operations=[commit({"n": number}) for number in range(1, 6)],
        had={"seq": 1, "state": {"n": 1}, "heard": [patch(4, put("n", 4), firstSeq=2)]},
        asks={"since": 4},
        sent=recovered(5, patch(5, put("n", 5))),
        ends={"seq": 5, "state": {"n": 5}},
    )
    yield vector(
        "merged-with-events-behind",
        "A merged PATCH says more where EVENTs of its versions follow. The client was cut off after the first of them, asks from "
        "there, and is taken through older values to the same end.",
        operations=[
            commit({"n": 1}),
            commit({"n": 2}, emit=[("at", 2)]),
            commit({"n": 3}, emit=[("at", 3)]),
            commit({"n": 4}),
        ],
        had={
            "seq": 1,
            "state": {"n": 1},
            "heard": [patch(4, put("n", 4), firstSeq=2, more=True), event(2, "at", 2)],
        },
        asks={"since": 2},
        sent=recovered(4, patch(3, put("n", 3), more=True), event(3, "at", 3), patch(4, put("n", 4))),
        ends={"seq": 4, "state": {"n": 4}, "events": [[2, "at", 2], [3, "at", 3]]},
    )
    yield vector(
        "merged-then-live",
        "A merged PATCH may say more although nothing of its versions follows. What comes next follows the newest version heard.",
        operations=[commit({"n": number}) for number in range(1, 6)],
        had={
            "seq": 1,
            "state": {"n": 1},
            "heard": [patch(3, put("n", 3), firstSeq=2, more=True), patch(4, put("n", 4))],
        },
        asks={"since": 4},
        sent=recovered(5, patch(5, put("n", 5))),
        ends={"seq": 5, "state": {"n": 5}},
    )
    yield vector(
        "partial-unit",
        "Cut between a PATCH and the second of its two EVENTs: the whole commit comes again, and the event heard before counts once.",
        operations=[commit({"n": 1}), commit({"n": 2}, emit=[("at", "a"), ("at", "b")])],
        had={
            "seq": 1,
            "state": {"n": 1},
            "heard": [patch(2, put("n", 2), more=True), event(2, "at", "a", more=True)],
        },
        sent=recovered(
            2, patch(2, put("n", 2), more=True), event(2, "at", "a", more=True), event(2, "at", "b")
        ),
        ends={"seq": 2, "state": {"n": 2}, "events": [[2, "at", "a"], [2, "at", "b"]]},
    )
    yield from _cuts()


def _cuts() -> Iterator[Json]:
    """One stream of messages, cut before each of them and behind the last."""
    operations = [
        commit({"n": 1}, emit=[("at", 1)]),
        commit({"n": 2}),
        commit(emit=[("rang", "a"), ("rang", "b")]),
        commit({"m": 4}, delete=["n"], emit=[("at", 4)]),
    ]
    stream = [
        patch(1, put("n", 1), more=True),
        event(1, "at", 1),
        patch(2, put("n", 2)),
        event(3, "rang", "a", more=True),
        event(3, "rang", "b"),
        patch(4, put("m", 4), gone("n"), more=True),
        event(4, "at", 4),
    ]
    # the position after so many messages, and the message that a client asks for from there
    resumes = [(0, 0), (0, 0), (1, 2), (2, 3), (2, 3), (3, 5), (3, 5), (4, 7)]
    for heard, (position, first) in enumerate(resumes):
        yield vector(
            f"cut-after-{heard}",
            f"The connection broke after {heard} of 7 messages: version {position} is the last that was heard whole.",
            operations=operations,
            had={"seq": 0, "state": {}, "heard": stream[:heard]},
            asks={"since": position},
            sent=recovered(4, *stream[first:]),
            ends={
                "seq": 4,
                "state": {"m": 4},
                "events": [[1, "at", 1], [3, "rang", "a"], [3, "rang", "b"], [4, "at", 4]],
            },
        )


def _whole_state() -> Iterator[Json]:
    yield vector(
        "since-none",
        "The client had a state that it cannot use any more, and says so.",
        operations=[commit({"n": 1}), commit({"n": 2})],
        had={"seq": 1, "state": {"n": "spoilt"}},
        asks={"since": "none"},
        sent=resynced(2, {"n": 2}),
        then={"operations": [commit({"n": 3})], "messages": [patch(3, put("n", 3))]},
        ends={"seq": 3, "state": {"n": 3}},
    )
    yield vector(
        "other-epoch",
        "The epoch is one that this panel never had: versions of it mean nothing here.",
        operations=[commit({"n": 1}), commit({"n": 2})],
        had={"seq": 1, "state": {"of": "another history"}},
        asks={"epoch": "foreign"},
        sent=resynced(2, {"n": 2}),
        ends={"seq": 2, "state": {"n": 2}},
    )
    yield vector(
        "no-epoch",
        "A version without an epoch proves nothing.",
        operations=[commit({"n": 1}), commit({"n": 2})],
        had={"seq": 1, "state": {"n": 1}},
        asks={"epoch": "absent"},
        sent=resynced(2, {"n": 2}),
        ends={"seq": 2, "state": {"n": 2}},
    )
    yield vector(
        "since-ahead",
        "The client says that it has a version that is yet to come.",
        operations=[commit({"n": 1})],
        had={"seq": 7, "state": {"n": 7}},
        sent=resynced(1, {"n": 1}),
        then={"operations": [commit({"n": 2})], "messages": [patch(2, put("n", 2))]},
        ends={"seq": 2, "state": {"n": 2}},
    )
    yield vector(
        "since-behind-retention",
        "History does not reach back to the client's version. How many commits that takes is the server's affair: last is the "
        "version that the panel has then.",
        needs={"historyCommits": 10},
        operations=[
            commit({"n": 1}),
            {"outlive": {"seq": 1, "commit": commit(emit=[("tick", None)])["commit"]}},
            commit({"n": 2}),
        ],
        had={"seq": 1, "state": {"n": 1}},
        sent={**resynced(0, {"n": 2}), "seq": "last"},
        ends={"seq": "last", "state": {"n": 2}},
    )
    yield vector(
        "recreated",
        "The panel was deleted, and another one of the same id was made: it has another epoch.",
        operations=[commit({"n": 1}), commit({"n": 2}), {"recreate": {"fresh": True}}],
        had={"seq": 1, "state": {"n": 1}},
        asks={"epoch": "former"},
        sent=resynced(0, {"fresh": True}),
        then={"operations": [commit({"n": 1})], "messages": [patch(1, put("n", 1))]},
        ends={"seq": 1, "state": {"fresh": True, "n": 1}},
    )
    yield vector(
        "recreated-and-ahead",
        "The new panel has passed the client's version: the epoch alone tells them apart.",
        operations=[commit({"n": 1}), {"recreate": {}}, *(commit({"m": number}) for number in range(1, 4))],
        had={"seq": 1, "state": {"n": 1}},
        asks={"epoch": "former"},
        sent=resynced(3, {"m": 3}),
        ends={"seq": 3, "state": {"m": 3}},
    )
    blob = [{"$repeat": [letter, 40_000]} for letter in "abcdefgh"]
    yield vector(
        "state-smaller",
        "What was missed is larger than 256 KiB and than the state: the state comes instead.",
        operations=[*(commit({"blob": value}) for value in blob), commit({"blob": "small"})],
        had={"seq": 0, "state": {}},
        sent=resynced(9, {"blob": "small"}),
        ends={"seq": 9, "state": {"blob": "small"}},
    )
    big = {"$repeat": ["x", 1_000]}
    yield vector(
        "tail-smaller",
        "The state is larger than what was missed: what was missed comes.",
        initial={f"k{number}": big for number in range(50)},
        operations=[commit({"n": 1}), commit(delete=["k0"])],
        had={"seq": 0, "state": {f"k{number}": big for number in range(50)}},
        sent=recovered(2, patch(1, put("n", 1)), patch(2, gone("k0"))),
        ends={"seq": 2, "state": {"n": 1, **{f"k{number}": big for number in range(1, 50)}}},
    )


def _changes() -> Iterator[Json]:
    yield vector(
        "revert",
        "The panel was taken back to an earlier version while the client was away: a commit like any other.",
        initial={"a": 1},
        operations=[commit({"a": 2}), commit({"b": 3}), {"revert": 1}],
        had={"seq": 2, "state": {"a": 2, "b": 3}},
        sent=recovered(3, patch(3, gone("b"))),
        ends={"seq": 3, "state": {"a": 2}},
    )
    yield vector(
        "revert-to-the-same",
        "A revert that changes nothing takes a version too, and is told by a PATCH without mutations.",
        operations=[commit({"a": 1}), {"revert": 1}, commit({"a": 2})],
        had={"seq": 1, "state": {"a": 1}},
        sent=recovered(3, patch(2), patch(3, put("a", 2))),
        ends={"seq": 3, "state": {"a": 2}},
    )
    yield vector(
        "replaced-with-state",
        "PUT with another initialState while the client was away: the difference comes as one PATCH.",
        initial={"a": 1, "b": 1},
        operations=[commit({"c": 1}), {"replace": {"a": 1, "b": 2}}],
        had={"seq": 1, "state": {"a": 1, "b": 1, "c": 1}},
        sent=recovered(2, patch(2, put("b", 2), gone("c"))),
        ends={"seq": 2, "state": {"a": 1, "b": 2}},
    )
    yield vector(
        "replaced-without-state",
        "PUT of a definition that has no initialState takes no version, and clients hear nothing of it.",
        operations=[commit({"a": 1}), {"replace": None}, commit({"a": 2})],
        had={"seq": 1, "state": {"a": 1}},
        sent=recovered(2, patch(2, put("a", 2))),
        ends={"seq": 2, "state": {"a": 2}},
    )
    yield vector(
        "revert-filtered",
        "A revert that concerns other keys is nothing to a client of one key.",
        initial={"x": 1, "y": 1},
        operations=[commit({"y": 2}), {"revert": 0}, commit({"x": 3})],
        had={"seq": 0, "state": {"x": 1, "y": 1}},
        asks={"topics": ["state:x"]},
        sent=recovered(3, patch(3, put("x", 3), prevSeq=0)),
        ends={"seq": 3, "state": {"x": 3, "y": 1}},
    )


def scenarios() -> list[Json]:
    """All vectors."""
    return [*_plain(), *_events(), *_topics(), *_units(), *_whole_state(), *_changes()]


def text(scenario: Json) -> str:
    """A vector as its file has it."""
    return json.dumps(scenario, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Writes the files."""
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for scenario in scenarios():
        (FOLDER / f"{scenario['name']}.json").write_text(text(scenario))


if __name__ == "__main__":
    main()
