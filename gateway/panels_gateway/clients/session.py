"""Who a connected client is, from its upgrade to its end: its token's expiry, renewal and revocation.

The rest of the connection looks at ``Connection.principal`` only, and this is what changes it:

    token          expires             is renewed (REFRESH)       is revoked
    principal      NOBODY              that of the new token      NOBODY
    client hears   closed with 4401    REFRESHED                  closed with 4401

A client that is being closed is nobody until its socket is gone: what it sends meanwhile is FORBIDDEN.
Triggers that were accepted before run to their end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from panels_gateway.broadcast import messages
from panels_gateway.clients.lifetime import Lifetime, Timer
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.access.gate import Gate
    from panels_gateway.access.tokens import Principal
    from panels_gateway.clients.connection import Connection

#: Seconds between two REFRESH of one client, of which each may cost the verification of a signature.
MIN_REFRESH_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What all sessions have in common. ``clock`` gives Unix seconds, ``monotonic`` seconds that never jump;
    ``warning_s`` 0 warns nobody.
    """

    gate: Gate
    warning_s: float
    clock: Callable[[], float]
    monotonic: Callable[[], float]


class Session:
    """See the module's docstring. ``start`` is called once, after the connection has been opened."""

    __slots__ = ("_address", "_connection", "_lifetime", "_refreshed_s", "_rules")

    def __init__(
        self,
        connection: Connection,
        rules: SessionRules,
        *,
        address: str,
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._connection = connection
        self._rules = rules
        self._address = address
        self._refreshed_s = -MIN_REFRESH_S
        self._lifetime = Lifetime(
            None,
            warning_s=rules.warning_s,
            clock=rules.clock,
            call_later=call_later,
            warn=self._warn,
            end=self._end,
        )

    def start(self) -> None:
        """Begins to watch the token. If it was revoked since it was verified, this is where that is seen."""
        if self._connection.closed:
            return  # the client went away while its state was encoded, and nobody would stop this
        principal = self._connection.principal
        try:
            self._rules.gate.require_valid(principal)
        except RequestError as exc:
            self._connection.dismiss(exc.message)
            return
        self._lifetime.renew(principal.expires_at)

    def stop(self) -> None:
        """The socket is gone. Idempotent."""
        self._lifetime.stop()

    def refresh(self, message: messages.Refresh) -> None:
        """Takes a REFRESH, and answers it by REFRESHED or ERROR. After an ERROR the client goes on as who it
        was.
        """
        connection = self._connection
        request_id = message.requestId if isinstance(message.requestId, str) else None
        try:
            principal = self._renewed(message.token)
        except RequestError as exc:
            connection.send(messages.error(exc.code, exc.message, request_id, exc.details))
            return
        connection.principal = principal
        connection.send(messages.refreshed(request_id, principal.expires_at))
        self._lifetime.renew(principal.expires_at)

    def _renewed(self, token: str) -> Principal:
        connection, rules = self._connection, self._rules
        wait_s = self._refreshed_s + MIN_REFRESH_S - rules.monotonic()
        if wait_s > 0:
            raise RequestError(
                Code.RATE_LIMITED,
                f"expected at most one REFRESH in {MIN_REFRESH_S:g} s",
                {"retryAfterMs": max(1, round(wait_s * 1_000))},
            )
        self._refreshed_s = rules.monotonic()
        principal = rules.gate.verify(token, self._address)
        if principal.subject != connection.principal.subject:
            raise RequestError(
                Code.FORBIDDEN, "expected a token of the same subject; connect again with this one"
            )
        panel_id = connection.panel.id
        if not principal.may_read(panel_id):
            raise RequestError(Code.FORBIDDEN, f"the token does not allow read on panel {panel_id!r}")
        if principal.expires_at is not None and principal.expires_at <= rules.clock():
            raise RequestError(Code.UNAUTHORIZED, "the token has expired")
        return principal

    def _warn(self, expires_at: float) -> None:
        self._connection.send(messages.token_expiring(expires_at))

    def _end(self) -> None:
        self._connection.dismiss("the token has expired")
