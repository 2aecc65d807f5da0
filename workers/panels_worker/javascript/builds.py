"""The builds of the guest that a worker carries: the present one, and the one of the release before.

A handler that waits is an image of its guest's memory, and can go on in that build alone. So the prelude of
the release before stays in the package, as the file ``prelude/previous.js``: handlers that were suspended
before an upgrade go on after it, and wait in their old build again if they wait once more. ``python -m
panels_worker.javascript.builds`` writes that file from the present prelude; it is run once after a release,
before anything of the prelude changes.

The engine itself comes from the package ``quickjs-rs``. A build that was made for another engine than the
installed one cannot be carried, and its images are refused.
"""

from __future__ import annotations

import hashlib
import re
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from panels_worker.javascript.assets import QUICKJS, engine_source
from panels_worker.javascript.prelude import prelude

#: The name of the build of the release before; ``QUICKJS`` is the present one's.
PREVIOUS: Final = "quickjs-previous"

_FILE: Final = "previous.js"
_HEAD: Final = re.compile(rb"// for the guest ([0-9a-f]{64})\n")


def carried() -> tuple[str, ...]:
    """The names of the builds that this worker can run, the present one first."""
    return (QUICKJS,) if previous() is None else (QUICKJS, PREVIOUS)


def prelude_of(name: str) -> bytes:
    """The prelude of a build. Raises ``KeyError`` for one that is not carried."""
    source = prelude() if name == QUICKJS else previous() if name == PREVIOUS else None
    if source is None:
        raise KeyError(name)
    return source


@cache
def previous() -> bytes | None:
    """The prelude of the release before. None where there is none, where nothing of it has changed since, or
    where it was made for another engine than the installed one.
    """
    try:
        stored = (files("panels_worker.javascript.prelude") / _FILE).read_bytes()
    except FileNotFoundError:
        return None
    return parse(stored)


def parse(stored: bytes) -> bytes | None:
    """The prelude in a file that ``frozen`` made, None where it is of no use to this worker."""
    head = _HEAD.match(stored)
    if head is None or head[1] != _engine():
        return None
    source = stored[head.end() :]
    return None if source == prelude() else source


def frozen() -> bytes:
    """The present prelude as the file that carries it in the next release."""
    return b"// for the guest %b\n%b" % (_engine(), prelude())


def _engine() -> bytes:
    return hashlib.sha256(engine_source(QUICKJS)).hexdigest().encode()


def main() -> None:
    """Writes ``prelude/previous.js``."""
    path = Path(__file__).parent / "prelude" / _FILE
    path.write_bytes(frozen())
    sys.stdout.write(f"{path.name}: {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
