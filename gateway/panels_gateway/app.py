"""The ASGI application: wires gate, HTTP API and upgrades to a kernel. Nothing else does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from panels_gateway.access.addresses import Addresses
from panels_gateway.access.credentials import OriginPolicy, own_origins
from panels_gateway.access.gate import AddressLimits, Gate
from panels_gateway.access.hosts import HostPolicy, own_hosts
from panels_gateway.access.tokens import TokenRules, TokenVerifier
from panels_gateway.broadcast.outbox import OutboxLimits
from panels_gateway.clients.connection import ClientLimits
from panels_gateway.clients.upgrade import Upgrades
from panels_gateway.http.answers import answer_disconnect, answer_request_error, error_response
from panels_gateway.http.desk import Desk, release
from panels_gateway.http.handler_logs import HandlerLogRoutes
from panels_gateway.http.histories import HistoryRoutes
from panels_gateway.http.metrics import Metrics
from panels_gateway.http.panels import PanelRoutes
from panels_gateway.http.reader import Readers
from panels_gateway.http.revocations import RevocationRoutes
from panels_gateway.http.service import ServiceRoutes
from panels_gateway.http.streams import StreamRoutes
from panels_gateway.http.suspensions import SuspensionRoutes
from panels_gateway.http.tools import ToolRoutes
from panels_gateway.http.triggers import TriggerRoutes
from panels_gateway.journal.journal import JournalError
from panels_gateway.kernel.quotas import QuotaLimits
from panels_gateway.observe.access_log import AccessLog
from panels_gateway.observe.counters import BrokerCounters, ClientCounters, HttpCounters, RefusalCounters
from panels_gateway.observe.refusals import RefusalLog
from panels_gateway.panels.breaker import BreakerLimits
from panels_gateway.panels.definition_body import DefinitionLimits
from panels_gateway.panels.panel import StateLimits
from panels_gateway.panels.quota import Quota
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from panels_gateway.configuration.config import (
        BreakerConfig,
        ClientConfig,
        GatewayConfig,
        PanelsConfig,
        QuotasConfig,
    )
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.observe.fleet import PoolSummary
    from panels_gateway.observe.pools import PoolReports

_CHANGING: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))

_log = logging.getLogger("panels.gateway")


class GatewayApp:
    """Every request comes in here. ``counters`` is what its metrics are made from, ``http`` has the routes of
    clients, and ``admin`` is the application of the port that only administrators reach.
    """

    def __init__(
        self,
        http: Starlette,
        upgrades: Upgrades,
        gate: Gate,
        counters: HttpCounters,
        refusals: RefusalCounters,
        refusal_log: RefusalLog,
        admin: ASGIApp,
        access_log: AccessLog | None = None,
    ) -> None:
        self.http = http
        self.admin = admin
        self._upgrades = upgrades
        self._gate = gate
        self.counters = counters
        self.refusals = refusals
        self._refusal_log = refusal_log
        self._access_log = access_log

    def change(self, config: GatewayConfig) -> None:
        """Goes by the names and the limits for addresses of ``config`` from the next request on."""
        listen = config.listen
        self._gate.change(
            host_policy(config), upgrades=listen.upgrade_rate, failures=listen.auth_failure_rate
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "http":
            self._gate.open(scope)
            if self._access_log is None:
                await self._serve_http(scope, receive, send)
            else:
                with self._access_log.of(scope, self._gate.address(scope)) as access:
                    await self._serve_http(scope, receive, access.listen(send))
        elif scope["type"] == "websocket":
            self._gate.open(scope)
            if self._access_log is None:
                await self._upgrades.serve(scope, receive, send)
            else:
                with self._access_log.of(scope, self._gate.address(scope)) as access:
                    await self._upgrades.serve(scope, receive, access.listen(send))

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def counted(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                self.counters.count_request(message["status"])
            await send(message)

        try:
            self._gate.check_host(scope)
            if scope["method"] in _CHANGING:
                self._gate.check_origin(scope)
        except RequestError as error:
            self._refusal_log.write(error, scope, self._gate.address(scope))
            await error_response(error)(scope, receive, counted)
            return
        try:
            await self.http(scope, receive, counted)
        except asyncio.CancelledError:
            # the server stops and has waited long enough; only it cancels requests
            if begun:
                raise
            stopping = RequestError(Code.UNAVAILABLE, "the gateway is shutting down", {"retryAfterMs": 1_000})
            await error_response(stopping)(scope, receive, counted)
        finally:
            release(scope)


def host_policy(config: GatewayConfig) -> HostPolicy:
    """The names that the gateway answers to, as configured."""
    listen = config.listen
    hosts = listen.allowed_hosts
    if hosts is None and not config.auth.enabled:
        hosts = own_hosts(listen.host, listen.public_url)
    return HostPolicy(hosts)


def client_limits(config: ClientConfig) -> ClientLimits:
    """The bounds of one client, as configured."""
    outbox = OutboxLimits(soft_bytes=config.send_soft_bytes, hard_bytes=config.send_hard_bytes)
    return ClientLimits(
        in_flight=config.in_flight,
        admitted=config.admitted,
        rate=config.rate,
        messages=config.messages,
        outbox=outbox,
    )


def state_limits(config: PanelsConfig) -> StateLimits:
    """The bounds of one panel's state, as configured."""
    return StateLimits(bytes=config.state_bytes, keys=config.state_keys)


