"""The HTTP protocol on a real socket: any bytes bring a well-formed answer or a close, and the server
lives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import Any, Final

from panels_gateway.server import GatewayServer
from tests.fuzz.mutation import Codec, NotOpenError
from tests.fuzz.target import Target, Violation, require
from tests.support.gateway import Gateway
from tests.support.server import serving

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*\r\n")
_HEADER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[^\r\n\0]*")
#: Rounds of the loop without a byte after which an answer is not waited for any more.
_QUIET_ROUNDS: Final = 30
_HOST: Final = b"Host: h\r\n"
_UPGRADE: Final = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def open_request(data: bytes) -> Any:
    """A request as ``[[method, target, version], [[name, value], ...], rest]``."""
    head, found, rest = data.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    if not found:
        raise NotOpenError
    return [line.split(b" "), [each.split(b": ", 1) for each in lines], rest]


def seal_request(value: Any) -> bytes:
    """The request, with a length that is right where there is one and the body is all that follows."""
    try:
        words, headers, rest = value
        lines = [b" ".join(words), *[b": ".join(pair) for pair in headers]]
    except (TypeError, ValueError):
        raise NotOpenError from None
    if not isinstance(rest, bytes):
        raise NotOpenError
    length = b"Content-Length: %d" % len(rest)
    lines = [length if re.fullmatch(rb"Content-Length: [0-9]+", line) else line for line in lines]
    return b"\r\n".join(lines) + b"\r\n\r\n" + rest


class _Errors(logging.Handler):
    """What uvicorn and the gateway log as a defect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = str(record.exc_info[1]) if record.exc_info else ""
        self.lines.append(f"{record.name}: {record.getMessage()} {text}")


