"""`panels ls`, `get`, `types`, `state`, `history`, `revert`, `fork`, `rm`: which panels there are, and what
is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
import typer

from panels_cli import declarations
from panels_cli.api import Api, panel_path
from panels_cli.output import Output, one_line, when
from panels_cli.session import Json, PanelId, Yes, confirm, session_of

MAX_PAGE: Final = 1_000
#: Panels that `panels ls` lists, and commits that `panels history` lists, at the most.
MAX_LISTED: Final = 100_000

Limit = Annotated[int, typer.Option(min=1, max=MAX_LISTED, help="At most so many.")]
Seq = Annotated[int | None, typer.Option(min=0, help="As it was at this version.")]


def list_panels(
    ctx: typer.Context,
    limit: Limit = 1_000,
    after: Annotated[str, typer.Option(help="Begin after this id.")] = "",
    json: Json = False,
) -> None:
    """List the panels that the token may read."""
    session = session_of(ctx)
    found: list[Mapping[str, Any]] = []
    following: str | None = after
    with session.api() as api:
        while following is not None and len(found) < limit:
            query = {"limit": min(MAX_PAGE, limit - len(found)), "after": following or None}
            page = api.ask("GET", "/panels", query=query).value
            found += page["panels"]
            following = page["next"]
    output = session.output(json)
    if json:
        output.value({"panels": found, "next": following})
        return
    rows = [(p["id"], p["seq"], p["clients"], p["kind"], p["title"]) for p in found]
    output.table(("ID", "SEQ", "CLIENTS", "KIND", "TITLE"), rows)
    if following is not None:
        output.note(f"there are more: panels ls --after {following}")


def get(ctx: typer.Context, panel: PanelId, json: Json = False) -> None:
    """Show a panel and its tools."""
    session = session_of(ctx)
    with session.api() as api:
        shown = api.ask("GET", panel_path(panel)).value
    output = session.output(json)
    if json:
        output.value(shown)
        return
    for name, value in (
        ("id", shown["id"]),
        ("title", shown["title"]),
        ("kind", shown["kind"]),
        ("seq", shown["seq"]),
        ("epoch", shown["epoch"]),
        ("clients", shown["clients"]),
        ("state", f"{shown['stateBytes']} bytes"),
        ("created", when(shown["createdAt"])),
        ("watch at", shown["wsUrl"]),
    ):
        output.line((f"{name:<9}", "bold"), "" if value is None else str(value))
    output.line("")
    rows = [
        (
            tool["name"],
            tool["language"],
            tool["digest"][:12],
            tool["trigger"]["type"],
            tool["circuit"]["state"],
            tool["description"],
        )
        for tool in shown["tools"]
    ]
    output.table(("TOOL", "LANGUAGE", "DIGEST", "RUNS", "CIRCUIT", "DESCRIPTION"), rows)


def types(
    ctx: typer.Context,
    panel: PanelId,
    language: Annotated[
        Literal["typescript", "python"], typer.Option("--language", "-l", help="typescript or python.")
    ] = "typescript",
) -> None:
    """Print the types of a panel's tools, made from their schemas, as a module of TypeScript or Python."""
    session = session_of(ctx)
    with session.api() as api:
        shown = api.ask("GET", panel_path(panel)).value
    tools = declarations.tools_of(shown)
    made = declarations.python if language == "python" else declarations.typescript
    session.output(False).block(made(panel, tools).rstrip("\n"))


def state(ctx: typer.Context, panel: PanelId, seq: Seq = None, json: Json = False) -> None:
    """Print a panel's state, as it is or as it was.

    Without --json that is the state alone; with it the answer of the gateway, which has its version too.
    """
    session = session_of(ctx)
    with session.api() as api:
        shown = api.ask("GET", panel_path(panel, "state"), query={"seq": seq}).value
    output = session.output(json)
    if json:
        output.value(shown)
    else:
        output.pretty(shown["state"])


