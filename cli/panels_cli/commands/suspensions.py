"""`panels suspensions`: handlers that wait."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from panels_cli.api import panel_path
from panels_cli.faults import UsageError
from panels_cli.output import one_line, when
from panels_cli.session import Json, PanelId, Yes, confirm, session_of
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

app = typer.Typer(help="See, answer and cancel handlers that wait.")

Sid = Annotated[str, typer.Argument(metavar="ID", help="The suspension's id.")]


@app.command("ls")
def list_suspensions(ctx: typer.Context, panel: PanelId, json: Json = False) -> None:
    """List a panel's handlers that wait, and what for."""
    session = session_of(ctx)
    with session.api() as api:
        shown = api.ask("GET", panel_path(panel, "suspensions")).value
    output = session.output(json)
    if json:
        output.value(shown)
        return
    rows = [
        (
            found["id"],
            found["tool"],
            when(found["deadline"]),
            waits["call"],
            f"{waits['extension']}.{waits['method']}",
            one_line(waits["args"], 60),
        )
        for found in shown["suspensions"]
        for waits in found["waitsFor"]
    ]
    output.table(("ID", "TOOL", "UNTIL (UTC)", "CALL", "WAITS FOR", "ARGS"), rows)


@app.command("answer")
def answer(
    ctx: typer.Context,
    panel: PanelId,
    suspension: Sid,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The answer as JSON, like true.")],
    call: Annotated[int | None, typer.Option(min=0, help="Which question, if several are open.")] = None,
    json: Json = False,
) -> None:
    """Answer a question of a handler that waits."""
    try:
        jsonvalue.validate(value)
    except InvalidJsonError as exc:
        raise UsageError(f"expected the answer as JSON, like true or '\"yes\"': {exc.problem}") from None
    body = {"value": msgspec.Raw(value.encode())} | ({} if call is None else {"call": call})
    session = session_of(ctx)
    with session.api() as api:
        api.ask(
            "POST", panel_path(panel, "suspensions", suspension, "answer"), body=msgspec.json.encode(body)
        )
    output = session.output(json)
    if json:
        output.value({"panelId": panel, "suspensionId": suspension, "answered": True})
    else:
        output.line(f"answered {suspension}")


@app.command("cancel")
def cancel(ctx: typer.Context, panel: PanelId, suspension: Sid, yes: Yes = False, json: Json = False) -> None:
    """End a handler that waits. What it has committed stays."""
    session = session_of(ctx)
    path = panel_path(panel, "suspensions", suspension)
    confirm(f"Cancel {suspension} of {panel}?", yes=yes)
    with session.api() as api:
        api.ask("DELETE", path)
    output = session.output(json)
    if json:
        output.value({"panelId": panel, "suspensionId": suspension, "cancelled": True})
    else:
        output.line(f"cancelled {suspension}")
