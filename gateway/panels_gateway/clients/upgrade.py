"""The WebSocket upgrade: refused by a real HTTP answer, or handed over to the WebSocket shell.

The checks, in this order: host, origin, rate of the address (429), path and panel (404), token (401),
permission to read (403), room for one more (503). With ``conceal_panels`` the token comes before the panel,
and a panel that the token may not read is 404.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from panels_gateway.access.addresses import AddressCounts
from panels_gateway.clients import recovery, websocket
from panels_gateway.clients.session import SessionRules
from panels_gateway.http.answers import error_response, not_found
from panels_shared.errors import Code, RequestError
from panels_shared.names import is_name

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from panels_gateway.access.gate import Gate
    from panels_gateway.access.tokens import Principal
    from panels_gateway.clients.connection import ClientLimits
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.kernel.residents import Resident
    from panels_gateway.observe.counters import ClientCounters
    from panels_gateway.observe.refusals import RefusalLog

_PATH_PATTERN: Final = re.compile(r"/panels/([^/]+)/ws")


class Upgrades:
    """Accepts and refuses upgrades, and counts the open WebSockets of each subject and each address.

    ``token_warning_s`` before its token expires, a client is warned; 0 warns nobody.
    ``log`` is told of each refusal.
    """

    def __init__(
        self,
        kernel: Kernel,
        gate: Gate,
        counters: ClientCounters,
        *,
        client_limits: ClientLimits,
        max_per_subject: int,
        max_per_address: int,
        token_warning_s: float,
        clock: Callable[[], float] = time.time,
        on_refused: Callable[[str], None] = lambda reason: None,
        log: RefusalLog,
    ) -> None:
        self._kernel = kernel
        self._gate = gate
        self._counters = counters
        self._client_limits = client_limits
        self._max_per_subject = max_per_subject
        self._on_refused = on_refused
        self._log = log
        self._rules = SessionRules(
            gate=gate, warning_s=token_warning_s, clock=clock, monotonic=time.monotonic
        )
        self._open: dict[str | None, int] = {}
        self._by_address = AddressCounts(max_per_address)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one upgrade request, and its client until the socket is gone."""
        try:
            resident, principal = await self._check(scope)
            asked = recovery.parse(scope["query_string"])
        except RequestError as error:
            await self._refuse(error, scope, send)
            return
        subject, address = principal.subject, self._gate.address(scope)
        if not self._by_address.enter(address):
            self._on_refused("connections")
            await self._refuse(_too_many(self._by_address.maximum), scope, send)
            return
        self._open[subject] = self._open.get(subject, 0) + 1
        resident.holds += 1
        try:
            await websocket.serve(
                self._kernel,
                resident,
                principal,
                scope,
                receive,
                send,
                subprotocol=self._gate.subprotocol(scope),
                limits=self._client_limits,
                counters=self._counters,
                rules=self._rules,
                address=address,
                asked=asked,
            )
        except RequestError as error:
            await self._refuse(error, scope, send)
        finally:
            resident.holds -= 1
            self._by_address.leave(address)
            self._open[subject] -= 1
            if not self._open[subject]:
                del self._open[subject]

    async def _check(self, scope: Scope) -> tuple[Resident, Principal]:
        self._gate.check_host(scope)
        self._gate.check_origin(scope)
        self._gate.check_upgrade_rate(scope)
        match = _PATH_PATTERN.fullmatch(scope["path"])
        if match is None:
            raise RequestError(Code.NOT_FOUND, "there is no WebSocket at this path; expected /panels/{id}/ws")
        panel_id = match[1]
        # no need to ask the journal for an id that no panel can have
        known = is_name(panel_id)
        resident = None
        if not self._gate.conceals:
            resident = await self._kernel.residents.open(panel_id) if known else None
            if resident is None:
                raise not_found(panel_id)
        principal = self._gate.admit(scope)
        # the leeway is for requests: a socket would be closed as soon as it is open
        if principal.expires_at is not None and principal.expires_at <= self._rules.clock():
            raise RequestError(Code.UNAUTHORIZED, "the token has expired")
        if not principal.may_read(panel_id):
            if self._gate.conceals:
                raise not_found(panel_id)
            raise RequestError(Code.FORBIDDEN, f"the token does not allow read on panel {panel_id!r}")
        if resident is None:
            resident = await self._kernel.residents.open(panel_id) if known else None
        if resident is None:
            raise not_found(panel_id)
        if self._kernel.intake.closing:
            raise RequestError(Code.UNAVAILABLE, "the gateway is shutting down", {"retryAfterMs": 1_000})
        if self._open.get(principal.subject, 0) >= self._max_per_subject:
            raise RequestError(
                Code.OVERLOADED,
                f"expected at most {self._max_per_subject} connections of one subject; close one first",
                {"retryAfterMs": 1_000, "scope": "subject"},
            )
        return resident, principal

    async def _refuse(self, error: RequestError, scope: Scope, send: Send) -> None:
        self._log.write(error, scope, self._gate.address(scope))
        response = error_response(error)
        self._counters.count_rejected_upgrade(response.status_code)
        await send(
            {
                "type": "websocket.http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await send({"type": "websocket.http.response.body", "body": bytes(response.body)})


def _too_many(maximum: int) -> RequestError:
    return RequestError(
        Code.OVERLOADED,
        f"expected at most {maximum} connections of one address; close one first",
        {"retryAfterMs": 1_000, "scope": "address"},
    )
