"""What a client wants to hear of its panel.

Topics are ``state`` (every PATCH), ``events`` (every EVENT), ``state:<key>`` and ``event:<name>``; in
the last two a trailing ``*`` matches a prefix. Topics of other forms are kept (a later server may know
them) and match nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from panels_shared.names import Patterns

#: Security limits on one client's topics.
MAX_TOPICS: Final = 256
MAX_TOPIC_CHARS: Final = 300

DEFAULT_TOPICS: Final = frozenset({"state", "events"})


@dataclass(slots=True)
class Topics:
    """The topics of one client; begins with the defaults."""

    names: set[str] = field(default_factory=lambda: set(DEFAULT_TOPICS))
    _keys: Patterns = field(default_factory=Patterns)
    _events: Patterns = field(default_factory=Patterns)

    def add(self, topics: Iterable[str]) -> bool:
        """Adds ``topics``; False, and nothing added, when there would be more than ``MAX_TOPICS``."""
        names = self.names | set(topics)
        if len(names) > MAX_TOPICS:
            return False
        self.names = names
        self._index()
        return True

    def remove(self, topics: Iterable[str]) -> None:
        """Removes ``topics``; those that are not there are ignored."""
        self.names = self.names - set(topics)
        self._index()

    @property
    def are_default(self) -> bool:
        """Whether this client hears everything, as most do: such clients share the same bytes."""
        return self.names >= DEFAULT_TOPICS

    @property
    def all_state(self) -> bool:
        """Whether every PATCH is wanted whole."""
        return "state" in self.names

    def want_key(self, key: str) -> bool:
        """Whether a change of ``key`` is wanted."""
        return "state" in self.names or self._keys.matches(key)

    def want_event(self, name: str) -> bool:
        """Whether an event ``name`` is wanted."""
        return "events" in self.names or self._events.matches(name)

    def _index(self) -> None:
        self._keys = Patterns.of(name[6:] for name in self.names if name.startswith("state:"))
        self._events = Patterns.of(name[6:] for name in self.names if name.startswith("event:"))
