"""Where a request carries its token, and what web page it comes from.

Pure functions over pieces of an ASGI scope.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from panels_shared.errors import PanelsError

#: The one subprotocol that the gateway speaks; a client may offer it, and need not.
SUBPROTOCOL: Final = "panels.v1"
_BEARER_PREFIX: Final = "bearer."
#: Parts of a query string that are looked at; a security limit.
_MAX_QUERY_PARTS: Final = 64
#: What is quoted of an origin that is refused, in characters.
_MAX_SHOWN_CHARS: Final = 80


class CredentialsError(PanelsError):
    """Credentials that contradict each other."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says about its sender. ``subprotocol`` is the one to accept, None for none."""

    token: str | None = field(default=None, repr=False)
    subprotocol: str | None = None


def take_credentials(scope: MutableMapping[str, Any]) -> Credentials:
    """Takes the credentials out of an ASGI scope and returns them.

    The scope no longer holds them afterwards, so that whatever logs it cannot log a token.

    Sources of a token are ``?token=``, ``Authorization: Bearer`` and, on an upgrade, the offered subprotocols
    (``panels.v1, bearer.<token>``). Raises ``CredentialsError`` if two of them differ.
    """
    in_query, scope["query_string"] = _split_query(scope.get("query_string", b""))
    in_headers, scope["headers"] = _split_headers(scope.get("headers", ()))
    offered: list[str] = scope.get("subprotocols", [])
    in_offer = [text[len(_BEARER_PREFIX) :] for text in offered if text.startswith(_BEARER_PREFIX)]
    if offered:
        scope["subprotocols"] = [text for text in offered if not text.startswith(_BEARER_PREFIX)]
    tokens = dict.fromkeys(in_query + in_headers + in_offer)
    if len(tokens) > 1:
        raise CredentialsError("expected one token, got several that differ")
    return Credentials(next(iter(tokens), None), SUBPROTOCOL if SUBPROTOCOL in offered else None)


def _split_query(query: bytes) -> tuple[list[str], bytes]:
    if b"token" not in query and b"%" not in query:
        return [], query
    tokens: list[str] = []
    rest: list[bytes] = []
    parts = query.split(b"&", _MAX_QUERY_PARTS)
    if len(parts) > _MAX_QUERY_PARTS:
        raise CredentialsError(f"expected at most {_MAX_QUERY_PARTS} query parameters")
    for part in parts:
        name, _, value = part.partition(b"=")
        if unquote_to_bytes(name) == b"token":
            tokens.append(unquote_to_bytes(value).decode("latin-1"))
        else:
            rest.append(part)
    return tokens, b"&".join(rest)


def _split_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[str], list[tuple[bytes, bytes]]]:
    tokens: list[str] = []
    rest: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            # another scheme is meant for a proxy in front of the gateway
            if scheme.lower() == b"bearer":
                tokens.append(token.strip().decode("latin-1"))
        elif name == b"sec-websocket-protocol" and b"bearer." in value:
            continue
        else:
            rest.append((name, value))
    return tokens, rest


class OriginPolicy:
    """Which web pages may speak to the gateway.

    A browser always sends the page's origin. Clients that are not browsers send none and are let in. Origins
    are compared byte by byte, because browsers write them in one canonical form.
    """

    def __init__(self, allowed: Iterable[str] | None, *, own: Iterable[str]) -> None:
        """``allowed`` None: only ``own``. ``"*"`` among ``allowed``: any."""
        origins = set(own) if allowed is None else {*allowed, *own}
        self._any = "*" in origins
        self._allowed = frozenset(origin.encode() for origin in origins)

    def stranger(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
        """The first origin in these headers that is not allowed; None if the request may be served."""
        if self._any:
            return None
        return next(
            (value for name, value in headers if name == b"origin" and value not in self._allowed), None
        )


def shown_origin(origin: bytes) -> str:
    """An origin that somebody sent, quoted and cut, for a log or an answer."""
    text = origin.decode("latin-1")
    return repr(text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…")


def own_origins(host: str, port: int, public_url: str | None) -> tuple[str, ...]:
    """The origins of pages that the gateway's own address would serve."""
    hosts = {f"[{host}]" if ":" in host else host, "localhost", "127.0.0.1", "[::1]"}
    own = [f"http://{name.lower()}:{port}" for name in sorted(hosts)]
    return (*own, public_url) if public_url is not None else tuple(own)
