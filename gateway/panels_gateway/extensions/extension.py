"""What an extension is made of: a class, methods that say what they take, and the context of a call.

    class Weather(Extension):
        name = "weather"

        @method(timeout_s=2, repeatable=True)
        async def today(self, context: CallContext, city: str, *, unit: str = "celsius") -> Report: ...

A handler calls ``await $ext.weather.today("Oslo", {unit: "kelvin"})``: arguments fill the positional
parameters in order, and one object after them fills the keyword-only ones, whose names are in camelCase
there. A guest that sends an object instead of an array fills all parameters by name.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol, TypeVar

from panels_gateway.extensions.messages import MAX_LEDGER_ENTRIES, LedgerEntry

#: Where ``method`` leaves its declaration on a function.
DECLARATION: Final = "__panels_method__"
#: How extensions and methods may be called: names that JavaScript and capabilities can spell.
NAME_PATTERN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOptions:
    """How calls of a method are made.

    - ``timeout_s``: how long a call may run before it is cancelled.
    - ``concurrency``: how many may run at once in all; 0 is as many as the gateway allows.
    - ``repeatable``: whether a call that was lost with the process may be made again with the same
      idempotency key, so that it happens at least once. Otherwise the handler gets an error, and the
      call happened at most once.
    - ``name``: what handlers call it, if that is not the function's name.
    """

    timeout_s: float = 30.0
    concurrency: int = 0
    repeatable: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 86_400:
            raise ValueError(f"expected timeout_s above 0 and up to 86400, got {self.timeout_s}")
        if self.concurrency < 0:
            raise ValueError(f"expected concurrency of at least 0, got {self.concurrency}")


def method(
    *, timeout_s: float = 30.0, concurrency: int = 0, repeatable: bool = False, name: str = ""
) -> Callable[[F], F]:
    """Declares an async method that handlers can call; ``MethodOptions`` explains the words."""
    options = MethodOptions(timeout_s=timeout_s, concurrency=concurrency, repeatable=repeatable, name=name)

    def declare(function: F) -> F:
        setattr(function, DECLARATION, options)
        return function

    return declare


@dataclass(slots=True, kw_only=True)
class CallContext:
    """Who calls, and under which key.

    ``principal`` is the subject whose trigger this is, "" for the panel itself. ``idempotency_key`` is the
    same when the call is made again after a crash: hand it to systems that know such keys. ``ledger`` grows
    with every exchange with another host. ``traceparent`` names the span of this call for spans below it (W3C
    Trace Context), "" where the trigger is not traced.
    """

    extension: str
    method: str
    panel: str
    tool: str
    principal: str
    suspension: str
    idempotency_key: str
    traceparent: str = ""
    ledger: list[LedgerEntry] = field(default_factory=list)

    def record(self, entry: LedgerEntry) -> None:
        """Adds to the ledger. What is beyond ``MAX_LEDGER_ENTRIES`` is dropped; egress stops before that."""
        if len(self.ledger) < MAX_LEDGER_ENTRIES:
            self.ledger.append(entry)


class Fetch(Protocol):
    """The one way out to other hosts; ``http.egress.Egress`` is what keeps it."""

    async def fetch(self, context: CallContext, request: Any) -> Any:
        """Performs an ``http.egress.EgressRequest`` and returns an ``EgressAnswer``.

        Raises ``CallFailedError``.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What an extension gets at its start: its own settings, and the way out that knows
    policy and keeps the ledger.
    """

    settings: Mapping[str, Any]
    egress: Fetch


class Extension:
    """Base of extensions. One object serves all calls, in one event loop: never block it."""

    name: ClassVar[str] = ""

    async def startup(self, environment: Environment) -> None:
        """Opens what the extension needs. An exception ends the start of all extensions."""

    async def shutdown(self) -> None:
        """Closes it. No call runs any more. Called once, and only after a ``startup`` that returned."""


Arguments = Mapping[str, Any]
CallNext = Callable[[], Awaitable[Any]]


class Interceptor(Protocol):
    """An async function around every call, for policy and audit.

    It returns what ``await call_next()`` returned, or something else; it refuses a call by raising
    ``ExtensionError``. ``arguments`` have been validated, are by parameter name and must not be changed. Its
    time counts as the method's.
    """

    async def __call__(self, context: CallContext, arguments: Arguments, call_next: CallNext) -> Any:
        """Around one call."""
