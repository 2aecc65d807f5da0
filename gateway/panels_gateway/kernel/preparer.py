"""Waits until workers have compiled the handlers of a definition.

The only part of the kernel that awaits workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from panels_gateway.dispatch.catalog import Preparation
from panels_gateway.dispatch.preparations import OVER_BUDGET, Preparations, key_of
from panels_gateway.panels.definition import HandlerSource, PanelDefinition
from panels_shared.errors import Code, RequestError
from panels_shared.messages import Refusal

#: How long making a panel waits for its handlers, in seconds; preparing one has shorter limits of its own.
PREPARE_TIMEOUT_S: Final = 30.0


class Preparer:
    """See the module's docstring.

    ``request_send`` is called when the dispatcher has something to ask of workers.
    """

    def __init__(
        self, preparations: Preparations, request_send: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._preparations = preparations
        self._request_send = request_send
        self._clock = clock
        self._closing = False
        self._waiting: dict[bytes, list[asyncio.Future[Refusal | None]]] = {}

    async def prepare(self, definition: PanelDefinition, *, subject: str = "") -> None:
        """Returns when some pool can run each handler. The first refusal of a handler ends it for all.

        ``subject`` is whose turn and whose CPU seconds it is. Raises ``RequestError``: INVALID_HANDLER (with
        the tool, and the place where there is one), UNAVAILABLE, QUOTA_EXCEEDED.
        """
        if self._closing:
            raise _stopping()
        label = definition.label
        handlers: dict[bytes, HandlerSource] = {
            tool.handler.digest: tool.handler for tool in definition.tools
        }
        waiting: dict[bytes, asyncio.Future[Refusal | None]] = {}
        refusal: tuple[bytes, Refusal] | None = None
        try:
            for digest, handler in handlers.items():
                known = self._preparations.prepare(handler, self._clock(), subject=subject, label=label)
                if isinstance(known, Refusal):
                    refusal = digest, known
                    break
                if known is Preparation.PENDING:
                    future: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
                    self._waiting.setdefault(key_of(digest, label), []).append(future)
                    waiting[digest] = future
            if waiting and refusal is None:
                self._request_send()
                refusal = await _first_refusal(waiting)
        finally:
            for digest, future in waiting.items():
                if not future.done():
                    self._leave(digest, label, future)
        if refusal is not None:
            retry_after_s = self._preparations.retry_after_s(subject, self._clock())
            tool = next(tool for tool in definition.tools if tool.handler.digest == refusal[0])
            raise refused(tool.name, refusal[1], retry_after_s=retry_after_s)

    def _leave(self, digest: bytes, label: str, future: asyncio.Future[Refusal | None]) -> None:
        """One of those who wait for a handler does not any more."""
        future.cancel()
        key = key_of(digest, label)
        futures = self._waiting.get(key, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(key, None)
            self._preparations.abandon(digest, self._clock(), label=label)
            self._request_send()

    def close(self) -> None:
        """The gateway stops: nobody waits for a handler any longer."""
        self._closing = True
        refusal = Refusal("unavailable", "the gateway is shutting down; try again")
        for key in list(self._waiting):
            self.prepared(key, refusal)

    def prepared(self, key: bytes, refusal: Refusal | None) -> None:
        """Notes that a handler was compiled, or refused; ``key`` is its ``key_of``."""
        for future in self._waiting.pop(key, ()):
            if not future.done():
                future.set_result(refusal)


def _stopping() -> RequestError:
    return RequestError(Code.UNAVAILABLE, "the gateway is shutting down; try again", {"retryAfterMs": 1_000})


async def _first_refusal(
    waiting: dict[bytes, asyncio.Future[Refusal | None]],
) -> tuple[bytes, Refusal] | None:
    """Waits until all handlers are compiled, or one is refused: its digest, and why. None when all are.

    Raises ``RequestError`` UNAVAILABLE.
    """
    left = set(waiting.values())
    try:
        async with asyncio.timeout(PREPARE_TIMEOUT_S):
            while left:
                _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                for digest, future in waiting.items():
                    if future.done() and (refusal := future.result()) is not None:
                        return digest, refusal
    except TimeoutError:
        raise RequestError(
            Code.UNAVAILABLE,
            "no worker compiled the handlers in time; try again",
            {"retryAfterMs": 1_000},
        ) from None
    return None


def refused(tool: str, refusal: Refusal, *, retry_after_s: float = 1.0) -> RequestError:
    """Why the handler of ``tool`` cannot be run, for its author."""
    if refusal.code == OVER_BUDGET:
        details: dict[str, object] = {
            "quota": "compile",
            "retryAfterMs": round(max(1.0, retry_after_s) * 1_000),
        }
        return RequestError(Code.QUOTA_EXCEEDED, f"{refusal.message}; try again later", details)
    if refusal.code == "unavailable":
        return RequestError(Code.UNAVAILABLE, refusal.message, {"retryAfterMs": 1_000})
    details = {"tool": tool, "reason": refusal.code}
    if refusal.line:
        details["location"] = {"line": refusal.line, "column": refusal.column}
        details["line"], details["column"] = refusal.line, refusal.column
    return RequestError(Code.INVALID_HANDLER, f"tool {tool!r}: {refusal.message}", details)
