"""What the log says of requests that are refused: one line that says what came, from where, and why.

Strangers cause these lines, so they are rate-limited. Refusals that an operator can mend (403: an origin, a
host, a permission) have a limit of their own, so that a flood of bad tokens cannot hide them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from panels_gateway.observe.rate_limited import RateLimitedLog
from panels_shared.errors import CODES, Code, RequestError

_log = logging.getLogger("panels.gateway.refusals")

#: What is quoted of a path and of an origin, in characters.
_MAX_PATH_CHARS: Final = 160
_MAX_ORIGIN_CHARS: Final = 80
#: What is worth a line; anything else is a request that went wrong, which its sender was told.
_LOGGED: Final = frozenset({Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.UPGRADE_REQUIRED})
#: Of what is OVERLOADED, what an address or a subject has too many of.
_SCOPES: Final = ("address", "subject")
#: What is refused with these tells of a configuration that does not fit.
_TELLING: Final = frozenset({Code.FORBIDDEN, Code.UPGRADE_REQUIRED})


class RefusalLog:
    """See the module's docstring. ``clock`` gives monotonic seconds."""

    __slots__ = ("_clock", "_others", "_telling")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._telling = RateLimitedLog(_log)
        self._others = RateLimitedLog(_log)

    def write(self, error: RequestError, scope: Mapping[str, Any], address: str) -> None:
        """Logs that the request in the ASGI ``scope``, which comes from ``address``, was answered ``error``.

        The scope has lost its credentials by then. The path goes without its query.
        """
        if error.code not in _LOGGED and not (
            error.code is Code.OVERLOADED and (error.details or {}).get("scope") in _SCOPES
        ):
            return
        telling = error.code in _TELLING
        (self._telling if telling else self._others).log(
            self._clock(),
            logging.WARNING if telling else logging.INFO,
            "refused with %d: %s %s from %s, origin %s: %s",
            CODES[error.code].http_status,
            scope.get("method", "upgrade at"),
            _shown(scope["path"], _MAX_PATH_CHARS),
            address or _peer(scope),
            _origin(scope["headers"]),
            error.message,
            address=address or None,
            status=CODES[error.code].http_status,
        )


def _peer(scope: Mapping[str, Any]) -> str:
    """Who sent the request, where limits do not count its address: on this machine, or through a socket."""
    client = scope.get("client")
    return str(client[0]) if client else "an unknown address"


def _origin(headers: Any) -> str:
    """The web page's origin, as the log shows it."""
    values = [value for name, value in headers if name == b"origin"]
    return _shown(values[0].decode("latin-1"), _MAX_ORIGIN_CHARS) if values else "none"


def _shown(text: str, maximum: int) -> str:
    return repr(text if len(text) <= maximum else text[:maximum] + "…")
