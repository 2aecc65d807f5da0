"""Frames on the socket between the gateway and the extension process.

    ┌──────────────────────┬───────────────────────────┐
    │ length: uint32, big  │ one MessagePack value     │  ...
    └──────────────────────┴───────────────────────────┘

Sans-I/O. The length is checked before a byte of the frame is kept. Nothing but ``FrameError`` is raised for
bytes from the other side; after one the decoder is of no more use, and the other process has to go.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

from panels_gateway.extensions.errors import FrameError
from panels_gateway.extensions.messages import (
    MAX_RESULT_BYTES,
    FromExtensions,
    ToExtensions,
)

#: The largest frame: the largest result, and room for what rides along. A security limit.
MAX_FRAME_BYTES: Final = MAX_RESULT_BYTES + 256 * 1024

_LENGTH: Final = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


def encode(message: ToExtensions | FromExtensions) -> bytes:
    """``message`` as one frame. Raises ``FrameError`` if it is too large."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {len(body)}")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[T]):
    """Bytes in, messages of one direction out.

    Holds at most one unfinished frame, and what came with its end.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The messages that ``data`` completes. Raises ``FrameError``."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {length}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._decode(body)

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as exc:
            # the text may quote payload, so that only its kind is told
            raise FrameError(f"expected a message, got {type(exc).__name__}") from None


def to_extensions() -> FrameDecoder[ToExtensions]:
    """A decoder for what the gateway sends."""
    return FrameDecoder(msgspec.msgpack.Decoder(ToExtensions))


def from_extensions() -> FrameDecoder[FromExtensions]:
    """A decoder for what the extension process sends."""
    return FrameDecoder(msgspec.msgpack.Decoder(FromExtensions))
