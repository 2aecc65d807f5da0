"""Who reads a panel's stream live: what wakes a reader, and what ends it.

    ┌ reads ┐ nothing left      ┌ waits ┐ bell, end, until_s      ┌ over ┐
    │       │ ────────────────▶ │       │ ──────────────────────▶ │      │
    └───────┘ ◀──────────────── └───────┘                         └──────┘

A reader is over when its time is up, its client is gone, its token was revoked, the panel was deleted or the
gateway stops. It is counted for its subject and its address, like a WebSocket, and beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from panels_gateway.access.addresses import AddressCounts
from panels_gateway.broadcast import bell
from panels_gateway.http.answers import not_found, overloaded
from panels_shared.errors import CloseCode, Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from panels_gateway.access.tokens import Principal
    from panels_gateway.http.desk import Desk
    from panels_gateway.kernel.residents import Resident
    from panels_gateway.kernel.turn import Turn
    from panels_gateway.panels.panel import Panel

#: Live readers of all panels.
MAX_READERS: Final = 4_096


class Reader:
    """One live reader; see the module's docstring. ``error`` says what a reader that is over is told; None
    where its answer just ends. ``until_s`` is by the loop's clock.
    """

    __slots__ = ("_stirred", "_turn", "error", "over", "panel", "principal", "until_s")

    def __init__(self, panel: Panel, principal: Principal, turn: Turn, until_s: float) -> None:
        self.panel = panel
        self.principal = principal
        self.until_s = until_s
        self.over = False
        self.error: RequestError | None = None
        self._turn = turn
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """There may be something to read."""
        self._stirred.set()

    def end(self, error: RequestError | None = None) -> None:
        """It is over."""
        if not self.over:
            self.over = True
            self.error = error
        self._stirred.set()

    def close(self, code: CloseCode, reason: str) -> None:
        """The panel was deleted: it is over once that is durable."""
        self._turn.after(lambda: self.end(not_found(self.panel.id)))

    def dismiss(self, reason: str) -> None:
        """The token holds no more: nothing is shown from here on."""
        self.end(RequestError(Code.UNAUTHORIZED, reason))

    async def wait(self, seq: int, until_s: float) -> bool:
        """Returns once the panel may have a version other than ``seq``, or the reader is over; False where
        neither has come by ``until_s``.
        """
        return await self.wait_for(lambda: self.panel.seq != seq, until_s)

    async def wait_for(self, condition: Callable[[], bool], until_s: float) -> bool:
        """Returns once ``condition`` holds, which is asked again whenever the reader is stirred, or the
        reader is over; False where neither has come by ``until_s``.
        """
        while not condition() and not self.over:
            self._stirred.clear()
            try:
                async with asyncio.timeout_at(until_s):
                    await self._stirred.wait()
            except TimeoutError:
                return False
        return True


class Readers:
    """All live readers, and the bounds on them. ``clock`` gives Unix seconds; ``on_refused`` is told of what
    is refused for the address.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        max_per_subject: int,
        max_per_address: int,
        clock: Callable[[], float],
        on_refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._desk = desk
        self._kernel = desk.kernel
        self._clock = clock
        self._on_refused = on_refused
        self._max_per_subject = max_per_subject
        self._by_subject: dict[str | None, int] = {}
        self._by_address = AddressCounts(max_per_address)

    @asynccontextmanager
    async def reading(
        self, scope: Scope, receive: Receive, resident: Resident, principal: Principal, seconds: float
    ) -> AsyncGenerator[Reader]:
        """A reader of the panel, for at most ``seconds`` and no longer than its token holds.

        Raises ``RequestError`` UNAUTHORIZED, OVERLOADED, UNAVAILABLE.
        """
        kernel = self._kernel
        if principal.expires_at is not None:
            # the leeway is for requests that are answered at once
            seconds = min(seconds, principal.expires_at - self._clock())
            if seconds <= 0:
                raise RequestError(Code.UNAUTHORIZED, "the token has expired")
        self._desk.gate.require_valid(principal)
        if kernel.intake.closing:
            raise RequestError(Code.UNAVAILABLE, "the gateway is shutting down", {"retryAfterMs": 1_000})
        subject, address = principal.subject, self._desk.gate.address(scope)
        self._enter(subject, address)
        until_s = asyncio.get_running_loop().time() + seconds
        reader = Reader(resident.panel, principal, kernel.turn, until_s)
        kernel.making.watchers[reader] = None
        kernel.intake.patient.add(reader.end)
        bell.listen(resident.room, reader.stir)
        looking = asyncio.ensure_future(_look(receive, reader))
        try:
            yield reader
        finally:
            looking.cancel()
            bell.ignore(resident.room, reader.stir)
            kernel.intake.patient.discard(reader.end)
            del kernel.making.watchers[reader]
            self._leave(subject, address)

    def _enter(self, subject: str | None, address: str) -> None:
        if self._kernel.counters.stream_readers >= MAX_READERS:
            raise overloaded(f"{MAX_READERS} clients read streams already")
        if self._by_subject.get(subject, 0) >= self._max_per_subject:
            raise RequestError(
                Code.OVERLOADED,
                f"expected at most {self._max_per_subject} live readers of one subject; end one first",
                {"retryAfterMs": 1_000, "scope": "subject"},
            )
        if not self._by_address.enter(address):
            self._on_refused("connections")
            raise RequestError(
                Code.OVERLOADED,
                f"expected at most {self._by_address.maximum} live readers of one address; end one first",
                {"retryAfterMs": 1_000, "scope": "address"},
            )
        self._by_subject[subject] = self._by_subject.get(subject, 0) + 1
        self._kernel.counters.stream_readers += 1

    def _leave(self, subject: str | None, address: str) -> None:
        self._kernel.counters.stream_readers -= 1
        self._by_address.leave(address)
        self._by_subject[subject] -= 1
        if not self._by_subject[subject]:
            del self._by_subject[subject]


async def _look(receive: Receive, reader: Reader) -> None:
    """Ends the reader once its client has hung up."""
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        reader.end()
