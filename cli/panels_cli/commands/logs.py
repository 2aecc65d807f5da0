"""`panels logs`: what a panel's handlers log, live."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from panels_cli import calling
from panels_cli.api import Api, panel_path
from panels_cli.faults import UnreachableError
from panels_cli.output import Output, when
from panels_cli.session import Json, PanelId, session_of

_STYLES: Final = {"debug": "dim", "warn": "yellow", "error": "red"}


def logs(
    ctx: typer.Context,
    panel: PanelId,
    follow: Annotated[bool, typer.Option(help="Go on until Ctrl-C.")] = True,
    json: Json = False,
) -> None:
    """Show what a panel's handlers log, and how they fail, until Ctrl-C.

    The gateway keeps the last lines in memory; with --json they are printed one a line.
    """
    session = session_of(ctx)
    output = session.output(json)
    with session.api() as api:
        page = api.ask("GET", panel_path(panel, "logs")).value
        last = _print(output, page["lines"], 0)
        while follow:
            page = _next(api, panel, page["next"], output)
            # after a restart of the gateway numbers begin anew
            first = page["lines"][0]["number"] if page["lines"] else last + 1
            last = _print(output, page["lines"], last if first > last else 0)


def _next(api: Api, panel: str, after: str, output: Output) -> Mapping[str, Any]:
    """The next page, asked for again while nobody answers."""
    attempt = 0
    while True:
        try:
            query = {"after": after, "live": "long-poll"}
            page: Mapping[str, Any] = api.ask("GET", panel_path(panel, "logs"), query=query).value
        except UnreachableError as exc:
            attempt += 1
            if attempt == 1:
                output.note(f"{exc}; trying again")
            time.sleep(calling.wait_s(min(attempt, calling.MAX_ATTEMPTS), chance=random.random()))
        else:
            return page


def _print(output: Output, lines: list[Mapping[str, Any]], last: int) -> int:
    """Prints lines behind number ``last``, and the number of the last one."""
    for line in lines:
        number = line["number"]
        if last and number > last + 1:
            output.note(f"{number - last - 1} lines were not kept")
        last = number
        if output.json:
            output.value(line)
        else:
            _print_line(output, line)
    return last


def _print_line(output: Output, line: Mapping[str, Any]) -> None:
    level = str(line["level"])
    style = _STYLES.get(level, "")
    place = line.get("location")
    where = f" (line {place['line']}, column {place['column']})" if place else ""
    reason = f"{line['reason']}: " if "reason" in line else ""
    output.line(
        (when(line["timestamp"]), "dim"),
        f"  {line['tool']}  ",
        (f"{level:5}  {reason}{line['text']}{where}", style),
    )
