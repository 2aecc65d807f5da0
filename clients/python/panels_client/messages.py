"""What the gateway says, checked: ``decode`` makes one value of each message, and refuses what is none.

Fields and types that are not known are ignored, as docs/protocol.md asks for. What applications see is
frozen; the rest is not, because a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

#: The greatest version: ``since`` has at most 16 digits.
MAX_SEQ: Final = 9_999_999_999_999_999
MAX_EPOCH_CHARACTERS: Final = 64


class ProtocolViolation(Exception):  # noqa: N818 - it never reaches the application
    """The server sent what the protocol does not allow."""


@dataclass(slots=True)
class Connected:
    """The first message of a connection. ``state`` is None where ``recovered`` is true."""

    seq: int
    epoch: str
    recovered: bool
    state: dict[str, Any] | None = field(repr=False)


@dataclass(slots=True)
class Patch:
    """A change of state. ``follows`` is the version that it follows; a mutation is a key, whether it is set,
    and the value.
    """

    seq: int
    follows: int
    more: bool
    mutations: list[tuple[str, bool, Any]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Event:
    """What a handler emitted. ``timestamp`` is in milliseconds since 1970, 0 where the server has none."""

    name: str
    payload: Any
    timestamp: int
    seq: int
    #: The subject that alone hears it; None for an event that is for everyone.
    to: str | None = None


@dataclass(slots=True)
class EventMessage:
    """An event, and where it stands in the order."""

    event: Event
    seq: int
    follows: int
    more: bool


@dataclass(slots=True)
class ResultMessage:
    """The answer to a TRIGGER. ``body`` is the ExecutionResult."""

    request_id: str
    seq: int
    body: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """A handler waits: it called ``method`` of ``extension``, as the suspension ``suspension_id``."""

    request_id: str
    suspension_id: str
    extension: str
    method: str


@dataclass(slots=True)
class Answered:
    """The answer to ANSWER."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Presence:
    """Who watches the panel: how many clients, and how many of them each subject has."""

    clients: int = 0
    subjects: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(slots=True)
class PresenceMessage:
    """Who has come or gone, 0 for a subject without clients. ``whole``: nobody else is there."""

    clients: int
    subjects: Mapping[str, int]
    whole: bool


@dataclass(slots=True)
class TokenExpiring:
    """The token expires soon."""


@dataclass(slots=True)
class Refreshed:
    """The answer to REFRESH."""

    request_id: str


@dataclass(slots=True)
class Pong:
    """The answer to PING."""


@dataclass(slots=True)
class ErrorMessage:
    """Something was refused or failed. ``request_id`` is empty where it concerns no request."""

    request_id: str
    code: str
    message: str
    details: Any
    retry_after_ms: int | None


@dataclass(slots=True)
class Unknown:
    """A message of a type that this version does not know."""

    type: str


Message = (
    Connected
    | Patch
    | EventMessage
    | ResultMessage
    | Progress
    | Answered
    | PresenceMessage
    | TokenExpiring
    | Refreshed
    | Pong
    | ErrorMessage
    | Unknown
)


def decode(frame: str | bytes) -> Message:
    """The message that a frame holds. Raises ``ProtocolViolation``."""
    if isinstance(frame, bytes):
        raise ProtocolViolation("expected text frames, got a binary one")
    try:
        raw, end = _decode(frame)
        if end < len(frame) and not frame[end:].isspace():
            raise ValueError(f"extra data at {end}")
    except (ValueError, RecursionError) as exc:
        raise ProtocolViolation(f"expected JSON, got {frame[:40]!r}: {exc}") from None
    if not isinstance(raw, dict):
        raise ProtocolViolation(f"expected an object, got {frame[:40]!r}")
    return _message(raw)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


#: Made once: ``json.loads`` makes one for each message where it is given a parameter, and looks for space on
#: both sides, which no gateway sends in front.
_decode: Final = json.JSONDecoder(parse_constant=_constant).raw_decode


