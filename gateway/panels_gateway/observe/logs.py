"""Logging of the gateway process: one handler, to stderr, that lets no token through."""

from __future__ import annotations

import logging
import re
from typing import Final

# base64url of '{"' is where every JWT header begins; a token in a URL is caught by its parameter as well
_TOKEN_PATTERN: Final = re.compile(
    r"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_=-]*){0,2}|(?<=[?&]token=)[^&\s\"']+"
)
REDACTED: Final = "[token]"


class RedactingFormatter(logging.Formatter):
    """Formats as ``logging.Formatter``, tracebacks included, with everything that looks like a token
    replaced.

    This is the second line of defence, against libraries that log what they parse and against our own
    mistakes. The first is that requests lose their credentials before anything can log them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """What to write, traceback included.

        Control characters are escaped, so that none drives a terminal.
        """
        text = _TOKEN_PATTERN.sub(REDACTED, super().format(record))
        if text.isprintable():  # as nearly all are: the walk below costs more than all the rest
            return text
        return "".join([c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """The record as one line, so that no text of a client or handler can pass for another record."""
        return super().formatMessage(record).replace("\n", "\\n")


def configure_logging(level: str) -> None:
    """Logs at ``level`` to stderr. uvicorn speaks from warning on: at info it prints a line for every
    upgrade.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Logs at ``level`` from now on."""
    for name in ("panels", "panels_gateway"):
        logging.getLogger(name).setLevel(level.upper())
