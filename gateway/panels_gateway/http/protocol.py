"""uvicorn's HTTP protocol, with the bounds that uvicorn does not set.

Every socket of a client begins here, WebSockets too until they are upgraded. What is bounded, and how:

    ┌ connected ┐ first byte      ┌ head ┐ complete       ┌ body ┐ complete   ┌ answer ┐ taken
    │ header    │ ─────────────▶ │ header│ ────────────▶ │ body  │ ─────────▶ │ body   │ ────▶ reuse or close
    └ timeout ──┘                 └ timeout, MAX_HEAD ─┘   └ timeout ──────┘   └ timeout ─────────┘

A time-out is for the whole phase and not for the next byte, so that a byte a second gains nothing. A head
that is too large or ambiguous (two Hosts, two lengths, a length beside chunks, an upgrade with a body) is
answered 431 or 400 and the socket closed, before any application code sees it. A body that is refused
half-way is read and thrown away for what is left of its time, since a socket closed under a client that still
sends would take the answer with it. Above ``max_connections`` in all, or those of one address, a socket is
answered 503 and closed. WebSockets of an address are counted where they are upgraded (``clients.upgrade``).

What this does not protect against: many sockets, each within the bounds; that is the work of
``max_connections``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from panels_gateway.access.addresses import UNLIMITED, AddressCounts, Addresses
from panels_gateway.http.answers import ABORT
from panels_shared.errors import CODES, Code
from panels_shared.limits import KIB

#: Security limits of a request's head. ``websockets`` refuses lines of 8 KiB and 128 headers
#: later; these come first.
MAX_HEAD_BYTES: Final = 32 * KIB
MAX_LINE_BYTES: Final = 8 * KIB - 192
MAX_HEADERS: Final = 100

#: How long the application has to answer after its own time-out, in seconds.
ANSWER_GRACE_S: Final = 1.0

_ONCE_ONLY: Final = frozenset((b"host", b"content-length", b"origin", b"authorization"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Time-outs of whole phases, in seconds, and how many sockets there may be."""

    header_timeout_s: float = 5.0
    body_timeout_s: float = 30.0
    max_connections: int = 10_000
    max_connections_per_address: int = 1_024


def _ignore(reason: str) -> None:
    return


class HeadRefusedError(Exception):
    """Raised inside the parser to make it stop. uvicorn then calls ``send_400_response``."""


class HardenedHttpProtocol(HttpToolsProtocol):
    """See the module's docstring.

    ``with_limits`` makes a class with other limits, as uvicorn takes only classes.
    """

    limits: HttpLimits = HttpLimits()
    #: Whose sockets are counted, and how many there are; None counts none.
    addresses: Addresses | None = None
    counts: AddressCounts = AddressCounts(0)
    #: Told when a socket is refused for its address.
    on_refused: Callable[[str], None] = staticmethod(_ignore)

    _address: str = UNLIMITED
    _deadline: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    _in_head: bool = True
    _fed_bytes: int = 0
    _head_bytes: int = 0
    _refusal: tuple[int, str] | None = None

    @classmethod
    def with_limits(
        cls,
        limits: HttpLimits,
        addresses: Addresses | None = None,
        on_refused: Callable[[str], None] = _ignore,
    ) -> type[HardenedHttpProtocol]:
        """A protocol class with these limits. ``addresses`` knows the proxies, whose sockets are not
        counted.
        """
        fields = {
            "limits": limits,
            "addresses": addresses,
            "on_refused": staticmethod(on_refused),
            "counts": AddressCounts(limits.max_connections_per_address),
        }
        return cast("type[HardenedHttpProtocol]", type(cls.__name__, (cls,), fields))

    # -- life ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A socket was accepted."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "the gateway holds as many connections as it may; try again later")
            return
        if self.client is not None and self.addresses is not None:
            peer = self.client[0]
            address = UNLIMITED if self.addresses.is_trusted(peer) else self.addresses.of(peer, ())
            if not self.counts.enter(address):
                self.on_refused("connections")
                self._refuse(
                    503, f"expected at most {self.counts.maximum} connections of one address; close one first"
                )
                return
            self._address = address
        self._arm(self.limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._disarm()
        self._leave()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        super().connection_lost(exc)

    def _leave(self) -> None:
        address, self._address = self._address, UNLIMITED
        self.counts.leave(address)

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abort(self) -> None:
        # a client this slow would not read an answer either
        self._deadline = None
        self.transport.abort()

    # -- head ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._in_head:
            self._fed_bytes += len(data)
        super().data_received(data)
        # the parser does not report a line before its end, so the bound is on what it was fed
        if self._in_head and self._fed_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"expected a request head of at most {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head = True
        self._fed_bytes = 0
        self._head_bytes = 0
        self._arm(self.limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        super().on_url(url)
        if len(self.url) > MAX_LINE_BYTES:
            self._refuse_head(431, f"expected a URL of at most {MAX_LINE_BYTES} bytes")
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One whole header."""
        super().on_header(name, value)
        if len(name) + len(value) > MAX_LINE_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse_head(
                431, f"expected at most {MAX_HEADERS} headers of at most {MAX_LINE_BYTES} bytes"
            )
        self._count(len(name) + len(value) + 4)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head(431, f"expected a request head of at most {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        names = [name for name, _ in self.headers]
        for name in _ONCE_ONLY:
            if names.count(name) > 1:
                self._refuse_head(400, f"expected one {name.decode()} header, got several")
        has_body = b"transfer-encoding" in names or dict(self.headers).get(b"content-length", b"0") != b"0"
        if b"transfer-encoding" in names and b"content-length" in names:
            self._refuse_head(400, "expected content-length or transfer-encoding, got both")
        if has_body and self._should_upgrade():
            self._refuse_head(400, "expected an upgrade without a body")
        self._in_head = False
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item, typeddict-item, unused-ignore]
        self._arm(self.limits.body_timeout_s + ANSWER_GRACE_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._disarm()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hands the socket to the WebSocket protocol."""
        self._disarm()
        self._leave()
        super().handle_websocket_upgrade()

    # -- answers -------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """The application has written its whole answer, which the client may not have taken yet."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size() > 0:
            if self._taking is not None:
                self._taking.cancel()
            self._taking = self.loop.call_later(self.limits.body_timeout_s, self._cut_slow_reader)

    def _cut_slow_reader(self) -> None:
        self._taking = None
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()

    def _refuse_head(self, status: int, problem: str) -> None:
        self._refusal = (status, problem)
        raise HeadRefusedError

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what the parser refused."""
        status, problem = self._refusal or (400, "expected a valid HTTP request")
        self._refuse(status, problem)

    def _refuse(self, status: int, problem: str) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        code = Code.OVERLOADED if status == 503 else Code.INVALID_REQUEST
        assert status in (400, 431, CODES[Code.OVERLOADED].http_status)
        body = b'{"error":{"code":"%b","message":"%b"}}' % (code.value.encode(), problem.encode())
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(body), body)
        )
        self.transport.close()
        self._taking = self.loop.call_later(self.limits.header_timeout_s, self._cut_slow_reader)
