"""What every route needs: who asks, which panel they mean, and the body that they sent, within bounds."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from starlette.requests import Request

from panels_gateway.http.answers import demand, not_found, overloaded
from panels_gateway.panels.definition_body import DefinitionLimits
from panels_shared.errors import Code, RequestError
from panels_shared.limits import MIB
from panels_shared.names import is_name

if TYPE_CHECKING:
    from starlette.types import Scope

    from panels_gateway.access.gate import Gate
    from panels_gateway.access.tokens import Principal
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.kernel.residents import Resident

#: Bytes of all bodies that are being received, and definitions whose handlers are being compiled; above these
#: the answer is OVERLOADED at once.
MAX_RECEIVING_BYTES: Final = 64 * MIB
MAX_DEFINING: Final = 32
#: Definitions of one subject whose handlers are being compiled; less while other subjects have many.
MAX_DEFINING_PER_SUBJECT: Final = 16

#: The key of an ASGI scope under which the request keeps the panels that it holds in memory; see ``release``.
HELD: Final = "panels.held"

_HOST_PATTERN: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")


def release(scope: Scope) -> None:
    """The request is answered: what it held in memory may be put away."""
    held: list[Resident] = scope.pop(HELD, [])
    for resident in held:
        resident.holds -= 1


class Desk:
    """See the module's docstring. One object serves all routes, and counts their requests in progress."""

    def __init__(
        self,
        kernel: Kernel,
        gate: Gate,
        *,
        limits: DefinitionLimits,
        public_url: str | None,
        max_args_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self.kernel = kernel
        self.gate = gate
        self.limits = limits
        self.max_args_bytes = max_args_bytes
        self._public_url = public_url
        self.body_timeout_s = body_timeout_s
        self._receiving_bytes = 0
        self._defining: Counter[str] = Counter()

    def admit(self, request: Request) -> Principal:
        """Who sent the request. Raises ``RequestError`` UNAUTHORIZED."""
        return self.gate.admit(request.scope)

    async def find(
        self, request: Request, principal: Principal, *, manage: bool = False, tool: str | None = None
    ) -> Resident:
        """The panel in the path.

        Raises ``RequestError`` if there is none, or if the bearer lacks the permission.

        The intake checks the permission to trigger, for every way to trigger.
        """
        panel_id: str = request.path_params["id"]
        readable, manageable = principal.may_read(panel_id), principal.may_manage(panel_id)
        usable = tool is not None and principal.may_trigger(panel_id, tool)
        if self.gate.conceals and not (readable or manageable or usable):
            raise not_found(panel_id)
        # no need to ask the journal for an id that no panel can have
        resident = await self.kernel.residents.open(panel_id) if is_name(panel_id) else None
        if resident is None:
            raise not_found(panel_id)
        if manage:
            demand(manageable, "manage", panel_id)
        elif tool is None:
            demand(readable, "read", panel_id)
        resident.holds += 1
        request.scope.setdefault(HELD, []).append(resident)
        return resident

    async def body(self, request: Request, maximum: int) -> bytes:
        """The request's body. Raises ``RequestError`` if it exceeds ``maximum`` or is late."""
        too_large = RequestError(Code.TOO_LARGE, f"expected a body of at most {maximum} bytes, got more")
        length = request.headers.get("content-length", "0")
        if len(length) > 15 or int(length) > maximum:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.body_timeout_s):
                async for chunk in request.stream():
                    self._receiving_bytes += len(chunk)
                    body += chunk
                    if len(body) > maximum:
                        raise too_large
                    if self._receiving_bytes > MAX_RECEIVING_BYTES:
                        raise overloaded("too many large requests arrive at once")
        except TimeoutError:
            raise RequestError(
                Code.INVALID_REQUEST, f"expected the whole body within {self.body_timeout_s:g} s"
            ) from None
        finally:
            self._receiving_bytes -= len(body)
        return bytes(body)

    @contextmanager
    def defining(self, principal: Principal) -> Generator[None, None, None]:
        """Counts one definition whose handlers are being compiled. Raises ``RequestError`` OVERLOADED."""
        subject = principal.subject or ""
        free = MAX_DEFINING - self._defining.total()
        if not free:
            raise overloaded(f"{MAX_DEFINING} panels are being made already")
        # a subject may have as many as it leaves to others: a few of them cannot take all that there are
        if (own := self._defining[subject]) >= min(MAX_DEFINING_PER_SUBJECT, free):
            raise overloaded(f"you are making {own} panels already")
        self._defining[subject] += 1
        try:
            yield
        finally:
            self._defining[subject] -= 1
            if not self._defining[subject]:
                del self._defining[subject]

    def ws_url(self, request: Request, panel_id: str) -> str:
        """Where clients watch the panel."""
        base = self._public_url
        if base is None:
            host = request.headers.get("host", "")
            # the Host header is the client's word: only what can be a host goes back into an answer
            base = f"{request.url.scheme}://{host if _HOST_PATTERN.fullmatch(host) else 'localhost'}"
        return f"ws{base.removeprefix('http')}/panels/{panel_id}/ws"
