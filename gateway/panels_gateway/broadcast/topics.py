"""What a client wants to hear of its panel.

Topics are ``state`` (every PATCH), ``events`` (every EVENT), ``state:<key>``, ``event:<name>`` and
``presence`` (every PRESENCE); in ``<key>`` and ``<name>`` a trailing ``*`` matches a prefix. Topics of other
forms are kept (a later server may know them) and match nothing.

What a client wants is an immutable ``Interest``, which all clients with the same topics share: a commit is
matched and encoded once for each, however many clients there are. Matching costs what the smaller side has,
the topics or the changes, times a binary search.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus
from weakref import WeakValueDictionary

from panels_shared.errors import Code, RequestError
from panels_shared.names import Pattern

#: Security limits on one client's topics.
MAX_TOPICS: Final = 256
MAX_TOPIC_CHARS: Final = 300

DEFAULT_TOPICS: Final = frozenset({"state", "events"})


@dataclass(frozen=True, slots=True)
class Matcher:
    """Names and prefixes that are looked for together. ``prefixes`` are in order, and none begins with
    another.
    """

    names: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Matcher:
        """The names and prefixes that ``texts`` write."""
        patterns = [Pattern.of(text) for text in texts]
        prefixes: list[str] = []
        for text in sorted({pattern.text for pattern in patterns if pattern.is_prefix}):
            # what begins with another stands behind it
            if not prefixes or not text.startswith(prefixes[-1]):
                prefixes.append(text)
        wide = cls(frozenset(), tuple(prefixes))
        # what a prefix means need not be looked for by name as well
        exact = (pattern.text for pattern in patterns if not pattern.is_prefix)
        return cls(frozenset(name for name in exact if not wide.matches(name)), wide.prefixes)

    def matches(self, name: str) -> bool:
        """Whether ``name`` is looked for: one look-up and one binary search."""
        if name in self.names:
            return True
        prefixes = self.prefixes
        index = bisect_right(prefixes, name) - 1
        return index >= 0 and name.startswith(prefixes[index])

    def among(self, ordered: Sequence[str]) -> list[tuple[int, int]]:
        """Which of ``ordered``, names in order, are looked for: pairs of a first index and the one behind the
        last. They do not overlap.
        """
        found: list[tuple[int, int]] = []
        if len(self.names) + len(self.prefixes) >= len(ordered):
            return [(index, index + 1) for index, name in enumerate(ordered) if self.matches(name)]
        for prefix in self.prefixes:
            begin = bisect_left(ordered, prefix)
            if begin < len(ordered) and ordered[begin].startswith(prefix):
                size = len(prefix)
                found.append((begin, bisect_right(ordered, prefix, begin, key=lambda name: name[:size])))
        for name in self.names:
            begin = bisect_left(ordered, name)
            end = bisect_right(ordered, name, begin)
            if begin < end:
                found.append((begin, end))
        return found


class Interest:
    """What a set of topics wants. Equal sets share one object, see ``interest_in``; it is never changed."""

    __slots__ = (
        "__weakref__",
        "all_events",
        "all_state",
        "are_default",
        "events",
        "keys",
        "names",
        "presence",
    )

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.are_default = names >= DEFAULT_TOPICS
        self.all_state = "state" in names
        self.all_events = "events" in names
        self.presence = "presence" in names
        self.keys = Matcher.of(name[6:] for name in names if name.startswith("state:"))
        self.events = Matcher.of(name[6:] for name in names if name.startswith("event:"))


_interests: WeakValueDictionary[frozenset[str], Interest] = WeakValueDictionary()


def interest_in(names: frozenset[str]) -> Interest:
    """The one interest in these topics."""
    found = _interests.get(names)
    if found is None:
        found = _interests[names] = Interest(names)
    return found


class Topics:
    """The topics of one client; begins with the defaults."""

    __slots__ = ("interest",)

    def __init__(self) -> None:
        self.interest = interest_in(DEFAULT_TOPICS)

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return self.interest.names

    def add(self, topics: Iterable[str]) -> bool:
        """Adds ``topics``; False, and nothing added, when there would be more than ``MAX_TOPICS``."""
        names = self.names | frozenset(topics)
        if len(names) > MAX_TOPICS:
            return False
        self.interest = interest_in(names)
        return True

    def remove(self, topics: Iterable[str]) -> None:
        """Removes ``topics``; those that are not there are ignored."""
        self.interest = interest_in(self.names - frozenset(topics))

    @property
    def are_default(self) -> bool:
        """Whether this client hears everything, as most do: such clients share the same bytes."""
        return self.interest.are_default

    def want_key(self, key: str) -> bool:
        """Whether a change of ``key`` is wanted."""
        return self.interest.all_state or self.interest.keys.matches(key)

    def want_event(self, name: str) -> bool:
        """Whether an event ``name`` is wanted."""
        return self.interest.all_events or self.interest.events.matches(name)


def parse_topics(text: str) -> Topics:
    """The topics that ``?topics=`` names: a list with commas, each percent-encoded by itself. The default
    ones are not among them unless they are named.

    Raises ``RequestError`` INVALID_REQUEST.
    """
    names = [unquote_plus(name) for name in text.split(",") if name]
    if len(names) > MAX_TOPICS or any(len(name) > MAX_TOPIC_CHARS for name in names):
        raise RequestError(
            Code.INVALID_REQUEST,
            f"topics: expected at most {MAX_TOPICS} topics of at most {MAX_TOPIC_CHARS} characters",
            {"path": "topics"},
        )
    topics = Topics()
    topics.remove(DEFAULT_TOPICS)
    topics.add(names)
    return topics
