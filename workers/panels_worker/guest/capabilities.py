"""What a handler may touch, checked at every host call.

The gateway sends each tool its whole list of capabilities (``panels_shared.handlers``): what is not in it is
not allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from panels_shared.handlers import CAPABILITY_KINDS
from panels_shared.names import Patterns


@dataclass(frozen=True, slots=True)
class Grant(Patterns):
    """The names that one kind of capability reaches. Called with a name, it says whether that is allowed."""

    __call__ = Patterns.matches

    @property
    def everything(self) -> bool:
        """Whether it reaches every name."""
        return "" in self.prefixes


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
        return cls(
            *(
                Grant.of(pattern.removeprefix(kind) for pattern in wanted if pattern.startswith(kind))
                for kind in CAPABILITY_KINDS
            )
        )