def history(
    ctx: typer.Context,
    panel: PanelId,
    since: Annotated[int, typer.Option(min=0, help="Begin after this version.")] = 0,
    limit: Limit = 100,
    key: Annotated[str | None, typer.Option(help="Only what set this key, newest first.")] = None,
    json: Json = False,
) -> None:
    """List a panel's commits, oldest first."""
    session = session_of(ctx)
    with session.api() as api:
        if key is not None:
            query = {"limit": min(limit, MAX_PAGE)}
            shown = api.ask("GET", panel_path(panel, "keys", key, "history"), query=query).value
        else:
            shown = _commits(api, panel, since, limit)
    output = session.output(json)
    if json:
        output.value(shown)
        return
    _print_commits(output, shown["commits"])
    if shown.get("next") is not None:
        output.note(f"there are more: panels history {panel} --since {shown['next']}")


def _commits(api: Api, panel: str, since: int, limit: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"next": since, "commits": []}
    commits: list[Any] = []
    while shown["next"] is not None and len(commits) < limit:
        query = {"since": shown["next"], "limit": min(MAX_PAGE, limit - len(commits))}
        shown = api.ask("GET", panel_path(panel, "history"), query=query).value
        commits += shown["commits"]
    return {**shown, "commits": commits}


def _print_commits(output: Output, commits: list[Mapping[str, Any]]) -> None:
    rows = [
        (commit["seq"], when(commit["timestamp"]), _who(commit), _what(commit), _effect(commit))
        for commit in commits
    ]
    output.table(("SEQ", "TIME (UTC)", "BY", "WHAT", "CHANGED"), rows)


def _who(commit: Mapping[str, Any]) -> str:
    scope = commit.get("scope")
    who = scope.get("sub") if isinstance(scope, dict) else commit.get("subject")
    return "-" if who is None else str(who)


def _what(commit: Mapping[str, Any]) -> str:
    if commit["cause"] != "trigger":
        return str(commit["cause"])
    args = commit.get("args")
    return f"{commit['tool']} {one_line(args, 40)}" if args is not None else str(commit["tool"])


def _effect(commit: Mapping[str, Any]) -> str:
    if "op" in commit:
        return "deleted" if commit["op"] == "delete" else one_line(commit.get("value"), 60)
    keys = [("-" if m["op"] == "delete" else "") + str(m["key"]) for m in commit["mutations"]]
    return " ".join(keys + [f"!{event['name']}" for event in commit["events"]])


def revert(
    ctx: typer.Context,
    panel: PanelId,
    seq: Annotated[int, typer.Argument(min=0, metavar="SEQ", help="The version to go back to.")],
    json: Json = False,
) -> None:
    """Make the state of an earlier version the panel's state, as a new commit."""
    session = session_of(ctx)
    with session.api() as api:
        shown = api.ask("POST", panel_path(panel, "revert"), body=msgspec.json.encode({"seq": seq})).value
    output = session.output(json)
    if json:
        output.value(shown)
    else:
        output.line(f"{panel} is at version {shown['seq']}, with the state of version {shown['revertedTo']}")


def fork(
    ctx: typer.Context,
    panel: PanelId,
    new_id: Annotated[str | None, typer.Argument(metavar="[NEW]", help="The id of the new panel.")] = None,
    seq: Seq = None,
    json: Json = False,
) -> None:
    """Make another panel with the definition and the state of this one."""
    session = session_of(ctx)
    body = {name: value for name, value in (("id", new_id), ("seq", seq)) if value is not None}
    with session.api() as api:
        shown = api.ask("POST", panel_path(panel, "fork"), body=msgspec.json.encode(body)).value
    output = session.output(json)
    if json:
        output.value(shown)
    else:
        output.line(f"made {shown['id']} from {panel}")


def remove(ctx: typer.Context, panel: PanelId, yes: Yes = False, json: Json = False) -> None:
    """Delete a panel with its state and its history."""
    session = session_of(ctx)
    path = panel_path(panel)
    confirm(f"Delete {panel} at {session.target().context.url} with its state and history?", yes=yes)
    with session.api() as api:
        api.ask("DELETE", path)
    output = session.output(json)
    if json:
        output.value({"id": panel, "deleted": True})
    else:
        output.line(f"deleted {panel}")
