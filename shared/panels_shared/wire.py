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

Decoding checks the cheap and structural first: the size, then MessagePack within its own limits, then types
and bounds. All limits here are security limits, and so are those of images, calls and answers, which stand in
``limits``. Nothing but ``WireError`` is raised for bytes from a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgpack
import msgspec

from panels_shared.errors import WireError
from panels_shared.limits import MIB
from panels_shared.messages import ToGateway, ToWorker

PROTOCOL_VERSION: Final = 1

#: One frame, in bytes: a snapshot of the largest state and room for what rides along.
MAX_FRAME_BYTES: Final = 64 * MIB
#: Messages in one frame.
MAX_MESSAGES: Final = 4_096
#: Elements of any array or map in a frame.
MAX_ELEMENTS: Final = 131_072


class _ToWorkerFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from the gateway. A struct, because msgspec remembers what it knows of one between calls: 7 us
    a frame.
    """

    version: int
    messages: list[ToWorker]


class _ToGatewayFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame from a worker or pool."""

    version: int
    messages: list[ToGateway]


F = TypeVar("F", _ToWorkerFrame, _ToGatewayFrame)
_packer = msgspec.msgpack.Encoder()


def encode(messages: Sequence[ToWorker | ToGateway]) -> bytes:
    """One frame with ``messages``, of which there are between 1 and ``MAX_MESSAGES``."""
    return _packer.encode((PROTOCOL_VERSION, messages))


def split(messages: Sequence[ToWorker | ToGateway]) -> Iterator[Sequence[ToWorker | ToGateway]]:
    """``messages`` in runs that each fit into one frame by count."""
    for start in range(0, len(messages), MAX_MESSAGES):
        yield messages[start : start + MAX_MESSAGES]


def decode_to_worker(frame: bytes) -> list[ToWorker]:
    """The messages in a frame from the gateway. Raises ``WireError``."""
    return _decode(frame, _ToWorkerFrame).messages


def decode_to_gateway(frame: bytes) -> list[ToGateway]:
    """The messages in a frame from a worker or pool. Raises ``WireError``."""
    return _decode(frame, _ToGatewayFrame).messages


def _decode(frame: bytes, expected: type[F]) -> F:
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {len(frame)}")
    try:
        value = msgpack.unpackb(
            frame,
            max_str_len=MAX_FRAME_BYTES,
            max_bin_len=MAX_FRAME_BYTES,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as exc:
        raise WireError(f"expected one MessagePack value, got {type(exc).__name__}") from None
    if type(value) is not list or len(value) < 2 or type(value[0]) is not int:
        raise WireError("expected [version, messages]")
    if value[0] != PROTOCOL_VERSION:
        raise WireError(f"expected protocol version {PROTOCOL_VERSION}, got {value[0]}")
    messages = value[1]
    if type(messages) is not list or not 1 <= len(messages) <= MAX_MESSAGES:
        raise WireError(f"expected 1 to {MAX_MESSAGES} messages")
    try:
        return msgspec.convert(value, expected, builtin_types=(bytes,))
    except (msgspec.ValidationError, RecursionError) as exc:
        raise WireError(
            _problem(exc) if isinstance(exc, msgspec.ValidationError) else "nested too deeply"
        ) from None


def _problem(exc: msgspec.ValidationError) -> str:
    # msgspec names the path and the types, but quotes a word that is none of an enum's, at any length
    problem, _, where = str(exc).replace("`$[1]", "`$", 1).rpartition(" - at ")
    return (
        f"expected a known word at {where}"
        if problem.startswith("Invalid enum value")
        else f"{problem} - at {where}"
    )