def quota_limits(config: QuotasConfig) -> QuotaLimits:
    """The quotas of subjects, panels and tools, as configured."""
    window_s = config.window_s
    return QuotaLimits(
        subject=Quota(fuel=config.subject_fuel, time_ms=config.subject_ms, window_s=window_s),
        panel=Quota(fuel=config.panel_fuel, time_ms=config.panel_ms, window_s=window_s),
        tool=Quota(fuel=config.tool_fuel, time_ms=config.tool_ms, window_s=window_s),
    )


def breaker_limits(config: BreakerConfig) -> BreakerLimits:
    """When tools are suspended, as configured."""
    return BreakerLimits(
        failures=config.failures, backoff_s=config.backoff_s, max_backoff_s=config.max_backoff_s
    )


def definition_limits(config: PanelsConfig) -> DefinitionLimits:
    """The bounds of one panel's definition, as configured."""
    return DefinitionLimits(
        body_bytes=config.body_bytes,
        tools=config.tools,
        state_bytes=config.state_bytes,
        state_keys=config.state_keys,
        maxima=config.maxima,
    )


def create_app(
    kernel: Kernel,
    config: GatewayConfig,
    verifier: TokenVerifier | None,
    *,
    bus: BrokerCounters,
    port: int,
    pools: Callable[[], Sequence[PoolSummary]] = tuple,
    reports: PoolReports | None = None,
) -> GatewayApp:
    """The application.

    ``verifier`` None lets everybody in; ``port`` is the one that is really listened on; ``pools`` tells which
    pools of workers are there, and ``reports`` has what they say of themselves.
    """
    listen = config.listen
    own = own_origins(listen.host, port, listen.public_url)
    refusals, refusal_log = RefusalCounters(), RefusalLog()
    gate = Gate(
        verifier,
        host_policy(config),
        OriginPolicy(listen.allowed_origins, own=own),
        conceals=config.auth.conceal_panels,
        revocations=kernel.revoking.revocations,
        limits=AddressLimits(
            addresses=Addresses(listen.trusted_proxies),
            upgrades=listen.upgrade_rate,
            failures=listen.auth_failure_rate,
        ),
        on_refused=refusals.count,
    )
    counters, clients = HttpCounters(), ClientCounters()
    metrics = Metrics(kernel, http=counters, clients=clients, bus=bus, refusals=refusals, reports=reports)
    desk = Desk(
        kernel,
        gate,
        limits=definition_limits(config.panels),
        public_url=listen.public_url,
        max_args_bytes=listen.max_frame_bytes,
        body_timeout_s=listen.body_timeout_s,
    )
    readers = Readers(
        desk,
        max_per_subject=listen.max_connections_per_subject,
        max_per_address=listen.max_connections_per_address,
        clock=time.time,
        on_refused=refusals.count,
    )
    service = ServiceRoutes(kernel, metrics, durability=config.record.durability, pools=pools)
    http = Starlette(
        routes=[
            *(service.routes(public=True) if listen.admin is None else service.public_routes()),
            *PanelRoutes(desk).routes(),
            *HistoryRoutes(desk).routes(),
            *StreamRoutes(desk, readers).routes(),
            *HandlerLogRoutes(desk, readers).routes(),
            *TriggerRoutes(desk).routes(),
            *SuspensionRoutes(desk).routes(),
            *ToolRoutes(desk).routes(),
            *RevocationRoutes(
                desk,
                token_lifetime_s=config.auth.max_lifetime_s + TokenRules().leeway_s,
                clock=time.time,
            ).routes(),
        ],
        middleware=_cross_origin(listen.allowed_origins),
        exception_handlers={**_ANSWERS, RequestError: _logging(refusal_log, gate)},
    )
    admin = Starlette(routes=service.routes(public=False), exception_handlers=_ANSWERS)
    admin_hosts = own_hosts(listen.admin[0] if listen.admin else listen.host, listen.public_url)
    admin_policy = HostPolicy((*admin_hosts, *(listen.allowed_hosts or ())), addresses=True)
    http.router.redirect_slashes = admin.router.redirect_slashes = False
    upgrades = Upgrades(
        kernel,
        gate,
        clients,
        client_limits=client_limits(config.client),
        max_per_subject=listen.max_connections_per_subject,
        max_per_address=listen.max_connections_per_address,
        token_warning_s=config.auth.token_warning_s,
        on_refused=refusals.count,
        log=refusal_log,
    )
    return GatewayApp(
        http,
        upgrades,
        gate,
        counters,
        refusals,
        refusal_log,
        _of_hosts(admin, admin_policy),
        AccessLog() if config.access_log else None,
    )


