"""Routes about the gateway itself: whether it works, and what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.http.answers import json_answer
from panels_gateway.observe.metrics import CONTENT_TYPE
from panels_shared import __version__

if TYPE_CHECKING:
    from panels_gateway.http.metrics import Metrics
    from panels_gateway.kernel.kernel import Kernel


class ServiceRoutes:
    """See the module's docstring. ``durability`` is the mode that the journal runs in."""

    def __init__(self, kernel: Kernel, metrics: Metrics, *, durability: str) -> None:
        self._kernel = kernel
        self._metrics = metrics
        self._durability = durability

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]

    async def health(self, request: Request) -> Response:
        """200 once a worker can run a job, 503 before and while shutting down."""
        ready = self._kernel.ready
        body = {
            "status": "ready" if ready else "unavailable",
            "version": __version__,
            "durability": self._durability,
        }
        return json_answer(body, status=200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """All metrics, for Prometheus."""
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)
