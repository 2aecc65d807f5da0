"""Frames between processes: gateway and worker, both ways, and gateway and extension process, both ways."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec

from panels_gateway.extensions import framing
from panels_gateway.extensions.errors import CallError, ErrorCode, FrameError
from panels_gateway.extensions.messages import (
    CallId,
    Cancel,
    FromExtensions,
    LedgerEntry,
    MethodInfo,
    Ping,
    Pong,
    Ready,
    Returned,
    ToExtensions,
    Verdict,
)
from panels_shared import wire
from panels_shared.errors import WireError
from tests.fuzz.mutation import MSGPACK, Codec, NotOpenError
from tests.fuzz.target import Cost, Target, refused, require
from tests.gateway.extensions.builders import a_call, a_return
from tests.shared.test_wire import EXAMPLES, REPLIES

#: One byte of MessagePack can be an empty map, which takes 64 bytes and a place in a list.
_COST: Final = Cost(per_byte=160)


class WireFrame(Target):
    """Frames of one direction."""

    codec = MSGPACK
    cost = _COST
    examples: ClassVar[dict[str, list[Any]]]

    @staticmethod
    def decode(frame: bytes) -> Sequence[Any]:
        """The decoder of this direction."""
        raise NotImplementedError

    def seeds(self) -> list[bytes]:
        everything = [message for messages in self.examples.values() for message in messages]
        return [*(wire.encode(messages) for messages in self.examples.values()), wire.encode(everything)]

    def run(self, data: bytes) -> str:
        decode = self.decode
        try:
            messages = decode(data)
        except WireError as exc:
            require(len(str(exc)) < 500, "a refusal is short", str(exc)[:500])
            return refused(exc)
        require(1 <= len(messages) <= wire.MAX_MESSAGES, "messages within their bound")
        again = wire.encode(messages)
        require(wire.encode(decode(again)) == again, "encoding is stable", data)
        return " ".join(sorted({type(message).__name__ for message in messages}))


class ToWorker(WireFrame):
    """From the gateway to a worker."""

    name = "wire-to-worker"
    examples = EXAMPLES

    @staticmethod
    def decode(frame: bytes) -> Sequence[Any]:
        return wire.decode_to_worker(frame)


class ToGateway(WireFrame):
    """From a worker, or from a pool, to the gateway."""

    name = "wire-to-gateway"
    examples = REPLIES

    @staticmethod
    def decode(frame: bytes) -> Sequence[Any]:
        return wire.decode_to_gateway(frame)


# -- extensions ------------------------------------------------------------------------------------------

_LENGTH: Final = struct.Struct(">I")


def _open_stream(data: bytes) -> Any:
    bodies = []
    at = 0
    while at + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        bodies.append(MSGPACK.decode(data[at + 4 : at + 4 + length]))
        at += 4 + length
    if not bodies:
        raise NotOpenError
    return bodies


def _seal_stream(value: Any) -> bytes:
    bodies = [MSGPACK.encode(body) for body in (value if isinstance(value, list) else [value])]
    return b"".join(_LENGTH.pack(len(body)) + body for body in bodies)


class ExtensionStream(Target):
    """A stream of frames of one direction: fed whole and in pieces, it says the same."""

    codec = Codec(_open_stream, _seal_stream)
    cost = _COST
    examples: ClassVar[Sequence[Any]]

    @staticmethod
    def decoder() -> framing.FrameDecoder[Any]:
        """A new decoder of this direction."""
        raise NotImplementedError

    def seeds(self) -> list[bytes]:
        frames = [framing.encode(message) for message in self.examples]
        return [*frames, b"".join(frames)]

    def run(self, data: bytes) -> str:
        size = 1 + len(data) // 7
        whole = self._feed([data])
        pieces = self._feed([data[at : at + size] for at in range(0, len(data), size)])
        require(whole == pieces, "how bytes are cut makes no difference", (whole, pieces))
        messages, problem = whole
        for message in messages:
            frame = msgspec.msgpack.encode(message)
            if len(frame) <= framing.MAX_FRAME_BYTES:
                (again,) = self.decoder().feed(framing.encode(message))
                require(msgspec.msgpack.encode(again) == frame, "encoding is stable", message)
        return f"{' '.join(sorted({type(message).__name__ for message in messages}))} {problem}"

    def _feed(self, parts: list[bytes]) -> tuple[list[Any], str]:
        decoder = self.decoder()
        messages: list[Any] = []
        try:
            for part in parts:
                messages += decoder.feed(part)
        except FrameError as exc:
            return messages, refused(exc)
        return messages, ""


_TO: Final[Sequence[ToExtensions]] = (a_call("c1", b'["x",{"a":1}]'), Cancel(CallId("c1")), Ping())
_FROM: Final[Sequence[FromExtensions]] = (
    Ready([MethodInfo("http", "get", 5.0, 0, True)]),
    a_return("c1"),
    Returned(
        CallId("c2"),
        error=CallError(ErrorCode.FAILED, "no"),
        ledger=[LedgerEntry("example.com:443", "93.184.216.34", 1, 2, 3, ["TOKEN"], Verdict.OK)],
    ),
    Pong(),
)


class ToExtension(ExtensionStream):
    """From the gateway to the extension process."""

    name = "extension-to"
    examples = _TO

    @staticmethod
    def decoder() -> framing.FrameDecoder[Any]:
        return framing.to_extensions()


class FromExtension(ExtensionStream):
    """From the extension process to the gateway."""

    name = "extension-from"
    examples = _FROM

    @staticmethod
    def decoder() -> framing.FrameDecoder[Any]:
        return framing.from_extensions()


TARGETS: Final = (ToWorker, ToGateway, ToExtension, FromExtension)
