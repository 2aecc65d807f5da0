"""What an attack is: handlers that are installed and triggered, and what has to come back of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

#: An answer that is a RESULT.
RETURNED: Final = "returned"
#: Stands for every word: what counts is that nobody else is harmed.
ANYTHING: Final = "*"
#: How a handler may end that used more than it may, whichever limit it meets first.
STOPPED: Final = (
    "FUEL_EXHAUSTED",
    "TIMEOUT",
    "MEMORY_LIMIT",
    "STACK_OVERFLOW",
    "LIMIT_EXCEEDED",
    "HANDLER_ERROR",
    "INVALID_RESULT",
)
#: Deadline of the handlers that are to run into it, in milliseconds.
DEADLINE_MS: Final = 200


class _Unchecked:
    """The type of ``UNCHECKED``."""


UNCHECKED: Final = _Unchecked()
"""In place of the value that a call has to return: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One hostile handler, and one trigger of it.

    ``expected`` are the words of which one has to come back: a reason of an EXECUTION_ERROR (``TIMEOUT``),
    the code of another ERROR, ``returned``, ``refused:<code>`` for a definition that is refused with 422
    and that code, ``refused:*`` for any code, ``http:<status>`` for another status, or ``*``. A RESULT must
    hold ``returns``, and must not hold ``secret`` (nor must an ERROR).
    """

    name: str
    handler: object
    expected: frozenset[str]
    args: object = None
    returns: object = UNCHECKED
    secret: str = ""
    limits: Mapping[str, int] = field(default_factory=dict)
    capabilities: tuple[str, ...] | None = None

    @property
    def deadline_ms(self) -> int | None:
        """After which it has to end, where it sets one."""
        return self.limits.get("timeoutMs")

    @property
    def alone(self) -> bool:
        """Whether its definition may be refused, and so has to be sent without others."""
        return any(word.startswith(("refused:", "http:")) or word == ANYTHING for word in self.expected)

    def tool(self, name: str) -> dict[str, Any]:
        """It as a tool of a definition."""
        made: dict[str, Any] = {"name": name, "handler": self.handler}
        if self.limits:
            made["limits"] = dict(self.limits)
        if self.capabilities is not None:
            made["capabilities"] = list(self.capabilities)
        return made

    def allows(self, word: str) -> bool:
        """Whether this may come back."""
        if word in self.expected or ANYTHING in self.expected:
            return True
        return word.startswith("refused:") and "refused:*" in self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A row of the table: calls of one kind, made in order on panels that begin with ``state``.

    ``commits`` says that calls which return may change their panel; without it nothing may be committed.
    """

    family: str
    name: str
    calls: tuple[Call, ...]
    state: Mapping[str, object] = field(default_factory=dict)
    commits: bool = False

    def sampled(self, most: int) -> Attack:
        """With at most ``most`` of its calls, see ``sampled``."""
        return replace(self, calls=tuple(sampled(self.calls, most)))


T = TypeVar("T")


def sampled(whole: Sequence[T], most: int | None) -> Sequence[T]:
    """At most ``most`` (at least 2, or None for all), evenly chosen, the first and the last among them."""
    if most is None or len(whole) <= most:
        return whole
    return [whole[at] for at in sorted({round(at * (len(whole) - 1) / (most - 1)) for at in range(most)})]


def call(name: str, handler: object, *expected: str, **more: Any) -> Call:
    """A call that must end with one of ``expected``."""
    return Call(name=name, handler=handler, expected=frozenset(expected), **more)


def attack(
    family: str,
    name: str,
    calls: Sequence[Call],
    *,
    state: Mapping[str, object] | None = None,
    commits: bool = False,
) -> Attack:
    """An attack of these calls."""
    return Attack(family=family, name=name, calls=tuple(calls), state=state or {}, commits=commits)


def wat(source: str) -> dict[str, str]:
    """A handler in WebAssembly text."""
    return {"language": "wat", "source": source}


def runaway(name: str, handler: object, *expected: str, fuel: int = 10**10, **limits: int) -> Call:
    """A call that only its deadline ends, or one of ``expected``."""
    bounds = {"fuel": fuel, "timeoutMs": DEADLINE_MS, **limits}
    return call(name, handler, *(expected or ("TIMEOUT",)), limits=bounds)
