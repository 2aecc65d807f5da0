"""The one way out: every request of every extension goes through ``Egress.fetch``, which
keeps policy and ledger.

    parse → allow-list → one look-up → addresses checked → secrets → connect to a checked one → bounded answer
                                                                              └ redirect: all of it again

A connection serves one exchange: none is shared by two panels, or used after its address was checked for
another. Names of proxies in the environment are not read.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpcore
import httpx

from panels_gateway.extensions.config import HttpConfig
from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.extension import CallContext
from panels_gateway.extensions.http.body import ACCEPT_ENCODING, Body
from panels_gateway.extensions.http.network import (
    PinnedBackend,
    Resolver,
    SystemResolver,
    Traffic,
)
from panels_gateway.extensions.http.policy import (
    Policy,
    Target,
    parse_addresses,
    parse_rules,
    parse_url,
)
from panels_gateway.extensions.http.secrets import REFERENCE, Scrubber, Vault
from panels_gateway.extensions.messages import LedgerEntry, Verdict
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

#: Bytes of an answer on the wire beyond twice its largest body: chunk sizes, trailers, informational answers.
WIRE_SLACK_BYTES: Final = 64 * 1024
#: Headers that are this end's business (RFC 9110 sections 7.2 and 7.6.1).
OWN_HEADERS: Final = frozenset(
    [
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
#: Headers that do not follow a redirect to another origin, beside those with secrets.
_CREDENTIALS: Final = frozenset(("authorization", "cookie"))
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_VERDICTS: Final = {
    ErrorCode.DENIED: Verdict.DENIED,
    ErrorCode.LIMIT: Verdict.LIMIT,
    ErrorCode.TIMEOUT: Verdict.TIMEOUT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRequest:
    """What to ask for. Header values may hold ``$secret:NAME``.

    ``redirects`` is how many to follow, at most as many as the configuration allows; with 0 the redirect
    itself is the answer. ``timeout_s`` can only shorten the configured time.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    redirects: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressAnswer:
    """What came back, scrubbed. Names of headers are in lower case."""

    status: int
    reason: str
    headers: Sequence[tuple[str, str]]
    content: bytes
    scrubber: Scrubber = field(repr=False)

    def text(self, encoding: str = "utf-8") -> str:
        """The body as text, scrubbed again once decoded. Raises ``UnicodeError`` and ``LookupError``."""
        return self.scrubber.text(self.content.decode(encoding))

    def json(self) -> Any:
        """The body as a JSON value, scrubbed again behind its escapes. Raises ``InvalidJsonError``."""
        try:
            return self.scrubber.value(jsonvalue.decode(self.content))
        except UnicodeDecodeError:
            raise InvalidJsonError("expected UTF-8, got invalid bytes") from None


