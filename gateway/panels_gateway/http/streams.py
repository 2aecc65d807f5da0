"""The route that reads a panel as a stream, in the dialect of the Durable Streams protocol: page by page, by
long polls, or as server-sent events.

The stream of a panel is read-only and never ends. Its offsets are those of ``broadcast.offsets``, its
messages those of ``broadcast.changes``; what of them there is comes from ``kernel.streams``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.broadcast import offsets
from panels_gateway.broadcast.changes import DATA_HEAD, DATA_TAIL, control_event, one_line
from panels_gateway.broadcast.offsets import Offset, Start
from panels_gateway.broadcast.topics import Topics, parse_topics
from panels_gateway.http.answers import ABORT, LargeAnswer
from panels_gateway.http.reader import Reader, Readers
from panels_gateway.journal.journal import JournalError
from panels_gateway.kernel.streams import EMPTY, Body, Span, Streams, release
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from panels_gateway.access.tokens import Principal
    from panels_gateway.http.desk import Desk
    from panels_gateway.kernel.residents import Resident

_log = logging.getLogger("panels.gateway.http")

#: How long a long poll waits, and a response of server-sent events lasts, in seconds.
LONG_POLL_S: Final = 25.0
EVENTS_S: Final = 60.0
#: How long a response of server-sent events says nothing at all, in seconds.
KEEP_ALIVE_S: Final = 15.0

#: What every answer has. Panels belong to those who may read them: a cache asks each time whether they may.
_COMMON: Final = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}
_REVALIDATED: Final = {**_COMMON, "cache-control": "private, no-cache"}
_UNCACHED: Final = {**_COMMON, "cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a query asks for. ``live`` is "", "long-poll" or "sse"."""

    start: Start
    live: str
    cursor: str | None
    topics: Topics


@dataclass(frozen=True, slots=True)
class Timing:
    """How long live answers take, in seconds; see the constants."""

    long_poll_s: float = LONG_POLL_S
    events_s: float = EVENTS_S
    keep_alive_s: float = KEEP_ALIVE_S


