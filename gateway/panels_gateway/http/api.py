"""The HTTP API: a thin shell over the kernel. ``docs/protocol.md`` describes it.

Every answer that is not success is ``{"error": {"code", "message", "details"?}}``. A request is checked in the order: origin
(web pages only), token, permission, body. Handlers raise ``RequestError``; one place turns it into an answer.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.access.gate import Gate
from panels_gateway.access.tokens import Principal
from panels_gateway.broadcast.messages import MAX_TOOL_CHARS
from panels_gateway.http import trigger_body
from panels_gateway.http.metrics import Metrics
from panels_gateway.observe.metrics import CONTENT_TYPE
from panels_gateway.panels import definition
from panels_gateway.panels.definition import DefinitionLimits, trigger_name
from panels_shared import __version__
from panels_shared.errors import CODES, Code, RequestError
from panels_shared.limits import MIB
from panels_shared.names import is_name

if TYPE_CHECKING:
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.panels.panel import Panel

#: Panels in one page of ``GET /panels``.
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
#: Bytes of all bodies that are being received, and definitions whose handlers are being compiled; above these the answer is
#: OVERLOADED at once.
MAX_RECEIVING_BYTES: Final = 64 * MIB
MAX_DEFINING: Final = 32

_HOST_PATTERN: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")

Handler = Callable[[Request], Awaitable[Response]]


_encode = msgspec.json.Encoder().encode


class Api:
    """The routes and what they need."""

    def __init__(
        self,
        kernel: Kernel,
        gate: Gate,
        metrics: Metrics,
        *,
        limits: DefinitionLimits,
        public_url: str | None,
        max_args_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._kernel = kernel
        self._gate = gate
        self._metrics = metrics
        self._limits = limits
        self._public_url = public_url
        self._max_args_bytes = max_args_bytes
        self._body_timeout_s = body_timeout_s
        self._receiving_bytes = 0
        self._defining = 0

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/panels", self.panels, methods=["GET", "POST"]),
            Route("/panels/{id}", self.panel, methods=["GET", "PUT", "DELETE"]),
            Route("/panels/{id}/state", self.state, methods=["GET"]),
            Route("/panels/{id}/trigger/{tool}", self.trigger, methods=["POST"]),
        ]

    # -- the gateway -----------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """200 once a worker can run a job, 503 before and while shutting down."""
        ready = self._kernel.ready
        body = {"status": "ready" if ready else "unavailable", "version": __version__}
        return _json(body, status=200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus."""
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)

    # -- panels ----------------------------------------------------------------------------------------------

    async def panels(self, request: Request) -> Response:
        """GET: a page of the panels that the bearer may read. POST: makes one."""
        principal = self._gate.admit(request.scope)
        if request.method == "POST":
            return await self._create(request, principal)
        return self._list(request, principal)

    async def _create(self, request: Request, principal: Principal) -> Response:
        body = await self._body(request, self._limits.body_bytes)
        made = definition.parse(body, self._limits, default_id=secrets.token_urlsafe(12))
        _demand(principal.may_manage(made.id), "manage", made.id)
        with self._defining_one():
            panel = await self._kernel.create_panel(made)
        answer = {"id": panel.id, "status": "active", "wsUrl": self._ws_url(request, panel)}
        return _json(answer, status=201, headers={"location": f"/panels/{panel.id}"})

    def _list(self, request: Request, principal: Principal) -> Response:
        limit = _page_size(request.query_params.get("limit"))
        after = request.query_params.get("after", "")
        ids = sorted(i for i in self._kernel.panels if i > after and principal.may_read(i))
        page = ids[:limit]
        shown = [self._summary(request, self._kernel.panels[panel_id]) for panel_id in page]
        return _json({"panels": shown, "next": page[-1] if len(ids) > limit else None})

    async def panel(self, request: Request) -> Response:
        """GET: what the panel is. PUT: replaces its definition. DELETE: removes it."""
        principal = self._gate.admit(request.scope)
        if request.method == "PUT":
            panel = self._find(request, principal, manage=True)
            body = await self._body(request, self._limits.body_bytes)
            made = definition.parse(body, self._limits, default_id=panel.id, required_id=panel.id)
            with self._defining_one():
                panel = await self._kernel.replace_panel(panel.id, made)
            return _json({"id": panel.id, "status": "active", "wsUrl": self._ws_url(request, panel)})
        if request.method == "DELETE":
            self._kernel.delete_panel(self._find(request, principal, manage=True).id)
            return Response(status_code=204)
        panel = self._find(request, principal)
        return _json({**self._summary(request, panel), **_description(panel)})

    async def state(self, request: Request) -> Response:
        """The panel's state and its version."""
        panel = self._find(request, self._gate.admit(request.scope))
        body = b'{"panelId":%b,"seq":%d,"state":%b}' % (_encode(panel.id), panel.seq, panel.state_json())
        return Response(body, media_type="application/json")

    async def trigger(self, request: Request) -> Response:
        """Runs a tool; answers with what a WebSocket client would get as RESULT."""
        principal = self._gate.admit(request.scope)
        tool: str = request.path_params["tool"]
        panel = self._find(request, principal, tool=tool)
        if len(tool) > MAX_TOOL_CHARS:
            raise RequestError(
                Code.TOOL_NOT_FOUND, f"expected a tool name of at most {MAX_TOOL_CHARS} characters"
            )
        body = await self._body(request, self._max_args_bytes)
        args, request_id = trigger_body.decode(body, request.headers.get("x-request-id"))
        message = await self._kernel.trigger(panel, tool, args, principal, request_id)
        if message.startswith(b'{"type":"ERROR"'):
            return _from_error_message(message)
        return Response(message, media_type="application/json")

    def _find(
        self, request: Request, principal: Principal, *, manage: bool = False, tool: str | None = None
    ) -> Panel:
        """The panel in the path. Raises ``RequestError`` when there is none or the bearer lacks the permission.

        That to trigger ``tool`` is not checked here but by the kernel, for every way to trigger.
        """
        panel_id: str = request.path_params["id"]
        panel = self._kernel.panels.get(panel_id)
        readable, manageable = principal.may_read(panel_id), principal.may_manage(panel_id)
        usable = tool is not None and principal.may_trigger(panel_id, tool)
        if panel is None or (self._gate.conceals and not (readable or manageable or usable)):
            raise not_found(panel_id)
        if manage:
            _demand(manageable, "manage", panel_id)
        elif tool is None:
            _demand(readable, "read", panel_id)
        return panel

    # -- what they share -------------------------------------------------------------------------------------

    async def _body(self, request: Request, maximum: int) -> bytes:
        """The request's body. Raises ``RequestError`` above ``maximum`` or when it does not come in time."""
        too_large = RequestError(Code.TOO_LARGE, f"expected a body of at most {maximum} bytes, got more")
        length = request.headers.get("content-length", "0")
        if len(length) > 15 or int(length) > maximum:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                async for chunk in request.stream():
                    self._receiving_bytes += len(chunk)
                    body += chunk
                    if len(body) > maximum:
                        raise too_large
                    if self._receiving_bytes > MAX_RECEIVING_BYTES:
                        raise _overloaded("too many large requests arrive at once")
        except TimeoutError:
            raise RequestError(
                Code.INVALID_REQUEST, f"expected the whole body within {self._body_timeout_s:g} s"
            ) from None
        finally:
            self._receiving_bytes -= len(body)
        return bytes(body)

    @contextmanager
    def _defining_one(self) -> Generator[None, None, None]:
        if self._defining >= MAX_DEFINING:
            raise _overloaded(f"{MAX_DEFINING} panels are being made already")
        self._defining += 1
        try:
            yield
        finally:
            self._defining -= 1

    def _ws_url(self, request: Request, panel: Panel) -> str:
        base = self._public_url
        if base is None:
            host = request.headers.get("host", "")
            # the Host header is the client's word: only what can be a host goes back into an answer
            base = f"{request.url.scheme}://{host if _HOST_PATTERN.fullmatch(host) else 'localhost'}"
        return f"ws{base.removeprefix('http')}/panels/{panel.id}/ws"

    def _summary(self, request: Request, panel: Panel) -> dict[str, object]:
        return {
            "id": panel.id,
            "kind": panel.definition.kind,
            "title": panel.definition.title,
            "status": "active",
            "seq": panel.seq,
            "clients": len(self._kernel.room(panel)),
            "createdAt": panel.created_ms,
            "wsUrl": self._ws_url(request, panel),
        }