def _of_hosts(app: ASGIApp, policy: HostPolicy) -> ASGIApp:
    """``app`` for requests whose Host the policy allows: metrics are not for pages of other sites."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            policy.check(scope["headers"])
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return checked


def _cross_origin(allowed: tuple[str, ...] | None) -> list[Middleware]:
    """What lets pages of the allowed origins read answers; their own origin needs none."""
    if allowed is None:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(allowed),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=[
                "authorization",
                "content-type",
                "x-request-id",
                "idempotency-key",
                "if-none-match",
            ],
            expose_headers=[
                "location",
                "retry-after",
                "etag",
                "stream-next-offset",
                "stream-cursor",
                "stream-up-to-date",
            ],
        )
    ]


def _logging(log: RefusalLog, gate: Gate) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Starlette's hook for ``RequestError`` that has refusals logged."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        log.write(error, request.scope, gate.address(request.scope))
        return error_response(error)

    return answer


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = dict(error.headers or {}).get("Allow", "")
        response = error_response(
            RequestError(
                Code.METHOD_NOT_ALLOWED, f"expected one of {allow} at this path, got {request.method}"
            )
        )
        response.headers["allow"] = allow
        return response
    return error_response(RequestError(Code.NOT_FOUND, "there is nothing at this path"))


async def _answer_unreadable(request: Request, error: Exception) -> Response:
    _log.error("%s %s: the journal cannot be read: %s", request.method, request.url.path, error)
    return error_response(
        RequestError(
            Code.INTERNAL, "what is asked for is stored but cannot be read; the server's log says why"
        )
    )


async def _answer_defect(request: Request, error: Exception) -> Response:
    # Starlette raises it again behind this answer, so that the server logs it with its traceback
    return error_response(RequestError(Code.INTERNAL, "a defect of the server; its log has the detail"))


_ANSWERS: Final[Mapping[Any, Any]] = {
    RequestError: answer_request_error,
    ClientDisconnect: answer_disconnect,
    HTTPException: _answer_http_exception,
    JournalError: _answer_unreadable,
    Exception: _answer_defect,
}
