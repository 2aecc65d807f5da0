"""What `panels watch` and `panels replay` print: differences of values, leaf by leaf. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from panels_cli.diff import ABSENT, Difference, differences
from panels_cli.output import one_line
from panels_cli.watching import Changed, Gap, Greeted, Happened, Heard, Told

#: Lines that one message is shown by, and characters of one value.
MAX_LINES: Final = 40
MAX_VALUE_CHARS: Final = 200

#: Text and style.
Part = tuple[str, str]

_GREETINGS: Final = {
    "connected": "connected",
    "recovered": "recovered: nothing was missed",
    "resynced": "resynced: the state is whole again, events may have been missed",
}


def lines(heard: Heard) -> Iterator[list[Part]]:
    """The lines for one message, each a list of parts."""
    if isinstance(heard, Greeted):
        yield [(f"● {_GREETINGS[heard.how]}, version {heard.seq}", "bold cyan")]
        if heard.how != "recovered":
            yield from _differences(heard.old, heard.new)
    elif isinstance(heard, Changed):
        yield [(f"{heard.seq}", "bold")]
        yield from _differences(heard.old, heard.new)
    elif isinstance(heard, Happened):
        yield [(f"{heard.seq}", "bold"), (f" ! {heard.name} ", "magenta"), (_value(heard.payload), "")]
    elif isinstance(heard, Gap):
        yield [(f"● something is missing: {heard.problem}", "bold red")]
    elif isinstance(heard, Told) and heard.kind == "TOKEN_EXPIRING":
        yield [("● the token expires soon", "yellow")]
    elif isinstance(heard, Told) and heard.kind == "PRESENCE":
        yield [(f"● {_presence(heard.message)}", "cyan")]


def _presence(message: Mapping[str, Any]) -> str:
    subjects = message.get("subjects")
    counts = subjects if isinstance(subjects, Mapping) else {}
    words = [
        f"{subject} has left" if not count else subject if count == 1 else f"{subject} ({count} clients)"
        for subject, count in counts.items()
    ]
    who = ", ".join(words[:MAX_LINES]) + (", and more" if len(words) > MAX_LINES else "")
    clients = message.get("clients")
    total = f"{clients} client{'' if clients == 1 else 's'} in all"
    return f"{'here' if message.get('whole') is True else 'presence'}: {who + '; ' if who else ''}{total}"


def compared(name: str, old: object, new: object) -> Iterator[list[Part]]:
    """The lines that say how the value ``name`` was and is."""
    yield from _differences(old, new, name)


def _differences(old: object, new: object, path: str = "") -> Iterator[list[Part]]:
    for number, difference in enumerate(differences(old, new, path)):
        if number == MAX_LINES:
            yield [("  … and more", "dim")]
            return
        yield _difference(difference)


def _difference(found: Difference) -> list[Part]:
    if found.old is ABSENT:
        return [(f"  + {found.path} ", "green"), (_value(found.new), "green")]
    if found.new is ABSENT:
        return [(f"  - {found.path} ", "red"), (_value(found.old), "red")]
    return [
        (f"  ~ {found.path} ", "yellow"),
        (_value(found.old), "red"),
        (" → ", ""),
        (_value(found.new), "green"),
    ]


def _value(value: object) -> str:
    return one_line(value, MAX_VALUE_CHARS)
