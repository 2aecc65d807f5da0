"""The route that shows what a panel's handlers logged lately, and how their jobs failed: at once, or by long
polls.

Nothing of it is recorded: what is kept is ``observe.recent_lines``, and is gone with the process.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.http.answers import answer_bytes, encode
from panels_gateway.http.streams import LONG_POLL_S
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.http.desk import Desk
    from panels_gateway.http.reader import Readers
    from panels_gateway.observe.recent_lines import Line

#: Where a reader is: which run of the gateway, and the number of the last line that it has.
_CURSOR: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,16})", re.ASCII)


class HandlerLogRoutes:
    """See the module's docstring. ``wait_s`` is how long a long poll waits, in seconds."""

    def __init__(self, desk: Desk, readers: Readers, *, wait_s: float = LONG_POLL_S) -> None:
        self._desk = desk
        self._readers = readers
        self._lines = desk.kernel.commits.recent_lines
        self._wait_s = wait_s
        self._run = secrets.token_hex(4)

    def routes(self) -> list[Route]:
        """All of them."""
        return [Route("/panels/{id}/logs", self.logs, methods=["GET"])]

    async def logs(self, request: Request) -> Response:
        """GET: the lines that are kept behind ``?after=``; with ``?live=long-poll`` the answer waits for
        one.
        """
        principal = self._desk.admit(request)
        resident = await self._desk.find(request, principal, manage=True)
        panel = resident.panel
        after, live = self._asked(request)
        lines = self._lines.after(panel.number, after)
        if live and not lines:
            reading = self._readers.reading(request.scope, request.receive, resident, principal, self._wait_s)
            async with reading as reader:
                self._lines.listen(panel.number, reader.stir)
                try:
                    await reader.wait_for(lambda: self._lines.last(panel.number) > after, reader.until_s)
                finally:
                    self._lines.ignore(panel.number, reader.stir)
                if reader.error is not None:
                    raise reader.error
            lines = self._lines.after(panel.number, after)
        await self._desk.kernel.turn.read()
        at = lines[-1].number if lines else self._lines.last(panel.number)
        body = encode(
            {
                "panelId": panel.id,
                "lines": [_shown(line) for line in lines],
                "next": f"{self._run}-{at}",
            }
        )
        return answer_bytes(
            body, self._desk.kernel.images, principal.subject or "", self._desk.body_timeout_s
        )

    def _asked(self, request: Request) -> tuple[int, bool]:
        query = request.query_params
        live = query.get("live")
        if live not in (None, "long-poll"):
            raise RequestError(
                Code.INVALID_REQUEST, "live: expected long-poll, or no live at all", {"path": "live"}
            )
        cursor = query.get("after")
        if cursor is None:
            return 0, live is not None
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise RequestError(
                Code.INVALID_REQUEST, "after: expected the next of an earlier answer", {"path": "after"}
            )
        # the numbers of another run mean nothing here: its reader begins with what is kept
        return int(found[2]) if found[1] == self._run else 0, live is not None


def _shown(line: Line) -> dict[str, object]:
    shown: dict[str, object] = {
        "number": line.number,
        "timestamp": line.at_ms,
        "tool": line.tool,
        "level": line.level,
        "text": line.text,
    }
    if line.reason:
        shown["reason"] = line.reason
        if line.place[0]:
            shown["location"] = {"line": line.place[0], "column": line.place[1]}
    return shown
