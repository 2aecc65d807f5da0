"""`panels token`: a token for development, from the gateway's own secret."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from panels_cli import granting
from panels_cli.faults import UsageError
from panels_cli.session import Json, session_of


def token(
    ctx: typer.Context,
    secret_file: Annotated[Path, typer.Option(help="The gateway's --jwt-secret-file.")],
    sub: Annotated[str | None, typer.Option(help="Whose token it is.")] = None,
    ttl: Annotated[str, typer.Option(help="How long it is good: 90s, 30m, 12h.")] = "12h",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="PANELS=PERMISSION,…, like todo-*=read,trigger:*; everything without it."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a token for development.

    Whoever holds the secret can make any token, so in production an identity provider does that.
    """
    import jwt  # brings cryptography, which no other command needs

    claims = granting.claims(sub, granting.duration_s(ttl), allow or (), now_s=int(time.time()))
    try:
        with secret_file.open("rb") as file:
            content = file.read(granting.MAX_SECRET_BYTES + 3)
    except OSError as exc:
        raise UsageError(f"--secret-file: {secret_file} cannot be read: {exc.strerror}") from None
    made = jwt.encode(claims, granting.secret_of(content), algorithm="HS256")
    output = session_of(ctx).output(json)
    if json:
        output.value({"token": made, "claims": claims})
    else:
        output.line(made)
