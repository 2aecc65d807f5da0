"""What a handler may touch: patterns, checked at every host call.

A pattern is ``state:read:<key>``, ``state:write:<key>``, ``events:emit:<name>``, ``view:update:<view>`` or
``ext:<name>``; a trailing ``*`` matches a prefix, ``*`` alone everything. The gateway sends each tool its
whole list: what is not in it is not allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_KINDS: Final = ("state:read:", "state:write:", "events:emit:", "view:update:", "ext:")


@dataclass(frozen=True, slots=True)
class Grant:
    """The names that one kind of capability reaches."""

    everything: bool = False
    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def __call__(self, name: str) -> bool:
        return (
            self.everything or name in self.names or (bool(self.prefixes) and name.startswith(self.prefixes))
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One grant for each kind; each is called with a name."""

    may_read: Grant
    may_write: Grant
    may_emit: Grant
    may_update: Grant
    may_call: Grant

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Capabilities:
        """The grants of ``patterns``; unknown ones grant nothing."""
        wanted = tuple(patterns)
        return cls(*(_grant(kind, wanted) for kind in _KINDS))


def _grant(kind: str, patterns: tuple[str, ...]) -> Grant:
    names = [pattern[len(kind) :] for pattern in patterns if pattern.startswith(kind)]
    return Grant(
        everything="*" in names,
        names=frozenset(name for name in names if not name.endswith("*")),
        prefixes=tuple(name[:-1] for name in names if name.endswith("*")),
    )
