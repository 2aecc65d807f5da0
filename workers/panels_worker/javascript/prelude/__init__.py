"""The world of a handler in JavaScript: one file for each part of it, joined into the script that makes the
image.

The joined script runs once, when the image is built, and every job begins from what it left behind. The parts
share the scope of one function, so the order of ``PARTS`` matters: a part may use at once what stands in the
parts before it."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

#: The parts in the order in which they run, by the names of their files.
PARTS: Final = (
    "primordials",
    "errors",
    "json",
    "state",
    "effects",
    "extensions",
    "chance",
    "console",
    "text",
    "clone",
    "regexp",
    "world",
    "code",
    "run",
)


def prelude() -> bytes:
    """The joined script, without comment lines and indentation: the engine keeps the text of functions on its
    heap.
    """
    folder = files(__name__)
    lines = ["(() => {", '"use strict";']
    for part in PARTS:
        source = (folder / f"{part}.js").read_text(encoding="utf-8")
        lines += [line.strip() for line in source.splitlines()]
    lines.append("})();")
    return "\n".join(line for line in lines if line and not line.startswith("//")).encode()
