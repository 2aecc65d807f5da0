"""The route that resets a tool's circuit breaker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.http.desk import Desk


class ToolRoutes:
    """See the module's docstring."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kernel = desk.kernel

    def routes(self) -> list[Route]:
        """All of them."""
        return [Route("/panels/{id}/tools/{tool}/reset", self.reset, methods=["POST"])]

    async def reset(self, request: Request) -> Response:
        """POST: forgets the failures of a tool, so that it is not suspended any more."""
        desk = self._desk
        resident = await desk.find(request, desk.admit(request), manage=True)
        tool: str = request.path_params["tool"]
        if tool not in resident.panel.tools:
            text = f"expected a tool of panel {resident.panel.id!r}, got {tool[:128]!r}"
            raise RequestError(Code.TOOL_NOT_FOUND, text)
        self._kernel.breakers.reset(resident, tool)
        return Response(status_code=204)
