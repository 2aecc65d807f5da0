"""`panels call`: run a tool, and wait for its answer, however long its handler waits."""

from __future__ import annotations

import random
import secrets
import time
from typing import Annotated

import typer

from panels_cli import calling
from panels_cli.api import Answer, Api, panel_path
from panels_cli.faults import RefusedError, UnreachableError
from panels_cli.output import Output
from panels_cli.session import Json, PanelId, read_input, session_of


def call(
    ctx: typer.Context,
    panel: PanelId,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name.")],
    args: Annotated[
        str | None, typer.Argument(metavar="[ARGS]", help="Its arguments as JSON; - for standard input.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The idempotency key; one is made up without it.")] = None,
    json: Json = False,
) -> None:
    """Run a tool and print what it returns.

    A call whose connection is lost, or whose handler waits, is sent again under its key, so it runs once.
    If you interrupt it, run it again with the key that is shown to get its answer.
    """
    session = session_of(ctx)
    text = None if args is None else read_input() if args == "-" else args.encode()
    body = calling.body_of(text)
    output = session.output(json)
    chosen = key if key is not None else secrets.token_urlsafe(18)
    with session.api() as api:
        try:
            answer = wait_for_answer(api, panel_path(panel, "trigger", tool), body, chosen, output)
        except RefusedError as exc:
            raise calling.explained(panel, tool, exc) from None
        except (UnreachableError, KeyboardInterrupt):
            output.note(f"the call may still run; ask again with --key {chosen}")
            raise
    if json:
        output.value(answer.value)
    else:
        output.pretty(answer.value["result"]["returnValue"])


def wait_for_answer(api: Api, path: str, body: bytes | None, key: str, output: Output) -> Answer:
    """The final answer to a trigger, asked for again under ``key`` while its handler waits.

    Raises ``RefusedError``, and ``UnreachableError`` when nobody answered ``calling.MAX_ATTEMPTS`` times.
    """
    attempt = 1
    told = None
    while True:
        try:
            answer = api.ask("POST", path, body=body, key=key)
        except UnreachableError:
            if attempt == calling.MAX_ATTEMPTS:
                raise
            time.sleep(calling.wait_s(attempt, chance=random.random()))
            attempt += 1
            continue
        if answer.status != 202:
            return answer
        attempt = 1
        waits = {name: answer.value.get(name) for name in ("suspensionId", "extension", "method")}
        if waits != told and not output.json:
            output.note(
                f"waits for {waits['extension']}.{waits['method']} (suspension {waits['suspensionId']})"
            )
            told = waits
