"""The gate that every request passes: the name it was sent to, its web page's origin, then whose token it
carries.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final

from panels_gateway.access.credentials import Credentials, CredentialsError, OriginPolicy, take_credentials
from panels_gateway.access.hosts import HostPolicy
from panels_gateway.access.revocations import Revocations
from panels_gateway.access.tokens import ANONYMOUS, Principal, TokenError, TokenVerifier
from panels_shared.errors import Code, RequestError

#: Where the scope keeps its credentials once they were taken out of headers and query string.
_CREDENTIALS: Final = "panels.credentials"


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
        on_refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._verifier = verifier
        self._hosts = hosts
        self._revocations = revocations if revocations is not None else Revocations()
        self._on_refused = on_refused
        self._origins = origins
        self.conceals = conceals

    def open(self, scope: MutableMapping[str, Any]) -> None:
        """Takes the credentials out of an ASGI scope.

        Call it first, so that nothing later can log or leak them.
        """
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
        if not self._origins.allows(scope["headers"]):
            self._on_refused("origin")
            raise RequestError(Code.FORBIDDEN, "this web page's origin is not among the allowed ones")

    def admit(self, scope: MutableMapping[str, Any]) -> Principal:
        """Who sent the request. Raises ``RequestError`` UNAUTHORIZED."""
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
        return self.verify(credentials.token)

    def verify(self, token: str) -> Principal:
        """Who bears ``token``. Raises ``RequestError`` UNAUTHORIZED."""
        if self._verifier is None:
            return ANONYMOUS
        try:
            principal = self._verifier.verify(token)
        except TokenError as exc:
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
