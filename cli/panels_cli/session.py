"""What every command is given: whom to speak to, by the command line, the environment and the contexts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, cast

import typer

from panels_cli import context, context_file
from panels_cli.api import Api
from panels_cli.context import Target
from panels_cli.faults import UsageError
from panels_cli.output import Output

#: Bytes that are taken from standard input.
MAX_INPUT_BYTES = 16 * 1024 * 1024

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
PanelId = Annotated[str, typer.Argument(metavar="PANEL", help="The panel's id.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True)
class Session:
    """The options that stand before the command, and the environment."""

    context_name: str | None = None
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)

    def target(self) -> Target:
        """Whom to speak to. Raises ``UsageError``."""
        # a file that cannot be read is no reason to fail where it is not needed
        url_given = self.url or self.environment.get("PANELS_URL")
        token_given = self.token or self.environment.get("PANELS_TOKEN")
        needed = self.context_name or not (url_given and token_given)
        contexts = (
            context_file.read(context_file.location(self.environment)) if needed else context.Contexts()
        )
        return context.choose(
            contexts, self.environment, name=self.context_name, url=self.url, token=self.token
        )

    def api(self) -> Api:
        """The gateway's API. The caller closes it."""
        return Api(self.target().context)

    def output(self, as_json: bool) -> Output:
        """Where to print to."""
        return Output(as_json=as_json, environment=self.environment)


def session_of(ctx: typer.Context) -> Session:
    """The session of a command."""
    return cast(Session, ctx.find_root().obj)


def confirm(question: str, *, yes: bool) -> None:
    """Asks, unless ``yes``. Raises ``UsageError`` where nobody can be asked, ``typer.Abort`` for no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here; say --yes")
    typer.confirm(question, abort=True)


def read_input() -> bytes:
    """Standard input to its end. Raises ``UsageError`` when there is too much."""
    content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(content) > MAX_INPUT_BYTES:
        raise UsageError(f"expected at most {MAX_INPUT_BYTES} bytes on standard input, got more")
    return content
