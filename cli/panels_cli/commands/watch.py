"""`panels watch`: a panel's state and events, live. A shell around ``watching`` and ``showing``."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from panels_cli import showing
from panels_cli.api import CONNECT_TIMEOUT_S, panel_path, reason, refusal, verification
from panels_cli.context import Context
from panels_cli.faults import CommandError, UnreachableError
from panels_cli.output import Output
from panels_cli.session import Json, PanelId, session_of
from panels_cli.watching import Changed, Gap, GiveUp, Happened, Retry, Watcher
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

#: Bytes of a message: more than the largest state, escaped.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024


def watch(
    ctx: typer.Context,
    panel: PanelId,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            help="Hear only this topic: state, events, state:KEY, event:NAME, presence. Repeatable."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many changes and events.")] = None,
    json: Json = False,
) -> None:
    """Show a panel's state, and what happens to it, until Ctrl-C.

    If the connection is lost it connects again and says whether something was missed: "recovered" if nothing
    was, "resynced" if the state was loaded anew. With --json it prints the gateway's messages, one a line.
    """
    session = session_of(ctx)
    Watching(session.target().context, panel, topic, session.output(json), count).run()


class Watching:
    """One run of the command."""

    def __init__(
        self, context: Context, panel: str, topics: list[str] | None, output: Output, count: int | None
    ) -> None:
        self._context = context
        self._path = panel_path(panel, "ws")
        self._topics = topics
        self._output = output
        self._left = count
        self._watcher = Watcher()

    def run(self) -> None:
        """Watches until nothing more is wanted. Raises ``CommandError``."""
        while self._left != 0:
            advice, why = self._connect()
            if isinstance(advice, GiveUp):
                raise (
                    why
                    if isinstance(why, CommandError)
                    else CommandError(f"{self._context.url}{self._path}: {advice.reason}")
                )
            if self._left != 0:
                self._say_lost(str(why), advice.after_s)
                time.sleep(advice.after_s)

    def _connect(self) -> tuple[Retry | GiveUp, CommandError | str]:
        """One connection, from its beginning to its end: what to do now, and why."""
        url = self._context.url
        chance = random.random()
        try:
            with self._opened() as socket:
                code = self._hear(socket)
            return self._watcher.closed(
                code, chance=chance
            ), f"closed with {code}" if code else "no close code came"
        except InvalidStatus as exc:
            answer = exc.response
            fault = refusal(url, answer.status_code, _json(answer.body))
            return self._watcher.refused(answer.status_code, chance=chance), fault
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as exc:
            why = UnreachableError(f"{url} cannot be reached: {reason(exc)}; panels doctor says more")
            return self._watcher.unreachable(chance=chance), why
        except InvalidURI as exc:
            raise UnreachableError(f"{url} cannot be reached: {reason(exc)}") from None

    def _opened(self) -> ClientConnection:
        context = self._context
        # http → ws, https → wss
        url = f"ws{context.url.removeprefix('http')}{self._path}?{self._query()}"
        headers = {} if context.token is None else {"Authorization": f"Bearer {context.token}"}
        checked = verification(context.url)
        return connect(
            url,
            additional_headers=headers,
            ssl=None if isinstance(checked, bool) else checked,
            proxy=None,
            compression=None,
            open_timeout=CONNECT_TIMEOUT_S,
            close_timeout=2,
            max_size=MAX_MESSAGE_BYTES,
        )

    def _query(self) -> str:
        query = urlencode(self._watcher.query())
        if self._topics is None:
            return query
        # the commas between topics stay, those in them do not
        topics = ",".join(quote(topic, safe="") for topic in self._topics)
        return f"{query}&topics={topics}" if query else f"topics={topics}"

    def _hear(self, socket: ClientConnection) -> int | None:
        """Hears until the connection ends, or enough was heard; the close code, None where none came."""
        try:
            while self._left != 0:
                if not self._take(jsonvalue.decode(socket.recv())):
                    return None
        except ConnectionClosed as exc:
            return exc.rcvd.code if exc.rcvd is not None else None
        except InvalidJsonError as exc:
            raise UnreachableError(f"{self._context.url} sent broken JSON: {exc.problem}") from None
        return None

    def _take(self, message: Mapping[str, Any]) -> bool:
        """Whether the connection is still of use after ``message``."""
        heard = self._watcher.hear(message)
        if heard is None:
            return True
        if self._output.json and not isinstance(heard, Gap):
            self._output.value(message)
        elif not self._output.json:
            for parts in showing.lines(heard):
                self._output.line(*parts)
        if self._left is not None and isinstance(heard, (Changed, Happened)):
            self._left -= 1
        return not isinstance(heard, Gap)

    def _say_lost(self, why: str, after_s: float) -> None:
        why = why.partition(";")[0]
        if self._output.json:
            self._output.value({"type": "LOST", "reason": why, "retryAfterMs": round(after_s * 1000)})
        else:
            self._output.line((f"● lost the connection: {why}", "bold yellow"))


def _json(body: bytes | bytearray | None) -> Any:
    try:
        return jsonvalue.decode(bytes(body or b""))
    except InvalidJsonError:
        return None
