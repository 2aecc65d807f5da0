"""`panels context`: the gateways that one works with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from panels_cli import context_file
from panels_cli.context import MAX_TOKEN_CHARS, Context, Contexts, check_token, check_url
from panels_cli.faults import UsageError
from panels_cli.session import Json, read_input, session_of

app = typer.Typer(help="Keep gateways and tokens by name.", no_args_is_help=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The context's name.")]


@app.command("add")
def add(
    ctx: typer.Context,
    name: Name,
    url: Annotated[str, typer.Option(help="The gateway's URL.")],
    token: Annotated[str | None, typer.Option(help="The token; others see it in ps.")] = None,
    token_file: Annotated[
        str | None, typer.Option(help="A file with the token; - for standard input.")
    ] = None,
    json: Json = False,
) -> None:
    """Add or replace a context. The first one is in use at once."""
    if token is not None and token_file is not None:
        raise UsageError("expected --token or --token-file, got both")
    if token_file is not None:
        token = _token_in(token_file)
    made = Context(check_url(url), None if token is None else check_token(token))
    _save(ctx, _contexts(ctx).add(name, made), json, f"added {name}: {made.url}")


@app.command("use")
def use(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Use a context from now on."""
    _save(ctx, _contexts(ctx).use(name), json, f"using {name}")


@app.command("rm")
def remove(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Remove a context and its token."""
    _save(ctx, _contexts(ctx).remove(name), json, f"removed {name}")


@app.command("ls")
def list_contexts(ctx: typer.Context, json: Json = False) -> None:
    """List the contexts; * marks the one in use."""
    contexts, output = _contexts(ctx), session_of(ctx).output(json)
    if json:
        output.value(_shown(contexts))
        return
    rows = [
        ("*" if name == contexts.current else "", name, context.url, "yes" if context.token else "no")
        for name, context in sorted(contexts.by_name.items())
    ]
    output.table(("", "NAME", "URL", "TOKEN"), rows)


def _contexts(ctx: typer.Context) -> Contexts:
    return context_file.read(context_file.location(session_of(ctx).environment))


def _save(ctx: typer.Context, contexts: Contexts, json: bool, said: str) -> None:
    session = session_of(ctx)
    context_file.write(context_file.location(session.environment), contexts)
    output = session.output(json)
    if json:
        output.value(_shown(contexts))
    else:
        output.line(said)


def _shown(contexts: Contexts) -> dict[str, object]:
    # never a token: what is printed ends up in logs
    return {
        "current": contexts.current,
        "contexts": [
            {"name": name, "url": context.url, "hasToken": context.token is not None}
            for name, context in sorted(contexts.by_name.items())
        ],
    }


def _token_in(file: str) -> str:
    if file == "-":
        return read_input().decode(errors="replace")
    try:
        with Path(file).open("rb") as source:
            return source.read(MAX_TOKEN_CHARS * 2).decode(errors="replace")
    except OSError as exc:
        raise UsageError(f"{file}: cannot be read: {exc.strerror}") from None
