"""The body of an answer, decompressed within a bound. Pure."""

from __future__ import annotations

import zlib
from typing import Final

from panels_gateway.extensions.errors import CallFailedError, ErrorCode

#: What we say that we understand; anything else in an answer is refused, and so are encodings
#: on top of each other.
ACCEPT_ENCODING: Final = "gzip, deflate"
_ZLIB_OR_GZIP: Final = 32 + zlib.MAX_WBITS


class Body:
    """Chunks in, at most ``limit_bytes`` of decompressed bytes kept.

    Raises ``CallFailedError`` for an encoding that is not known. A bomb costs at most ``limit_bytes`` and one
    byte, because zlib is told how much it may put out.
    """

    def __init__(self, encoding: str, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._encoding = encoding.strip().lower() or "identity"
        if self._encoding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise CallFailedError(
                ErrorCode.FAILED, f"the answer has a content-encoding other than {ACCEPT_ENCODING}"
            )
        self._inflate = None if self._encoding == "identity" else zlib.decompressobj(_ZLIB_OR_GZIP)
        self._fresh = True

    def feed(self, chunk: bytes) -> None:
        """The next bytes. Raises ``CallFailedError`` above the limit, and for what does not decompress."""
        if self._inflate is None:
            self._append(chunk)
            return
        while chunk:
            try:
                room = self._limit_bytes - len(self._data) + 1
                self._append(self._inflate.decompress(chunk, room))
            except zlib.error:
                if not self._fresh or self._encoding != "deflate":
                    raise CallFailedError(ErrorCode.FAILED, "the answer does not decompress") from None
                # RFC 9110 says zlib; enough servers send the bare deflate inside it
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
                self._fresh = False
                continue
            self._fresh = False
            chunk = self._inflate.unconsumed_tail or self._next_member()

    def _next_member(self) -> bytes:
        """gzip may be several files in a row (RFC 1952 section 2.2)."""
        assert self._inflate
        rest = self._inflate.unused_data if self._encoding != "deflate" else b""
        if rest.startswith(b"\x1f\x8b"):
            self._inflate = zlib.decompressobj(_ZLIB_OR_GZIP)
            return rest
        return b""

    def _append(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > self._limit_bytes:
            raise CallFailedError(
                ErrorCode.LIMIT, f"expected an answer of at most {self._limit_bytes} bytes, got more"
            )

    def finish(self) -> bytes:
        """All of it. Raises ``CallFailedError`` when the compressed stream is not complete."""
        if self._inflate is not None and not self._fresh and not self._inflate.eof:
            raise CallFailedError(ErrorCode.FAILED, "the answer ends in the middle of its compressed body")
        return bytes(self._data)