def _message(raw: dict[str, Any]) -> Message:
    kind = _text(raw, "type")
    if kind == "PATCH":
        seq = _seq(raw, "seq")
        return Patch(seq, _follows(raw, seq), raw.get("more") is True, _mutations(raw))
    match kind:
        case "CONNECTED":
            return _connected(raw)
        case "EVENT":
            seq = _seq(raw, "seq")
            return EventMessage(_event(raw, seq), seq, _follows(raw, seq), raw.get("more") is True)
        case "RESULT":
            return ResultMessage(_optional(raw, "requestId"), _seq(raw, "seq"), _object(raw, "result"))
        case "PROGRESS":
            return Progress(
                _optional(raw, "requestId"),
                _text(raw, "suspensionId"),
                _optional(raw, "extension"),
                _optional(raw, "method"),
            )
        case "ANSWERED":
            return Answered(_optional(raw, "requestId"))
        case "PRESENCE":
            return PresenceMessage(_seq(raw, "clients"), _counts(raw), raw.get("whole") is True)
        case "TOKEN_EXPIRING":
            return TokenExpiring()
        case "REFRESHED":
            return Refreshed(_optional(raw, "requestId"))
        case "PONG":
            return Pong()
        case "ERROR":
            after = raw.get("retryAfterMs")
            return ErrorMessage(
                _optional(raw, "requestId"),
                _text(raw, "code"),
                _optional(raw, "message"),
                raw.get("details"),
                int(after) if isinstance(after, int | float) and 0 <= after < 1e9 else None,
            )
        case other:
            return Unknown(other)


def _connected(raw: Mapping[str, Any]) -> Connected:
    epoch = _text(raw, "epoch")
    if not 0 < len(epoch) <= MAX_EPOCH_CHARACTERS:
        raise ProtocolViolation(f"epoch: expected 1 to {MAX_EPOCH_CHARACTERS} characters, got {len(epoch)}")
    recovered = raw.get("recovered") is True
    if recovered and "state" in raw:
        raise ProtocolViolation("expected no state where recovered is true, got one")
    state = None if recovered else _object(raw, "state")
    return Connected(_seq(raw, "seq"), epoch, recovered, state)


def _follows(raw: Mapping[str, Any], seq: int) -> int:
    if "prevSeq" in raw:
        follows = _seq(raw, "prevSeq")
    elif "firstSeq" in raw:
        follows = _seq(raw, "firstSeq") - 1
    else:
        follows = seq - 1
    if follows >= seq:
        raise ProtocolViolation(f"expected version {seq} to follow an earlier one, got {follows}")
    return follows


def _mutations(raw: Mapping[str, Any]) -> list[tuple[str, bool, Any]]:
    listed = raw.get("mutations")
    if not isinstance(listed, list):
        raise ProtocolViolation("mutations: expected an array")
    found: list[tuple[str, bool, Any]] = []
    for each in listed:
        op = each.get("op") if type(each) is dict else None
        if op == "set":
            if "value" not in each:
                raise ProtocolViolation("mutations: expected a value")
            found.append((_text(each, "key"), True, each["value"]))
        elif op == "delete":
            found.append((_text(each, "key"), False, None))
        else:
            raise ProtocolViolation("mutations: expected set or delete")
    return found


def _event(raw: Mapping[str, Any], seq: int) -> Event:
    event = _object(raw, "event")
    stamp, to = event.get("timestamp", 0), event.get("to")
    return Event(
        _text(event, "name"),
        event.get("payload"),
        stamp if isinstance(stamp, int) else 0,
        seq,
        to if isinstance(to, str) else None,
    )


def _counts(raw: Mapping[str, Any]) -> dict[str, int]:
    subjects = _object(raw, "subjects")
    return {subject: _seq(subjects, subject) for subject in subjects}


def _seq(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if type(value) is not int or not 0 <= value <= MAX_SEQ:  # a bool is none
        raise ProtocolViolation(f"{name}: expected a version, got {str(value)[:40]}")
    return value


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if type(value) is not str:
        raise ProtocolViolation(f"{name}: expected a string, got {type(value).__name__}")
    return value


def _optional(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


def _object(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    if not isinstance(value, dict):
        raise ProtocolViolation(f"{name}: expected an object, got {type(value).__name__}")
    return value
