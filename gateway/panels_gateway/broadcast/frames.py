"""WebSocket frames of the server (RFC 6455 section 5.2), built once and sent to many clients.

Server frames are unmasked, so the same bytes go to every client.
"""

from __future__ import annotations

import struct
from typing import Final

_FIN_TEXT: Final = 0x81
#: The heads of payloads of 0 to 125 bytes.
_SMALL: Final = tuple(bytes((_FIN_TEXT, size)) for size in range(126))
_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack


def text_frame(payload: bytes) -> bytes:
    """An unfragmented text frame. ``payload`` must be UTF-8."""
    size = len(payload)
    if size < 126:
        return _SMALL[size] + payload
    if size < 65_536:
        return _pack_16(_FIN_TEXT, 126, size) + payload
    return _pack_64(_FIN_TEXT, 127, size) + payload


def fragment_head(size: int, *, first: bool = False, last: bool = False) -> bytes:
    """The head of a fragment of a text message, whose ``size`` bytes of payload stand behind it."""
    opcode = (0x01 if first else 0x00) | (0x80 if last else 0x00)
    if size < 126:
        return bytes((opcode, size))
    if size < 65_536:
        return _pack_16(opcode, 126, size)
    return _pack_64(opcode, 127, size)
