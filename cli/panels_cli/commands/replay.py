"""`panels replay`: run the trigger behind a version once more, and say whether the same came of it."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import typer

from panels_cli import showing
from panels_cli.api import panel_path
from panels_cli.diff import ABSENT
from panels_cli.faults import EXIT_REFUSED
from panels_cli.session import Json, PanelId, session_of

#: How a run ended: shown as well where the gateway says no more than that it ended otherwise.
_ENDS: Final = ("outcome", "reason", "message")


def replay(
    ctx: typer.Context,
    panel: PanelId,
    seq: Annotated[int, typer.Argument(min=1, metavar="SEQ", help="The version that the trigger made.")],
    json: Json = False,
) -> None:
    """Run a recorded trigger again, change nothing, and say whether fuel and effects are equal.

    It ends with 1 if they are not.
    """
    session = session_of(ctx)
    with session.api() as api:
        shown = api.ask("POST", panel_path(panel, "replay"), body=msgspec.json.encode({"seq": seq})).value
    output = session.output(json)
    recorded, replayed = shown["recorded"], shown["replayed"]
    if json:
        output.value(shown)
    elif shown["equal"]:
        ended = "waited" if recorded["outcome"] == "waits" else recorded["outcome"]
        output.line(
            f"version {seq} of {panel}, by {shown['tool']}: {ended} as before, "
            f"with {recorded['fuelConsumed']:,} fuel and the same effects"
        )
    else:
        output.line((f"version {seq} of {panel}, by {shown['tool']}: not the same again", "bold red"))
        for name in dict.fromkeys((*shown["differences"], *_ENDS)):
            for parts in showing.compared(name, recorded.get(name, ABSENT), replayed.get(name, ABSENT)):
                output.line(*parts)
    if not shown["equal"]:
        raise typer.Exit(EXIT_REFUSED)