class Slots:
    """Exchanges at once, per panel and in all.

    More wait, first come, first served, as long as their time lasts.
    """

    def __init__(self, *, per_panel: int, in_all: int) -> None:
        self._per_panel = per_panel
        self._all = asyncio.Semaphore(in_all)
        self._panels: dict[str, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def hold(self, panel: str) -> AsyncIterator[None]:
        """A slot for the time of the block."""
        slots, users = self._panels.setdefault(panel, (asyncio.Semaphore(self._per_panel), []))
        users.append(None)
        try:
            async with slots, self._all:
                yield
        finally:
            users.pop()
            if not users:
                del self._panels[panel]


class Egress:
    """Fetches within ``config``.

    Raises ``ExtensionConfigError`` for an allow-list or secret that cannot be used.
    """

    def __init__(self, config: HttpConfig, *, resolver: Resolver | None = None) -> None:
        self._config = config
        self._policy = Policy(parse_rules("http.allow", config.allow))
        self._vault = Vault(config.secrets)
        self._system = SystemResolver()
        self._resolver: Resolver = resolver or self._system
        self._slots = Slots(per_panel=config.concurrency_per_panel, in_all=config.concurrency)
        self._ssl = _ssl_context(config)

    @property
    def scrubber(self) -> Scrubber:
        """Takes secrets out of anything."""
        return self._vault.scrubber

    async def fetch(self, context: CallContext, request: EgressRequest) -> EgressAnswer:
        """The answer to ``request``, with an entry in the ledger of ``context`` for each exchange.

        Raises ``CallFailedError``: ARGUMENTS, DENIED, LIMIT, TIMEOUT, or FAILED when the
        network or the server does.
        """
        timeout_s = min(self._config.timeout_s, request.timeout_s or self._config.timeout_s)
        _check(request, self._config)
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit, self._slots.hold(context.panel):
                return await self._follow(context, request)
        except TimeoutError:
            raise CallFailedError(
                ErrorCode.TIMEOUT, f"the exchange took longer than {timeout_s:g} s"
            ) from None

    async def close(self) -> None:
        """Waits for no look-up. No fetch runs any more."""
        self._system.close()

    async def _follow(self, context: CallContext, request: EgressRequest) -> EgressAnswer:
        left = request.redirects
        while True:
            answer = await self._exchange(context, request)
            location = next((value for name, value in answer.headers if name == "location"), None)
            if not left or answer.status not in _REDIRECTS or location is None:
                if request.redirects and answer.status in _REDIRECTS and location is not None:
                    raise CallFailedError(
                        ErrorCode.LIMIT, f"expected at most {request.redirects} redirects, got more"
                    )
                return answer
            left -= 1
            request = _redirected(request, answer.status, location)

    async def _exchange(self, context: CallContext, request: EgressRequest) -> EgressAnswer:
        started_s = time.monotonic()
        config = self._config
        traffic = Traffic(2 * config.response_bytes + config.header_bytes + WIRE_SLACK_BYTES)
        host, secrets, verdict = "", list[str](), Verdict.FAILED
        try:
            url, target = parse_url(request.url)
            host = f"{target.host}:{target.port}"
            self._policy.check_host(target)
            headers = self._headers(request, target, secrets)
            addresses = [target.address] if target.address else await self._resolve(target)
            backend = PinnedBackend(addresses, traffic)
            answer = await self._send(
                httpx.Request(request.method, url, headers=headers, content=request.content), backend, traffic
            )
            verdict = Verdict.OK
            return answer
        except CallFailedError as exc:
            verdict = _VERDICTS.get(exc.code, Verdict.FAILED)
            raise
        except asyncio.CancelledError:
            verdict = Verdict.TIMEOUT
            raise
        finally:
            ms = round((time.monotonic() - started_s) * 1_000)
            context.record(
                LedgerEntry(host, traffic.address, traffic.sent, traffic.received, ms, secrets, verdict)
            )

    async def _resolve(self, target: Target) -> Sequence[Any]:
        try:
            answers = await self._resolver.resolve(target.host, target.port)
        except (OSError, UnicodeError):
            raise CallFailedError(ErrorCode.FAILED, f"the name {target.host} cannot be resolved") from None
        addresses = parse_addresses(answers)
        self._policy.check_addresses(target, addresses)
        return addresses

    def _headers(self, request: EgressRequest, target: Target, secrets: list[str]) -> list[tuple[str, str]]:
        headers = [("accept", "*/*"), ("user-agent", "panels")]
        headers = [item for item in headers if item[0] not in request.headers]
        for name, value in request.headers.items():
            injected, names = self._vault.inject(value, target)
            headers.append((name, injected))
            secrets += [name for name in names if name not in secrets]
        return [*headers, ("accept-encoding", ACCEPT_ENCODING)]

    async def _send(self, request: httpx.Request, backend: PinnedBackend, traffic: Traffic) -> EgressAnswer:
        started = False
        try:
            async with (
                httpcore.AsyncConnectionPool(
                    ssl_context=self._ssl,
                    max_connections=1,
                    max_keepalive_connections=0,
                    network_backend=backend,
                ) as pool,
                pool.stream(
                    request.method,
                    httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.content or None,
                ) as response,
            ):
                started = True
                return await self._read(response)
        except (httpcore.ConnectError, httpcore.ConnectTimeout):
            raise CallFailedError(ErrorCode.FAILED, "the server cannot be reached") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.UnsupportedProtocol,
        ) as exc:
            # h11 gives up on headers of 100 kB
            if not started and traffic.received > self._config.header_bytes:
                raise CallFailedError(ErrorCode.LIMIT, _too_many_headers(self._config)) from None
            problem = (
                "breaks the protocol" if isinstance(exc, httpcore.ProtocolError) else "ends the connection"
            )
            raise CallFailedError(ErrorCode.FAILED, f"the server {problem}") from None

    async def _read(self, response: httpcore.Response) -> EgressAnswer:
        config = self._config
        size = sum(len(name) + len(value) for name, value in response.headers)
        if len(response.headers) > config.header_count or size > config.header_bytes:
            raise CallFailedError(ErrorCode.LIMIT, _too_many_headers(config))
        scrub = self.scrubber.text
        headers = [
            (scrub(name.decode("latin-1").lower()), scrub(value.decode("latin-1")))
            for name, value in response.headers
        ]
        encoding = ", ".join(value for name, value in headers if name == "content-encoding")
        body = Body(encoding, limit_bytes=config.response_bytes)
        async for chunk in response.aiter_stream():
            body.feed(chunk)
        reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
        return EgressAnswer(
            status=response.status,
            reason=scrub(reason),
            headers=headers,
            content=self.scrubber.data(body.finish()),
            scrubber=self.scrubber,
        )