def _description(panel: Panel) -> dict[str, object]:
    made = panel.definition
    return {
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "language": tool.handler.language,
                "digest": tool.handler.digest.hex(),
                "trigger": {"type": trigger_name(tool.trigger)},
                "capabilities": tool.capabilities,
                "limits": {
                    "fuel": tool.limits.fuel,
                    "timeoutMs": tool.limits.deadline_ms,
                    "memoryBytes": tool.limits.memory_bytes,
                    "hostCalls": tool.limits.host_calls,
                    "outputBytes": tool.limits.output_bytes,
                    "events": tool.limits.events,
                    "logBytes": tool.limits.log_bytes,
                },
            }
            for tool in made.tools
        ],
        "metadata": msgspec.Raw(made.metadata),
        "stateBytes": panel.state_bytes,
    }


def _page_size(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if re.fullmatch(r"[0-9]{1,4}", text) is None or not 1 <= int(text) <= MAX_PAGE:
        raise RequestError(Code.INVALID_REQUEST, f"limit: expected 1 to {MAX_PAGE}", {"path": "limit"})
    return int(text)


def _demand(allowed: bool, permission: str, panel_id: str) -> None:
    if not allowed:
        raise RequestError(Code.FORBIDDEN, f"the token does not allow {permission} on panel {panel_id!r}")


def _overloaded(problem: str) -> RequestError:
    return RequestError(
        Code.OVERLOADED, f"{problem}; try again later", {"retryAfterMs": 1_000, "scope": "gateway"}
    )


def not_found(panel_id: str) -> RequestError:
    """The answer for a panel that is not there. Its text is the same for any id that could not be one."""
    shown = repr(panel_id) if is_name(panel_id) else "of that id"
    return RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {shown}")


# -- answers --------------------------------------------------------------------------------------------------


def _json(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(body), status_code=status, headers=headers, media_type="application/json")


def _from_error_message(message: bytes) -> Response:
    """An ERROR message of the kernel as an HTTP answer."""
    error: dict[str, Any] = msgspec.json.decode(message)
    return error_response(RequestError(Code(error["code"]), error["message"], error.get("details")))


def error_response(error: RequestError) -> Response:
    """``error`` as an answer; one that the client may repeat says when."""
    body: dict[str, object] = {"code": error.code.value, "message": error.message}
    headers: dict[str, str] = {}
    if error.details is not None:
        body["details"] = error.details
        retry_ms = error.details.get("retryAfterMs")
        if isinstance(retry_ms, int | float):
            headers["retry-after"] = str(max(1, math.ceil(retry_ms / 1_000)))
    if error.code is Code.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return _json({"error": body}, status=CODES[error.code].http_status, headers=headers)


async def answer_request_error(request: Request, error: Exception) -> Response:
    """Starlette's hook for ``RequestError``."""
    assert isinstance(error, RequestError)
    return error_response(error)


async def answer_disconnect(request: Request, error: Exception) -> Response:
    """Starlette's hook for a client that went away while it was sending: nobody reads this."""
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=400)
