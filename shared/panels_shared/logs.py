"""How both programs write their logs: one line for each record, as JSON or for people.

structlog renders; the records are those of the standard library, so that uvicorn's, asyncio's and everybody
else's take the same way. Nothing that looks like a token passes, and no control character reaches a terminal.
Sandboxes and the extension process do not load this: they write ``loglines``, which their parents log here.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any, Final

import msgspec
from structlog.processors import JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor

from panels_shared.loglines import FIELDS, TRACE, LogFormat, fields_of, printable, redact
from panels_shared.options import parse_levels

#: Whose records are logged from the level of ``--log-level`` on; everybody else's from warning on.
OURS: Final = "panels"
_BOLD, _RED, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
_COLORS: Final = {"warning": _YELLOW, "error": _RED, "critical": _BOLD + _RED}


def choose(form: str, *, terminal: bool) -> LogFormat:
    """The format that ``form``, one of ``loglines.LOG_FORMATS``, means where the log is a ``terminal`` or is
    not one.
    """
    if form == "auto":
        return "text" if terminal else "json"
    return "json" if form == "json" else "text"


def formatter(form: LogFormat, *, colors: bool = False) -> logging.Formatter:
    """A formatter for the standard library's handlers. ``colors`` are for terminals, and for text only."""
    last: Processor = JSONRenderer(serializer=_dumps) if form == "json" else _Text(colors=colors)
    return ProcessorFormatter(
        foreign_pre_chain=[
            add_log_level,
            add_logger_name,
            TimeStamper(fmt="iso", utc=True, key="time"),
            _take,
        ],
        processors=[ProcessorFormatter.remove_processors_meta, last],
    )


def set_levels(text: str) -> None:
    """Logs at the levels of ``text`` from now on, which ``parse_levels`` has taken."""
    parsed = parse_levels(text)
    assert parsed is not None, text
    level, others = parsed
    known = [name for name in logging.root.manager.loggerDict if name.startswith(f"{OURS}.")]
    for name in known:
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger(OURS).setLevel(level.upper())
    for name, own in others.items():
        logging.getLogger(name).setLevel(own.upper())


def _take(logger: Any, method: str, event: EventDict) -> EventDict:
    """Puts the record's fields and its traceback beside its text, all of it without tokens."""
    record: logging.LogRecord = event["_record"]
    taken: EventDict = {
        "time": event["time"],
        "level": event["level"],
        "logger": event["logger"],
        "event": redact(event["event"]),
    }
    for name, value in fields_of(record).items():
        taken[name] = redact(value) if isinstance(value, str) else value
    trace = getattr(record, TRACE, None) or record.exc_text
    info = event.get("exc_info")
    if not trace and info and info[1] is not None:
        trace = "".join(traceback.format_exception(*info)).rstrip("\n")
    if trace:
        taken["exception"] = redact(trace)
    taken["_record"], taken["_from_structlog"] = record, False
    return taken


def _dumps(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value).decode()


class _Text:
    """A record as a person reads it: time, level, logger, text and fields in one line, a traceback below."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        """The line."""
        level: str = event["level"]
        shown = level.upper()
        if self._colors and level in _COLORS:
            shown = f"{_COLORS[level]}{shown}{_PLAIN}"
        text = printable(event["event"])
        line = f"{event['time'].replace('T', ' ')} {shown} {event['logger']}: {text}"
        # what the text says already is not repeated
        shown_fields = [
            f"{name}={_value(event[name])}"
            for name in FIELDS
            if name in event and not (isinstance(event[name], str) and event[name] in text)
        ]
        if shown_fields:
            line += f" [{' '.join(shown_fields)}]"
        if "exception" in event:
            line += "\n" + printable(event["exception"], lines=True)
        return line


def _value(value: str | int) -> str:
    if isinstance(value, int) or (value.isprintable() and value and not set(value) & set(" =\"'")):
        return str(value)
    return repr(value)
