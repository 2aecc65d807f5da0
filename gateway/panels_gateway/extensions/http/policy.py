"""The allow-list: which origins a handler may reach, and at which addresses. Pure.

    https://api.example.com          one host, port 443
    https://*.example.com:8443       all hosts below a name, another port
    https://*                        every name; "*" as the port is every port
    http://10.1.0.0/16:8080          a range: literal addresses in it, and what allowed names resolve to
    https://[fd00::/8]               a range of IPv6

A name needs a pattern. It is not even looked up without one, because a look-up carries data out too. Every
address that it resolves to must be public or lie in an allowed range of the same scheme and port. A literal
address needs a range. A range never allows a name by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

import httpx

from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.http.addresses import (
    Address,
    Network,
    embedded,
    literal,
    special,
)

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: The longest URL, in characters. A security limit.
MAX_URL_CHARS: Final = 8_192

_RULE: Final = re.compile(r"(https?)://(\[[^\]]+\]|[^:\[\]@?#]+)(?::([0-9]{1,5}|\*))?")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PATTERN: Final = re.compile(rf"\*|(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. ``host`` is in lower case and ASCII, ``address`` is set when it is a literal."""

    scheme: str
    host: str
    port: int
    address: Address | None

    @property
    def origin(self) -> str:
        """As a line of the allow-list would name it."""
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        if self.address is None:
            return f"{self.scheme}://{self.host}{port}"
        return f"{self.scheme}://{_range_of(self.address)}{port}"


def _range_of(address: Address) -> str:
    return f"{address}/32" if address.version == 4 else f"[{address}/128]"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an allow-list: ``pattern`` or ``network``. ``port`` None is every port."""

    scheme: str
    pattern: str
    network: Network | None
    port: int | None

    @classmethod
    def parse(cls, where: str, text: str) -> Rule:
        """Raises ``ExtensionConfigError`` that begins with ``where``."""
        match = _RULE.fullmatch(text)
        if match is None:
            raise ExtensionConfigError(f"{where}: expected scheme://host[:port], got {text!r}")
        scheme, host, port = match.groups()
        number = None if port == "*" else int(port or DEFAULT_PORTS[scheme])
        if number is not None and not 1 <= number <= 65_535:
            raise ExtensionConfigError(f"{where}: expected a port from 1 to 65535, got {text!r}")
        host = host.lower()
        try:
            bare = host.strip("[]")
            if "/" in bare or literal(bare) is not None:
                return cls(scheme, "", ip_network(bare), number)
        except ValueError as exc:
            raise ExtensionConfigError(f"{where}: expected an address or a range: {exc}") from None
        if not _PATTERN.fullmatch(host):
            raise ExtensionConfigError(f"{where}: expected a name, *.name, * or a range, got {text!r}")
        return cls(scheme, host, None, number)

    def takes(self, target: Target) -> bool:
        """Whether scheme and port are this rule's."""
        return self.scheme == target.scheme and self.port in (None, target.port)

    def names(self, host: str) -> bool:
        """Whether the pattern fits the name."""
        if self.pattern.startswith("*."):
            return host.endswith(self.pattern[1:])  # a host never begins with a dot
        return self.pattern in ("*", host)

    def holds(self, address: Address) -> bool:
        """Whether the address lies in the range."""
        return (
            self.network is not None and self.network.version == address.version and address in self.network
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules, any of which allows.

    Refusals are ``CallFailedError`` with DENIED, and name the line that would allow.
    """

    rules: Sequence[Rule]

    def check_host(self, target: Target) -> None:
        """Before a look-up. Raises ``CallFailedError``."""
        if target.address is not None:
            self.check_addresses(target, [target.address])
        elif not any(rule.takes(target) and rule.names(target.host) for rule in self.rules):
            raise _denied(f"{target.origin} is not allowed", target.origin)

    def check_addresses(self, target: Target, addresses: Sequence[Address]) -> None:
        """Every address that a look-up gave. Raises ``CallFailedError``, for no addresses too."""
        if not addresses:
            raise CallFailedError(ErrorCode.FAILED, f"the name {target.host} has no address")
        for address in addresses:
            self._check_address(target, address)

    def _check_address(self, target: Target, address: Address) -> None:
        if not self._in_range(target, address):
            kind = special(address)
            if kind is not None or target.address is not None:
                line = Target(target.scheme, str(address), target.port, address).origin
                raise _denied(
                    f"the address {address} ({kind or 'not named by a range'}) is not allowed", line
                )
        inner = embedded(address)
        # a range of translated addresses must not open what stands behind the translator
        if inner is not None and not self._in_range(target, inner) and (kind := special(inner)) is not None:
            line = Target(target.scheme, str(inner), target.port, inner).origin
            raise _denied(f"the address {inner} ({kind}) inside {address} is not allowed", line)

    def _in_range(self, target: Target, address: Address) -> bool:
        return any(rule.takes(target) and rule.holds(address) for rule in self.rules)


def _denied(problem: str, line: str) -> CallFailedError:
    return CallFailedError(
        ErrorCode.DENIED,
        f'{problem}; the line "{line}" in http.allow of the extensions\' configuration would',
    )


def parse_rules(where: str, lines: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of an allow-list. Raises ``ExtensionConfigError``."""
    return tuple(Rule.parse(f"{where}[{index}]", line) for index, line in enumerate(lines))


def parse_url(text: str) -> tuple[httpx.URL, Target]:
    """A URL that can be requested, with a literal host in its usual spelling. Raises ``CallFailedError``."""
    if len(text) > MAX_URL_CHARS:
        raise CallFailedError(ErrorCode.ARGUMENTS, f"expected a URL of at most {MAX_URL_CHARS} characters")
    try:
        url = httpx.URL(text)
        host = url.raw_host.decode("ascii").lower().removesuffix(".")
    except (httpx.InvalidURL, UnicodeError):
        if not text.isascii():  # digits of other scripts, which a resolver would read as an address
            raise CallFailedError(ErrorCode.DENIED, "expected a host that IDNA allows") from None
        raise CallFailedError(ErrorCode.ARGUMENTS, "expected an absolute URL") from None
    if url.scheme not in DEFAULT_PORTS or not host:
        raise CallFailedError(ErrorCode.ARGUMENTS, "expected an absolute URL with http or https")
    if url.userinfo:
        raise CallFailedError(ErrorCode.ARGUMENTS, "expected a URL without user and password; use a header")
    try:
        address = literal(host)
    except ValueError as exc:
        raise CallFailedError(ErrorCode.DENIED, f"expected a host, got {exc}") from None
    if address is None and (not _NAME.fullmatch(host) or len(host) > 253):
        raise CallFailedError(ErrorCode.DENIED, "expected a host of letters, digits, - and _")
    port = url.port or DEFAULT_PORTS[url.scheme]
    spelling = host if address is None else str(address)
    return url.copy_with(host=spelling, fragment=None), Target(url.scheme, spelling, port, address)


def parse_addresses(texts: Sequence[str]) -> list[Address]:
    """What a resolver said. Raises ``CallFailedError`` for what is no address, or one with a zone."""
    try:
        return [ip_address(text) for text in dict.fromkeys(texts)]
    except ValueError:
        raise CallFailedError(ErrorCode.FAILED, "the name resolves to something that is no address") from None
