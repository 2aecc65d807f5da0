"""A record of a log on its way: without tokens, on one line, and from a child process to its parent.

A child (a sandbox, the extension process) writes one JSON object a line to a pipe, and its parent logs that
under the child's name. So a traceback is one record, and the ids of a job survive the way. What a child
writes is not believed: it is bounded, its logger and ids come from closed sets, and what is no such object
is logged as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

#: What may stand beside a line's text: ids that are the same in gateway, worker and extension (a job's
#: ``job`` is its number on the bus, a ``request`` the client's requestId, ``worker`` the routing id), and
#: what an access log says of a request.
FIELDS: Final = (
    "worker", "pid", "panel", "tool", "job", "request", "suspension",
    "method", "path", "status", "ms", "address",
)  # fmt: skip
#: The attribute of a record that holds a traceback which came as text.
TRACE: Final = "panels_trace"
#: Characters of a field's value, of a text and of a traceback, of which the end is kept. Security limits.
MAX_FIELD_CHARS: Final = 160
MAX_EVENT_CHARS: Final = 2_000
MAX_TRACE_CHARS: Final = 4_000
#: Bytes of a line: six for each character is the most that JSON makes of it.
MAX_LINE_BYTES: Final = 64 * 1024

LogFormat = Literal["json", "text"]
#: How a program may be told to write its log.
LOG_FORMATS: Final = ("auto", "json", "text")

REDACTED: Final = "[token]"
# base64url of '{"' is where every JWT header begins; a token in a URL, in a header or among offered
# subprotocols is caught by its place as well
_TOKEN_PATTERN: Final = re.compile(
    r"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_=-]*){0,2}"
    r"|(?<=[?&]token=)[^&\s\"']+"
    r"|(?<=[Bb]earer[ .])[A-Za-z0-9._~+/=-]{8,}"
)
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def redact(text: str) -> str:
    """``text`` with everything that looks like a token replaced.

    This is the second line of defence, against libraries that log what they parse and against our own
    mistakes. The first is that requests lose their credentials before anything can log them.
    """
    # a look for what every match has in it: the pattern tries each of its forms at each character
    if "eyJ" in text or "token=" in text or "earer" in text:
        return _TOKEN_PATTERN.sub(REDACTED, text)
    return text


def printable(text: str, *, lines: bool = False) -> str:
    """``text`` with its control characters escaped, so that none drives a terminal or forges a line.

    ``lines``: line feeds and tabs stay, as in a traceback.
    """
    if text.isprintable():  # as nearly all are: the walk below costs more than all the rest
        return text
    kept = "\n\t" if lines else ""
    return "".join([c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text])


def fields_of(record: logging.LogRecord) -> dict[str, str | int]:
    """The fields of a record, as ``extra`` gave them."""
    own = record.__dict__
    return {name: _field(own[name]) for name in FIELDS if own.get(name) is not None}


def _field(value: object) -> str | int:
    if isinstance(value, int):
        return value
    text = str(value)
    return text if len(text) <= MAX_FIELD_CHARS else text[:MAX_FIELD_CHARS] + "…"


class _Sent(msgspec.Struct, omit_defaults=True):
    """One line, as it passes a pipe."""

    level: str
    logger: str
    event: str
    fields: dict[str, str | int] = {}
    exception: str = ""


_decoder: Final = msgspec.json.Decoder(_Sent)
_encoder: Final = msgspec.json.Encoder()


class LineEncoder(logging.Formatter):
    """A child's formatter: one JSON object for each record. ``clean`` is applied to all text in it."""

    def clean(self, text: str) -> str:
        """``text`` without what must not leave the process."""
        return redact(text)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        fields = {k: self.clean(v) if isinstance(v, str) else v for k, v in fields_of(record).items()}
        sent = _Sent(
            record.levelname.lower(),
            record.name,
            self.clean(record.getMessage())[:MAX_EVENT_CHARS],
            fields,
            self.clean(trace)[-MAX_TRACE_CHARS:],
        )
        return _encoder.encode(sent).decode()


@dataclass(frozen=True, slots=True)
class Line:
    """What a child wrote, checked: to be logged at ``level`` under ``logger``."""

    level: int
    logger: str
    text: str
    fields: Mapping[str, str | int]
    trace: str = ""

    def write(self, **own: str | int) -> None:
        """Logs it with ``own`` fields, which win over those that the child gave."""
        extra: dict[str, Any] = {**self.fields, **own, TRACE: self.trace or None}
        logging.getLogger(self.logger).log(self.level, "%s", self.text, extra=extra)


def decode(data: bytes, *, logger: str) -> Line:
    """The line in ``data``, which a child wrote, to be logged under ``logger``.

    Another logger in it, as a library's, is a part of the text: the parent would keep every name for ever.
    """
    try:
        sent = _decoder.decode(data[:MAX_LINE_BYTES])
        level = _LEVELS[sent.level]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError):
        # what something printed that is not ours: a library, the interpreter, or an attacker
        return Line(logging.WARNING, logger, _shown(data[:MAX_EVENT_CHARS].decode("utf-8", "replace")), {})
    text = _shown(sent.event[:MAX_EVENT_CHARS])
    if sent.logger != logger and not sent.logger.startswith(logger + "."):
        text = f"{_shown(sent.logger[:MAX_FIELD_CHARS])}: {text}"
    fields: dict[str, str | int] = {
        key: _shown(value[:MAX_FIELD_CHARS]) if isinstance(value, str) else value
        for key, value in sent.fields.items()
        if key in FIELDS and key not in ("worker", "pid")
    }
    return Line(level, logger, text, fields, _shown(sent.exception[-MAX_TRACE_CHARS:], lines=True))


def _shown(text: str, *, lines: bool = False) -> str:
    """What a child wrote, without what could drive a terminal."""
    kept = "\n\t" if lines else ""
    return "".join([c if c.isprintable() or c in kept else "�" for c in text])
