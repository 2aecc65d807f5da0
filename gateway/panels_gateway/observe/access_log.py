"""The access log: one line for each HTTP request that was answered and each WebSocket that was closed.

It is off unless ``--access-log`` is given, and costs nothing then. A line has a path without its query, and
no header: there is nowhere for a token to be. Requests of ``/health`` and ``/metrics``, which come every few
seconds, are logged at debug.

Queue: none, lines are written at once. Bound: one line a request, which ``--upgrade-rate`` and the bounds of
connections limit; whoever cannot afford that leaves it off.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Final

from panels_shared.loglines import MAX_FIELD_CHARS

_log = logging.getLogger("panels.gateway.access")

#: What ``send`` of ASGI is.
Send = Callable[[Any], Awaitable[None]]

_FREQUENT: Final = ("/health", "/metrics")
#: What a request that nobody answered is logged with: its client went away first.
UNANSWERED: Final = 499


class Access:
    """One request on its way. ``listen`` wraps the ``send`` that answers it."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = UNANSWERED

    def listen(self, send: Send) -> Send:
        """A ``send`` that notes the status."""

        async def noting(message: Any) -> None:
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                self.status = message["status"]
            elif kind == "websocket.accept":
                self.status = 101
            await send(message)

        return noting


class AccessLog:
    """See the module's docstring. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    @contextlib.contextmanager
    def of(self, scope: Mapping[str, Any], address: str) -> Generator[Access, None, None]:
        """The request in an ASGI ``scope`` that has lost its credentials; it is logged when the context
        ends.
        """
        access, began_s = Access(), self._clock()
        # the scope is changed on the way; what was asked for is not
        path: str = scope["path"][:MAX_FIELD_CHARS]
        method: str = scope.get("method", "WEBSOCKET")
        if not address and scope.get("client"):
            address = scope["client"][0]
        try:
            yield access
        finally:
            _log.log(
                logging.DEBUG if path.startswith(_FREQUENT) else logging.INFO,
                "%s %s %d",
                method,
                path,
                access.status,
                extra={
                    "method": method,
                    "path": path,
                    "status": access.status,
                    "ms": round((self._clock() - began_s) * 1_000),
                    "address": address or None,
                },
            )