class StreamRoutes:
    """See the module's docstring. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        desk: Desk,
        readers: Readers,
        *,
        clock: Callable[[], float] = time.time,
        timing: Timing | None = None,
    ) -> None:
        self._desk = desk
        self._readers = readers
        self._clock = clock
        self._timing = timing or Timing()
        self._streams = Streams(desk.kernel)

    def routes(self) -> list[Route]:
        """All of them."""
        return [Route("/panels/{id}/stream", self.stream, methods=["GET"])]

    async def stream(self, request: Request) -> Response:
        """GET and HEAD: the stream, from ``?offset=`` on."""
        principal = self._desk.admit(request)
        resident = await self._desk.find(request, principal)
        if request.method == "HEAD":
            tail = await self._streams.tail(resident)
            headers = {**_UNCACHED, "stream-next-offset": str(tail)}
            return Response(media_type="application/json", headers=headers)
        asked = _asked(request)
        if asked.live == "sse":
            return _Events(self, resident, principal, asked)
        if asked.live == "long-poll":
            return await self._long_poll(request, resident, principal, asked)
        span = await self._streams.span(resident, asked.start)
        return await self._page(request, resident, principal, span, asked)

    # -- pages ---------------------------------------------------------------------------------------

    async def _page(
        self, request: Request, resident: Resident, principal: Principal, span: Span, asked: Asked
    ) -> Response:
        tag = _etag(span, principal)
        headers = self._headers(span.end, asked, complete=span.complete)
        if span.start == "now":
            return Response(EMPTY, media_type="application/json", headers={**headers, **_UNCACHED})
        headers["etag"] = tag
        if offsets.matches(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        return self._answer(
            await self._streams.body(resident, span, asked.topics, principal.subject), headers
        )

    def _answer(self, body: Body, headers: dict[str, str]) -> Response:
        if isinstance(body, bytes):
            return Response(body, media_type="application/json", headers=headers)
        answer = LargeAnswer(body, self._desk.body_timeout_s)
        answer.headers.update(headers)
        return answer

    def _headers(self, end: Offset, asked: Asked, *, complete: bool) -> dict[str, str]:
        headers = {**_REVALIDATED, "stream-next-offset": str(end), "stream-cursor": self._cursor(asked)}
        if complete:
            headers["stream-up-to-date"] = "true"
        return headers

    def _cursor(self, asked: Asked) -> str:
        # not a secret: it keeps readers of one cache apart
        return offsets.cursor(self._clock(), asked.cursor, random.random)

    # -- long polls ----------------------------------------------------------------------------------

    async def _long_poll(
        self, request: Request, resident: Resident, principal: Principal, asked: Asked
    ) -> Response:
        reading = self._readers.reading(
            request.scope, request.receive, resident, principal, self._timing.long_poll_s
        )
        async with reading as reader:
            start = asked.start if asked.start != "now" else await self._streams.tail(resident)
            while True:
                span = await self._streams.span(resident, start)
                body = await self._streams.body(resident, span, asked.topics, principal.subject)
                if reader.error is not None:
                    release(body)
                    raise reader.error
                if body != EMPTY:
                    headers = self._headers(span.end, asked, complete=span.complete)
                    if asked.start != "now":
                        headers["etag"] = _etag(span, principal, asked.start)
                    return self._answer(body, headers)
                # what these topics do not want is passed over
                start = span.end
                if span.complete and not await reader.wait(start.seq, reader.until_s):
                    break
                if reader.error is not None:
                    raise reader.error
                if reader.over:
                    break
            headers = self._headers(start, asked, complete=True)
            return Response(status_code=204, headers={**headers, **_UNCACHED})

    # -- server-sent events --------------------------------------------------------------------------

    async def events(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        resident: Resident,
        principal: Principal,
        asked: Asked,
    ) -> None:
        """Sends the stream as server-sent events, as fast as the client takes them."""
        reading = self._readers.reading(scope, receive, resident, principal, self._timing.events_s)
        async with reading as reader:
            # whatever is wrong with the request is answered with a status, before anything is sent
            span = await self._streams.span(resident, asked.start)
            body = await self._streams.body(resident, span, asked.topics, principal.subject)
            if reader.error is not None:
                release(body)
                raise reader.error
            headers = {**_UNCACHED, "x-accel-buffering": "no"}
            head = Response(media_type="text/event-stream", headers=headers)
            del head.headers["content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": head.raw_headers})
            try:
                await self._send_events(send, reader, resident, principal, asked, span, body)
                async with asyncio.timeout(self._desk.body_timeout_s):
                    await send({"type": "http.response.body", "body": b""})
            except TimeoutError:
                # it reads too slowly
                scope["extensions"][ABORT]()

    async def _send_events(
        self,
        send: Send,
        reader: Reader,
        resident: Resident,
        principal: Principal,
        asked: Asked,
        span: Span,
        body: Body,
    ) -> None:
        loop = asyncio.get_running_loop()
        told: Offset | None = None
        while True:
            try:
                if reader.over:
                    return
                if body != EMPTY or told is None:
                    await self._send_page(send, asked, span, body)
                    told = span.end
            finally:
                release(body)
            while span.complete and not reader.over:
                until_s = min(reader.until_s, loop.time() + self._timing.keep_alive_s)
                if await reader.wait(span.end.seq, until_s):
                    break
                if told != span.end:
                    await self._send_page(send, asked, span, EMPTY)
                    told = span.end
                if loop.time() >= reader.until_s:
                    return
                await self._send(send, b": nothing new\n\n")
            if reader.over or loop.time() >= reader.until_s:
                return
            try:
                span = await self._streams.span(resident, span.end)
                body = await self._streams.body(resident, span, asked.topics, principal.subject)
            except RequestError:
                return  # who comes again is told why
            except JournalError as exc:
                _log.error("panel %r: its history cannot be read: %s", resident.panel.id, exc)
                return

    async def _send_page(self, send: Send, asked: Asked, span: Span, body: Body) -> None:
        control = control_event(str(span.end), self._cursor(asked), up_to_date=span.complete)
        if body == EMPTY:
            await self._send(send, control)
            return
        if isinstance(body, bytes):
            await self._send(send, b"".join((DATA_HEAD, one_line(body), DATA_TAIL, control)))
            return
        async with asyncio.timeout(self._desk.body_timeout_s):
            await send({"type": "http.response.body", "body": DATA_HEAD, "more_body": True})
            for part in body.parts:
                await send({"type": "http.response.body", "body": one_line(part), "more_body": True})
            await send({"type": "http.response.body", "body": DATA_TAIL + control, "more_body": True})

    async def _send(self, send: Send, data: bytes) -> None:
        async with asyncio.timeout(self._desk.body_timeout_s):
            await send({"type": "http.response.body", "body": data, "more_body": True})


class _Events(Response):
    """Server-sent events, which the client is sent for as long as it reads."""

    def __init__(self, routes: StreamRoutes, resident: Resident, principal: Principal, asked: Asked) -> None:
        super().__init__()
        self._routes = routes
        self._resident = resident
        self._principal = principal
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        await self._routes.events(scope, receive, send, self._resident, self._principal, self._asked)


def _etag(span: Span, principal: Principal, start: Start | None = None) -> str:
    reader = principal.subject or "" if span.is_addressed else None
    return offsets.etag(span.start if start is None else start, span.end, reader)


def _asked(request: Request) -> Asked:
    """What the query asks for. Raises ``RequestError`` INVALID_REQUEST."""
    query = request.query_params
    for name in ("offset", "live", "cursor", "topics"):
        if len(query.getlist(name)) > 1:
            raise _invalid(name, "expected it once, got it several times")
    live = query.get("live", "")
    if live not in ("", "long-poll", "sse") or ("live" in query and not live):
        raise _invalid("live", "expected long-poll or sse, or no live at all")
    if live and "offset" not in query:
        raise _invalid("offset", f"expected one with live={live}; -1 is the beginning, now the end")
    topics = Topics()
    for part in request.url.query.split("&"):
        name, _, value = part.partition("=")
        if name == "topics":
            topics = parse_topics(value)
    return Asked(offsets.parse_offset(query.get("offset")), live, query.get("cursor"), topics)


def _invalid(path: str, problem: str) -> RequestError:
    return RequestError(Code.INVALID_REQUEST, f"{path}: {problem}", {"path": path})