class HttpSocket(Target):
    """Bytes on a socket of the server."""

    name = "http"
    codec = Codec(open_request, seal_request)
    quick = 150
    tokens = (
        *(b"GET ", b"POST ", b"PUT ", b"DELETE ", b"HEAD ", b"OPTIONS "),
        *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" HTTP/1.1\r\n"),
        *(b" HTTP/1.0\r\n", b" HTTP/9.9\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"Host: h\r\n"),
        *(b"Content-Length: 5\r\n",),
        *(b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        *(b"ffffffffffffffff\r\n", b": "),
        *(b"X-Forwarded-For: 1.2.3.4\r\n", b"X-Forwarded-Proto: https\r\n", b"Idempotency-Key: k\r\n"),
        *(b"Expect: 100-continue\r\n",),
        *(b"/panels/p/ws", b"/panels/%00/trigger/t", b"/panels/p/history?since=", b"%2e%2e", b"?token="),
        *(_UPGRADE, b"\xff\xfe"),
        *(b"\x81\x85aaaa", b"\x88\x80aaaa", b"\x81\xfe\xff\xff", b"\xc1\x80aaaa"),
    )

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = contextlib.AsyncExitStack()
        self._gateway: Gateway | None = None
        self._server: GatewayServer | None = None
        self._port = 0
        self._errors = _Errors()
        self._problems: list[dict[str, Any]] = []
        logging.getLogger().addHandler(self._errors)
        self._runner.get_loop().set_exception_handler(lambda _loop, context: self._problems.append(context))

    def seeds(self) -> list[bytes]:
        body = b'{"args":{"set":{"k":1}}}'
        made = b'{"kind":"k","tools":[{"name":"t","handler":"1"}]}'
        paths = (
            *(b"/health", b"/metrics", b"/panels", b"/panels/p", b"/panels/p/state"),
            *(b"/panels/p/commits?since=0",),
            *(b"/panels/p/state?at=0", b"/panels/p/keys/k/history", b"/panels/p/suspensions"),
            *(b"/panels?after=a&limit=5",),
        )
        gets = [b"GET " + path + b" HTTP/1.1\r\n" + _HOST + b"\r\n" for path in paths]
        frame = b"\x81\x8faaaa" + bytes(byte ^ 0x61 for byte in b'{"type":"PING"}')
        return [
            *gets,
            gets[0] + gets[3],
            b"POST /panels/p/trigger/t HTTP/1.1\r\n" + _HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            b"POST /panels/p/trigger/t HTTP/1.1\r\n" + _HOST + b"Idempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
            b"PUT /panels/q HTTP/1.1\r\n" + _HOST + b"Content-Length: %d\r\n\r\n" % len(made) + made,
            b"DELETE /panels/q HTTP/1.1\r\n" + _HOST + b"\r\n",
            b"GET /panels/p/ws?since=0&epoch=e HTTP/1.1\r\n" + _HOST + _UPGRADE + b"\r\n" + frame,
            b"GET /panels/p/ws HTTP/1.1\r\n" + _HOST + _UPGRADE + b"Sec-WebSocket-Protocol: panels.v1\r\n\r\n" + frame,
        ]  # fmt: skip

    def run(self, data: bytes) -> str:
        self._problems.clear()
        self._errors.lines.clear()
        outcome = self._runner.run(self._serve(data))
        require(not self._problems, "nothing is raised inside the loop", self._problems)
        require(not self._errors.lines, "nothing is logged as a defect", self._errors.lines)
        return outcome

    async def _serve(self, data: bytes) -> str:
        if self._gateway is None or len(list(self._gateway.kernel.residents)) != 1:
            await self._restart()
        answer, closed = await self._exchange(data)
        words = self._check(answer)
        honest, _ = await self._exchange(
            b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", patience=1_000
        )
        require(honest.startswith(b"HTTP/1.1 200"), "an honest request is answered", honest[:200])
        return f"{' '.join(words) or 'nothing'} closed {closed}"

    async def _restart(self) -> None:
        await self._stack.aclose()
        self._gateway = Gateway()
        await self._gateway.add("p")
        flags = ("--header-timeout-s=5", "--body-timeout-s=5", "--allowed-hosts=*")
        self._port, self._server = await self._stack.enter_async_context(serving(self._gateway, *flags))

    async def _exchange(self, data: bytes, patience: int = _QUIET_ROUNDS) -> tuple[bytes, bool]:
        """What the server says while it has something to say, and whether it closed the socket."""
        loop = asyncio.get_running_loop()
        protocol = _Client()
        transport, _ = await loop.create_connection(lambda: protocol, "127.0.0.1", self._port)
        transport.write(data)
        quiet = 0
        while quiet < patience and not protocol.closed:
            before = len(protocol.heard)
            await asyncio.sleep(0)
            quiet = 0 if len(protocol.heard) > before else quiet + 1
        closed = protocol.closed
        transport.abort()
        return bytes(protocol.heard), closed

    def _check(self, answer: bytes) -> list[str]:
        words = []
        while answer:
            head, found, rest = answer.partition(b"\r\n\r\n")
            require(found, "a head of an answer is whole", answer[:200])
            status = _STATUS.match(head + b"\r\n")
            require(status is not None, "an answer begins with its status", answer[:200])
            assert status is not None
            words.append(status[1].decode())
            require(status[1] != b"500", "no answer is a defect", answer[:400])
            lines = head.split(b"\r\n")[1:]
            require(all(_HEADER.fullmatch(line) for line in lines), "headers are well-formed", head[:400])
            headers = dict(line.lower().split(b":", 1) for line in lines)
            if status[1] == b"101":
                return words
            length = int(headers.get(b"content-length", b"0"))
            if b"chunked" in headers.get(b"transfer-encoding", b""):
                return words
            if status[1] == b"100" or (length and (not rest or rest.startswith(b"HTTP/1.1 "))):
                answer = rest  # that of a HEAD, which says how long it would have been
                continue
            body, answer = rest[:length], rest[length:]
            if len(body) == length and b"application/json" in headers.get(b"content-type", b""):
                try:
                    json.loads(body)
                except ValueError as exc:
                    raise Violation(f"a body is JSON\n{exc} {body[:200]!r}") from None
        return words

    def close(self) -> None:
        logging.getLogger().removeHandler(self._errors)
        self._runner.run(self._stack.aclose())
        self._runner.close()


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = bytearray()
        self.closed = False

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def eof_received(self) -> None:
        self.closed = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


TARGETS: Final = (HttpSocket,)
