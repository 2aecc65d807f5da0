"""The tree of commands, and the options that stand before them."""

from __future__ import annotations

from typing import Annotated

import typer

from panels_cli.commands import (
    calls,
    contexts,
    doctor,
    folders,
    logs,
    panels,
    replay,
    suspensions,
    tokens,
    top,
    up,
    watch,
)
from panels_cli.session import Session
from panels_shared import __version__

#: No boxes: help is plain text of at most 80 columns, wherever it goes.
app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"panels {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="A context, instead of the one in use.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The gateway's URL; else PANELS_URL.")] = None,
    token: Annotated[str | None, typer.Option(help="The token; else PANELS_TOKEN.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make, watch and call panels.

    Exit codes: 0 done, 1 the gateway refused it or something is wrong, 2 the command line, the configuration
    or a folder is not right, 3 the gateway cannot be reached, 130 interrupted.
    """
    ctx.obj = Session(context, url, token)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


app.command("ls")(panels.list_panels)
app.command("get")(panels.get)
app.command("types")(panels.types)
app.command("state")(panels.state)
app.command("history")(panels.history)
app.command("revert")(panels.revert)
app.command("replay")(replay.replay)
app.command("fork")(panels.fork)
app.command("rm")(panels.remove)
app.command("call")(calls.call)
app.command("watch")(watch.watch)
app.command("logs")(logs.logs)
app.command("init")(folders.init)
app.command("apply")(folders.apply)
app.command("up")(up.up)
app.command("token")(tokens.token)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)
app.add_typer(suspensions.app, name="suspensions")
app.add_typer(contexts.app, name="context")
