"""Routes about the gateway itself: whether it works, and what it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.http.answers import json_answer
from panels_gateway.http.health import look, report, status_of
from panels_gateway.observe.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from panels_gateway.http.metrics import Metrics
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.observe.fleet import PoolSummary


class ServiceRoutes:
    """See the module's docstring. ``durability`` is the mode that the journal runs in; ``pools`` tells which
    pools are there.
    """

    def __init__(
        self,
        kernel: Kernel,
        metrics: Metrics,
        *,
        durability: str,
        pools: Callable[[], Sequence[PoolSummary]],
    ) -> None:
        self._kernel = kernel
        self._pools = pools
        self._metrics = metrics
        self._durability = durability

    def routes(self, *, public: bool) -> list[Route]:
        """All of them, for a ``public`` port that has everything or for the administrator's own."""
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics if public else self.named_metrics, methods=["GET"]),
        ]

    def public_routes(self) -> list[Route]:
        """What is left of them for clients where the administrator has a port of their own."""
        return [
            Route("/health", self.readiness, methods=["GET"]),
            Route("/health/live", self.live, methods=["GET"]),
            Route("/health/ready", self.readiness_tried, methods=["GET"]),
        ]

    async def live(self, request: Request) -> Response:
        """200 while the loop goes round. A gateway that does not answer this should be started again."""
        return json_answer({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """200 if a trigger was run just now, or within the last second; else 503, with the reason."""
        reason = await self._kernel.readiness.look()
        if not reason:
            return json_answer({"status": status_of(True)})
        return json_answer({"status": status_of(False), "reason": reason}, status=503)

    async def readiness_tried(self, request: Request) -> Response:
        """The same status as ``ready``, and nothing about why."""
        tried = not await self._kernel.readiness.look()
        return json_answer({"status": status_of(tried)}, status=200 if tried else 503)

    async def health(self, request: Request) -> Response:
        """200 while triggers are taken and can be run, else 503; see ``Condition``."""
        condition = look(self._kernel, self._pools(), durability=self._durability)
        return json_answer(report(condition), status=200 if condition.healthy else 503)

    async def readiness(self, request: Request) -> Response:
        """The same status as ``health``, and nothing about why."""
        healthy = look(self._kernel, (), durability=self._durability).healthy
        return json_answer({"status": status_of(healthy)}, status=200 if healthy else 503)

    async def metrics(self, request: Request) -> Response:
        """All metrics that name nobody, for Prometheus."""
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)

    async def named_metrics(self, request: Request) -> Response:
        """All metrics, those that name panels among them."""
        return Response(self._metrics.exposition(panels=True), media_type=CONTENT_TYPE)