def _check(request: EgressRequest, config: HttpConfig) -> None:
    """The request's own bounds, before anything leaves."""
    if len(request.content) > config.request_bytes:
        raise CallFailedError(
            ErrorCode.LIMIT,
            f"expected a request body of at most {config.request_bytes} bytes, got {len(request.content)}",
        )
    if not 0 <= request.redirects <= config.redirects:
        raise CallFailedError(
            ErrorCode.ARGUMENTS, f"expected redirects from 0 to {config.redirects}, got {request.redirects}"
        )
    if not _TOKEN.fullmatch(request.method) or len(request.method) > 32 or request.method == "CONNECT":
        raise CallFailedError(ErrorCode.ARGUMENTS, "expected a method like GET")
    size = sum(len(name) + len(value) for name, value in request.headers.items())
    if len(request.headers) > config.header_count or size > config.header_bytes:
        raise CallFailedError(ErrorCode.LIMIT, _too_many_headers(config))
    for name, value in request.headers.items():
        _check_header(name, value)


def _check_header(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name) or name != name.lower():
        raise CallFailedError(
            ErrorCode.ARGUMENTS, "expected names of headers like content-type, in lower case"
        )
    if name in OWN_HEADERS:
        raise CallFailedError(ErrorCode.ARGUMENTS, f"the header {name} is not the handler's to set")
    # httpx's and h11's own words would quote the value
    if not value.isascii() or not (value.replace("\t", " ").isprintable() and value == value.strip()):
        raise CallFailedError(ErrorCode.ARGUMENTS, f"expected printable ASCII in the header {name}")


def _redirected(request: EgressRequest, status: int, location: str) -> EgressRequest:
    """The next request, as the Fetch standard has it."""
    try:
        url = str(httpx.URL(request.url).join(location))
    except (httpx.InvalidURL, UnicodeError):
        raise CallFailedError(ErrorCode.FAILED, "the server redirects to something that is no URL") from None
    headers = dict(request.headers)
    if _origin(request.url) != _origin(url):
        headers = {
            name: value
            for name, value in headers.items()
            if name not in _CREDENTIALS and not REFERENCE.search(value)
        }
    if (status == 303 and request.method != "HEAD") or (status in (301, 302) and request.method == "POST"):
        headers = {name: value for name, value in headers.items() if not name.startswith("content-")}
        return replace(request, method="GET", url=url, headers=headers, content=b"")
    return replace(request, url=url, headers=headers)


def _origin(url: str) -> str | None:
    try:
        return parse_url(url)[1].origin
    except CallFailedError:
        return None  # nobody's origin; the next exchange refuses it, and has it in the ledger


def _too_many_headers(config: HttpConfig) -> str:
    return f"expected at most {config.header_count} headers of {config.header_bytes} bytes in all, got more"


def _ssl_context(config: HttpConfig) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if config.ca_file:
        try:
            context.load_verify_locations(config.ca_file)
        except OSError:
            raise ExtensionConfigError("http.ca_file: cannot be read as certificates") from None
    return context
