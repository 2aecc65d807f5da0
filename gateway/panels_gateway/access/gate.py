"""The gate that every request passes: the name it was sent to, its web page's origin, then whose token it
carries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from panels_gateway.access.addresses import Addresses, AddressRates
from panels_gateway.access.credentials import (
    Credentials,
    CredentialsError,
    OriginPolicy,
    shown_origin,
    take_credentials,
)
from panels_gateway.access.hosts import HostPolicy
from panels_gateway.access.revocations import Revocations
from panels_gateway.access.tokens import ANONYMOUS, Principal, TokenError, TokenVerifier
from panels_shared.errors import Code, RequestError
from panels_shared.rate import RateLimit

#: Where the scope keeps its credentials once they were taken out of headers and query string.
_CREDENTIALS: Final = "panels.credentials"


#: Where the scope keeps the address that its request comes from.
_ADDRESS: Final = "panels.address"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLimits:
    """How addresses are told, and how many upgrades and failures to authenticate each may have."""

    addresses: Addresses = field(default_factory=Addresses)
    upgrades: RateLimit = field(default_factory=RateLimit)
    failures: RateLimit = field(default_factory=RateLimit)


class Gate:
    """Decides who may come in. If ``verifier`` is None, everybody may, as ``ANONYMOUS``.

    With ``conceals``, clients cannot learn that a panel exists unless they may read it. ``on_refused`` is
    told what a request is refused for: one of ``observe.counters.REFUSALS``.
    """

    def __init__(
        self,
        verifier: TokenVerifier | None,
        hosts: HostPolicy,
        origins: OriginPolicy,
        *,
        conceals: bool,
        revocations: Revocations | None = None,
        limits: AddressLimits | None = None,
        on_refused: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._hosts = hosts
        self._revocations = revocations if revocations is not None else Revocations()
        limits = limits or AddressLimits()
        self._limits = limits
        self._addresses = limits.addresses
        self._upgrades = AddressRates(limits.upgrades)
        self._failures = AddressRates(limits.failures)
        self._on_refused = on_refused
        self._clock = clock
        self._origins = origins
        self.conceals = conceals

    def change(self, hosts: HostPolicy, *, upgrades: RateLimit, failures: RateLimit) -> None:
        """Goes by these from the next request on. Where a limit is another one, addresses begin anew."""
        self._hosts = hosts
        if upgrades != self._limits.upgrades:
            self._upgrades = AddressRates(upgrades)
        if failures != self._limits.failures:
            self._failures = AddressRates(failures)
        self._limits = replace(self._limits, upgrades=upgrades, failures=failures)

    def open(self, scope: MutableMapping[str, Any]) -> None:
        """Takes the credentials out of an ASGI scope, and notes the address that it comes from.

        Call it first, so that nothing later can log or leak them.
        """
        client = scope.get("client")
        scope[_ADDRESS] = self._addresses.of(client[0] if client is not None else None, scope["headers"])
        try:
            scope[_CREDENTIALS] = take_credentials(scope)
        except CredentialsError as exc:
            scope[_CREDENTIALS] = exc

    def check_host(self, scope: MutableMapping[str, Any]) -> None:
        """Raises ``RequestError`` FORBIDDEN for a request to a name that is not the gateway's."""
        try:
            self._hosts.check(scope["headers"])
        except RequestError:
            self._on_refused("host")
            raise

    def check_origin(self, scope: MutableMapping[str, Any]) -> None:
        """Raises ``RequestError`` FORBIDDEN for a web page that may not speak to the gateway."""
        stranger = self._origins.stranger(scope["headers"])
        if stranger is not None:
            self._on_refused("origin")
            raise RequestError(
                Code.FORBIDDEN,
                f"expected a web page of an allowed origin, got {shown_origin(stranger)}; if this page may "
                "connect, "
                "name its origin in --allowed-origins, or, if it is the address at which a proxy serves the "
                "gateway, "
                "by --public-url",
            )

    def address(self, scope: MutableMapping[str, Any]) -> str:
        """The address that the request comes from, as limits count it."""
        address: str = scope[_ADDRESS]
        return address

    def check_upgrade_rate(self, scope: MutableMapping[str, Any]) -> None:
        """Counts an upgrade. Raises ``RequestError`` RATE_LIMITED if its address asks for too many."""
        wait_s = self._upgrades.count(self.address(scope), self._clock())
        if wait_s:
            self._on_refused("upgrade_rate")
            raise _too_often("upgrades", wait_s)

    def admit(self, scope: MutableMapping[str, Any]) -> Principal:
        """Who sent the request. Raises ``RequestError`` UNAUTHORIZED, RATE_LIMITED."""
        if self._verifier is None:
            return ANONYMOUS
        credentials: Credentials | CredentialsError = scope[_CREDENTIALS]
        if isinstance(credentials, CredentialsError):
            raise RequestError(Code.UNAUTHORIZED, str(credentials))
        if credentials.token is None:
            raise RequestError(
                Code.UNAUTHORIZED,
                "expected a token, got none; send Authorization: Bearer <token> or ?token=<token>",
            )
        return self.verify(credentials.token, self.address(scope))

    def verify(self, token: str, address: str) -> Principal:
        """Who bears ``token``. A token that is not valid counts against ``address``.

        After too many of them only tokens that have been verified before are taken from there. Raises
        ``RequestError`` UNAUTHORIZED, RATE_LIMITED.
        """
        verifier = self._verifier
        if verifier is None:
            return ANONYMOUS
        wait_s = self._failures.wait_s(address, self._clock())
        if wait_s and not verifier.knows(token):
            self._on_refused("auth_failures")
            raise _too_often("tokens that are not valid", wait_s)
        try:
            principal = verifier.verify(token)
        except TokenError as exc:
            self._failures.count(address, self._clock())
            raise RequestError(Code.UNAUTHORIZED, str(exc)) from None
        self.require_valid(principal)
        return principal

    def require_valid(self, principal: Principal) -> None:
        """Raises ``RequestError`` UNAUTHORIZED if the principal's token was revoked."""
        if self._revocations.refuse(principal):
            self._on_refused("revoked")
            raise RequestError(Code.UNAUTHORIZED, "the token was revoked")

    def subprotocol(self, scope: MutableMapping[str, Any]) -> str | None:
        """The subprotocol to accept an upgrade with, None for none."""
        credentials: Credentials | CredentialsError = scope[_CREDENTIALS]
        return credentials.subprotocol if isinstance(credentials, Credentials) else None


def _too_often(what: str, wait_s: float) -> RequestError:
    return RequestError(
        Code.RATE_LIMITED,
        f"expected fewer {what} from one address; try again later",
        {"retryAfterMs": max(1, round(wait_s * 1_000)), "scope": "address"},
    )
