"""`panels init` and `panels apply`: panels as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from panels_cli import applying, folder_files
from panels_cli.api import Api, panel_path
from panels_cli.applying import Plan, ToolChange
from panels_cli.faults import CommandError, RefusedError
from panels_cli.output import Output
from panels_cli.session import Json, session_of
from panels_shared.errors import Code
from panels_shared.panel_folder import Folder


def init(
    ctx: typer.Context,
    name: Annotated[Path, typer.Argument(metavar="NAME", help="The folder, and the panel's id.")],
    template: Annotated[
        Literal["js", "ts", "wasm"], typer.Option(help="The language of the handler.")
    ] = "js",
    json: Json = False,
) -> None:
    """Make a folder with a panel in it: a counter, to be changed."""
    files = folder_files.create(name, template)
    output = session_of(ctx).output(json)
    if json:
        output.value({"folder": str(name), "files": files})
        return
    output.line(f"made {name} with {', '.join(files)}")
    output.line(f"next: panels up {name}, or panels apply {name} where a gateway runs")


def apply(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="DIR", help="The panel's folder.")],
    prune: Annotated[bool, typer.Option(help="Remove tools that the folder has not.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show what would be done, and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Make the panel of a folder, or bring it up to date.

    Shows what differs, and sends nothing if nothing does. The state of a panel that exists is never touched.
    """
    session = session_of(ctx)
    folder = folder_files.load(path)
    output = session.output(json)
    with session.api() as api:
        plan = applying.plan(folder, find_panel(api, folder.id))
        if not json:
            show_plan(output, folder, plan)
        applied = plan.method is not None and not dry_run
        if applied:
            if plan.removed and not prune:
                raise CommandError(
                    f"{folder.id} has tools that {path} has not: {', '.join(plan.removed)}; "
                    "--prune removes them"
                )
            send(api, path, folder, plan)
    if json:
        output.value(shown_plan(folder, plan, applied))
    elif applied:
        output.line(f"made {folder.id}" if plan.method == "POST" else f"{folder.id} is up to date now")


def find_panel(api: Api, panel: str) -> Any:
    """The panel as the gateway shows it, None where there is none. Raises ``CommandError``."""
    try:
        return api.ask("GET", panel_path(panel)).value
    except RefusedError as exc:
        if exc.code == Code.PANEL_NOT_FOUND:
            return None
        raise


def send(api: Api, path: Path, folder: Folder, plan: Plan) -> None:
    """Carries out a plan. Raises ``CommandError``, which names the file that is at fault."""
    try:
        if plan.method == "POST":
            api.ask("POST", "/panels", body=plan.body)
        else:
            api.ask("PUT", panel_path(folder.id), body=plan.body)
    except RefusedError as exc:
        raise applying.explained(folder, str(path), exc) from None


def show_plan(output: Output, folder: Folder, plan: Plan) -> None:
    """Prints what a plan does."""
    if plan.method is None:
        output.line(f"{folder.id} is as the folder says")
        return
    what = "is made" if plan.method == "POST" else "changes"
    output.line((f"{folder.id} {what}", "bold"), f": {', '.join(plan.fields)}" if plan.fields else "")
    for change in plan.tools:
        sign, style = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}[
            change.verdict
        ]
        output.line((f"  {sign} {change.name}", style), f"  {_digests(change)}")


def _digests(change: ToolChange) -> str:
    old, new = change.old_digest[:12], change.new_digest[:12]
    digests = f"{old} → {new}" if old and new and old != new else new or old
    return f"{digests}  {', '.join(change.fields)}".rstrip()


def shown_plan(folder: Folder, plan: Plan, applied: bool) -> dict[str, object]:
    """A plan for programs; ``applied`` says whether it was carried out."""
    return {
        "id": folder.id,
        "request": plan.method,
        "applied": applied,
        "fields": plan.fields,
        "tools": [
            {
                "name": change.name,
                "verdict": change.verdict,
                "oldDigest": change.old_digest or None,
                "newDigest": change.new_digest or None,
                "fields": change.fields,
            }
            for change in plan.tools
        ],
    }
