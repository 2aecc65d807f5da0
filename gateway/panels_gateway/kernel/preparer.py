"""Waits until workers have compiled the handlers of a definition.

The only part of the kernel that awaits workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from panels_gateway.dispatch.catalog import Preparation
from panels_gateway.dispatch.preparations import Preparations
from panels_gateway.panels.definition import PanelDefinition
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

    async def prepare(self, definition: PanelDefinition) -> None:
        """Returns when some pool can run each handler.

        Raises ``RequestError``: INVALID_HANDLER (with the tool, and the place where there is one),
        UNAVAILABLE.
        """
        if self._closing:
            raise _stopping()
        waiting = self._begin(definition)
        if not waiting:
            return
        self._request_send()
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await asyncio.wait(waiting.values())
        except TimeoutError:
            raise RequestError(
                Code.UNAVAILABLE,
                "no worker compiled the handlers in time; try again",
                {"retryAfterMs": 1_000},
            ) from None
        finally:
            for digest, future in waiting.items():
                if not future.done():
                    future.cancel()
                    self._waiting[digest].remove(future)
        for tool in definition.tools:
            waited = waiting.get(tool.handler.digest)
            if waited is not None and (refusal := waited.result()) is not None:
                raise refused(tool.name, refusal)

    def _begin(self, definition: PanelDefinition) -> dict[bytes, asyncio.Future[Refusal | None]]:
        now = self._clock()
        waiting: dict[bytes, asyncio.Future[Refusal | None]] = {}
        for tool in definition.tools:
            handler = tool.handler
            if handler.digest in waiting:
                continue
            known = self._preparations.prepare(handler, now)
            if isinstance(known, Refusal):
                raise refused(tool.name, known)
            if known is Preparation.PENDING:
                future: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
                self._waiting.setdefault(handler.digest, []).append(future)
                waiting[handler.digest] = future
        return waiting

    def close(self) -> None:
        """The gateway stops: nobody waits for a handler any longer."""
        self._closing = True
        refusal = Refusal("unavailable", "the gateway is shutting down; try again")
        for digest in list(self._waiting):
            self.prepared(digest, refusal)

    def prepared(self, digest: bytes, refusal: Refusal | None) -> None:
        """Notes that a handler was compiled, or refused."""
        for future in self._waiting.pop(digest, ()):
            if not future.done():
                future.set_result(refusal)


def _stopping() -> RequestError:
    return RequestError(Code.UNAVAILABLE, "the gateway is shutting down; try again", {"retryAfterMs": 1_000})


def refused(tool: str, refusal: Refusal) -> RequestError:
    """Why the handler of ``tool`` cannot be run, for its author."""
    if refusal.code == "unavailable":
        return RequestError(Code.UNAVAILABLE, refusal.message, {"retryAfterMs": 1_000})
    details: dict[str, object] = {"tool": tool, "reason": refusal.code}
    if refusal.line:
        details["location"] = {"line": refusal.line, "column": refusal.column}
        details["line"], details["column"] = refusal.line, refusal.column
    return RequestError(Code.INVALID_HANDLER, f"tool {tool!r}: {refusal.message}", details)
