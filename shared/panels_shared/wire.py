"""Frames between the gateway and its workers.

One ZeroMQ message is one part (the ROUTER adds and strips the routing id), and that part is one MessagePack
value:

    ┌──────────────────────────────── fixarray(2) ────────────────────────────────┐
    │ PROTOCOL_VERSION : uint │ messages : array of 1..MAX_MESSAGES               │
    │                         │   ┌──────────── array ─────────────┐              │
    │                         │   │ tag : uint │ fields, in order  │ ...          │
    │                         │   └────────────┴───────────────────┘              │
    └─────────────────────────┴───────────────────────────────────────────────────┘

Tags and fields are those of the structs in ``messages`` (and, inside a Result, of ``outcome``). Fields are
only ever added at the end; a peer ignores more fields than it knows. ``tests/shared/wire_vectors.json`` holds
frames in hex that an implementation in another language can be tested with.

Decoding makes no object that the structs do not name: the size is checked first, then each array's and map's
length by its header, before anything is allocated for it; what no field asks for is skipped without becoming
objects, and nesting ends at the interpreter's bound. A Result's outcome is the one part of a frame that can
be large. ``open_to_gateway`` leaves it unread, so that the outcome of a job that nobody waits for costs
nothing; ``decode_outcome`` reads it.

All limits here are security limits, and so are those in ``messages``, ``outcome`` and ``limits``. Nothing but
``WireError`` is raised for bytes from a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from panels_shared.errors import WireError
from panels_shared.limits import MAX_ELEMENTS, MIB
from panels_shared.messages import (
    Exited,
    Goodbye,
    Heartbeat,
    Hello,
    Missing,
    Prepared,
    ToGateway,
    ToWorker,
)
from panels_shared.outcome import Outcome

__all__ = [
    "MAX_ELEMENTS",
    "MAX_FRAME_BYTES",
    "MAX_MESSAGES",
    "PROTOCOL_VERSION",
    "Opened",
    "UnreadResult",
    "decode_outcome",
    "decode_to_gateway",
    "decode_to_worker",
    "encode",
    "open_to_gateway",
    "split",
]

PROTOCOL_VERSION: Final = 1

#: One frame, in bytes: a snapshot of the largest state and room for what rides along.
MAX_FRAME_BYTES: Final = 64 * MIB
#: Messages in one frame.
MAX_MESSAGES: Final = 4_096


class UnreadResult(msgspec.Struct, frozen=True, array_like=True, tag=34, gc=False):
    """A ``Result`` whose ``outcome`` is still MessagePack: well-formed, and nothing known of it."""

    job: int
    outcome: msgspec.Raw


Opened = Hello | Heartbeat | UnreadResult | Missing | Prepared | Exited | Goodbye
"""What ``open_to_gateway`` returns: ``ToGateway``, with the outcomes of results unread."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The part of a frame that every version has."""

    version: int


class _ToWorkerFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from the gateway."""

    version: int
    messages: Annotated[list[ToWorker], Meta(min_length=1, max_length=MAX_MESSAGES)]


class _ToGatewayFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from a worker or pool."""

    version: int
    messages: Annotated[list[ToGateway], Meta(min_length=1, max_length=MAX_MESSAGES)]


class _OpenedFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from a worker or pool, with the outcomes of its results unread."""

    version: int
    messages: Annotated[list[Opened], Meta(min_length=1, max_length=MAX_MESSAGES)]


F = TypeVar("F", _ToWorkerFrame, _ToGatewayFrame, _OpenedFrame)
_packer = msgspec.msgpack.Encoder()
_head: Final = msgspec.msgpack.Decoder(_Head)
_to_worker: Final = msgspec.msgpack.Decoder(_ToWorkerFrame)
_to_gateway: Final = msgspec.msgpack.Decoder(_ToGatewayFrame)
_opened: Final = msgspec.msgpack.Decoder(_OpenedFrame)
_outcome: Final[msgspec.msgpack.Decoder[Outcome]] = msgspec.msgpack.Decoder(Outcome)


def encode(messages: Sequence[ToWorker | ToGateway]) -> bytes:
    """One frame with ``messages``, of which there are between 1 and ``MAX_MESSAGES``."""
    return _packer.encode((PROTOCOL_VERSION, messages))


def split(messages: Sequence[ToWorker | ToGateway]) -> Iterator[Sequence[ToWorker | ToGateway]]:
    """``messages`` in runs that each fit into one frame by count."""
    for start in range(0, len(messages), MAX_MESSAGES):
        yield messages[start : start + MAX_MESSAGES]


def decode_to_worker(frame: bytes) -> list[ToWorker]:
    """The messages in a frame from the gateway. Raises ``WireError``."""
    return _decode(frame, _to_worker).messages


def decode_to_gateway(frame: bytes) -> list[ToGateway]:
    """The messages in a frame from a worker or pool. Raises ``WireError``."""
    return _decode(frame, _to_gateway).messages


def open_to_gateway(frame: bytes) -> list[Opened]:
    """The messages in a frame from a worker or pool, without reading the outcomes of results.

    Raises ``WireError``, but not for what is wrong inside an outcome.
    """
    return _decode(frame, _opened).messages


def decode_outcome(outcome: msgspec.Raw) -> Outcome:
    """The outcome of an ``UnreadResult``. Raises ``WireError``."""
    try:
        return _outcome.decode(outcome)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise WireError(_problem(exc)) from None


def _decode(frame: bytes, decoder: msgspec.msgpack.Decoder[F]) -> F:
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {len(frame)}")
    try:
        decoded = decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        _check_version(frame)
        raise WireError(_problem(exc)) from None
    if decoded.version != PROTOCOL_VERSION:
        raise WireError(f"expected protocol version {PROTOCOL_VERSION}, got {decoded.version}")
    return decoded


def _check_version(frame: bytes) -> None:
    """Raises ``WireError`` where a frame does not decode because it is of another version."""
    try:
        version = _head.decode(frame).version
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return
    if version != PROTOCOL_VERSION:
        raise WireError(f"expected protocol version {PROTOCOL_VERSION}, got {version}")


def _problem(exc: Exception) -> str:
    if not isinstance(exc, msgspec.ValidationError):
        # what msgspec says of the syntax quotes nothing, but says no more than this either
        return f"expected one MessagePack value, got {type(exc).__name__}"
    # msgspec names the path and the types, but quotes a word that is none of an enum's, at any length
    problem, _, where = str(exc).replace("`$[1]", "`$", 1).rpartition(" - at ")
    return (
        f"expected a known word at {where}"
        if problem.startswith("Invalid enum value")
        else f"{problem} - at {where}"
    )
