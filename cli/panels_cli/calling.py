"""What `panels call` sends, and what it makes of a failure. Pure."""

from __future__ import annotations

import math
from typing import Any

from panels_cli.faults import RefusedError, UsageError
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError

FIRST_WAIT_S = 0.2
MAX_WAIT_S = 5.0
#: How often a call that had no answer is sent again, under its key, before it is given up.
MAX_ATTEMPTS = 6


def body_of(args: bytes | None) -> bytes | None:
    """The body of a trigger with these arguments, JSON text that is not encoded anew: under one idempotency
    key the same text has to come again. Raises ``UsageError``.
    """
    if args is None:
        return None
    try:
        jsonvalue.validate(args)
    except InvalidJsonError as exc:
        raise UsageError(
            f"expected the arguments as JSON, like '{{\"by\": 1}}', got something else: {exc.problem}"
        ) from None
    return b'{"args":' + args.strip() + b"}"


def wait_s(attempt: int, *, chance: float) -> float:
    """Seconds before attempt ``attempt`` (from 1) is followed by another; ``chance`` is random, 0 to 1."""
    return min(MAX_WAIT_S, FIRST_WAIT_S * math.pow(2, attempt - 1)) * (0.5 + chance / 2)


def explained(panel: str, tool: str, error: RefusedError) -> RefusedError:
    """A failed handler's error for a person: what failed, where in its source, and the source there."""
    if error.code != Code.EXECUTION_ERROR:
        return error
    details = error.details
    where = place(details.get("location"))
    said = RefusedError(
        error.code, f"{tool} of {panel} failed{where}: {error.message}", details, hint=error_hint(details)
    )
    snippet = details.get("snippet")
    if isinstance(snippet, str):
        said.appendix = tuple(snippet.splitlines()[:20])
    return said


def place(location: Any) -> str:
    """`` at line L, column C``, as far as it is known."""
    if not isinstance(location, dict) or "line" not in location:
        return ""
    column = location.get("column")
    return f" at line {location['line']}" + (f", column {column}" if column is not None else "")


def error_hint(details: Any) -> str:
    """What else is known: the reason, and that earlier steps of the handler stay."""
    steps = details.get("steps")
    committed = f"; {steps} earlier steps stay" if isinstance(steps, int) and steps else ""
    return f"the reason is {details.get('reason', 'not known')}{committed}"
