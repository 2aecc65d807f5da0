"""Which names the gateway answers to: the Host header, compared with a list.

A page of another site can point its own name at this machine (DNS rebinding). The browser then takes the
gateway for that site, and lets the page read every answer; only the Host header still has the site's name.
Where authentication is on the page has no token. Where it is off this list is what stops it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from panels_shared.errors import Code, RequestError

#: What is quoted of a Host header that is refused, in characters.
_MAX_SHOWN_CHARS: Final = 80

_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


class HostPolicy:
    """The names among which a request's Host has to be. Ports are not compared."""

    def __init__(self, allowed: Iterable[str] | None, *, addresses: bool = False) -> None:
        """``allowed`` None, or ``"*"`` among it: any. ``addresses``: every IP address is allowed, which no
        page can point a name of its own at.
        """
        self._addresses = addresses
        names = frozenset(allowed) if allowed is not None else frozenset("*")
        self._any = "*" in names
        self._allowed = frozenset(canonical(name) for name in names)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises ``RequestError`` FORBIDDEN unless the headers name one allowed host."""
        if self._any:
            return
        named = [value for name, value in headers if name == b"host"]
        if len(named) == 1:
            match = _HOST.fullmatch(named[0])
            if match is not None and self._allows(canonical(match[1].decode("ascii"))):
                return
        got = repr(named[0].decode("latin-1")[:_MAX_SHOWN_CHARS]) if named else "none"
        raise RequestError(
            Code.FORBIDDEN,
            f"expected a Host among those the gateway answers to, got {got}; if this name is the gateway's, "
            "add it to --allowed-hosts",
        )

    def _allows(self, host: str) -> bool:
        return host in self._allowed or (self._addresses and is_address(host))


def is_address(host: str) -> bool:
    """Whether a canonical host is an IP address."""
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def canonical(host: str) -> str:
    """One spelling for each host: lower case, without a final dot, addresses in their short form and those of
    IPv6 in brackets.
    """
    host = host.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return host
    return f"[{address}]" if address.version == 6 else str(address)


def own_hosts(host: str, public_url: str | None) -> tuple[str, ...]:
    """The names of a gateway that listens on ``host`` and says that it is at ``public_url``."""
    own = ["localhost", "127.0.0.1", "[::1]", canonical(host)]
    if public_url is not None and (name := urlsplit(public_url).hostname) is not None:
        own.append(canonical(name))
    return tuple(dict.fromkeys(own))
