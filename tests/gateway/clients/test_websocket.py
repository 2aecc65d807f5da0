"""The splitter and the bounds of the WebSocket shell, on a fake transport."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from panels_gateway.broadcast.outbox import Outbox, OutboxLimits
from panels_gateway.clients.websocket import (
    MAX_CONTROL_FRAMES_PER_S,
    MAX_FRAGMENTS,
    WRITE_HIGH_BYTES,
    PanelsWebSocketProtocol,
    SocketLimits,
)
from panels_gateway.kernel.images import Image
from panels_gateway.observe.counters import ClientCounters
from panels_shared.errors import CloseCode
from tests.gateway.builders import payloads
from tests.support.server import until

MAX_SIZE = 70_000

HANDSHAKE = (
    b"GET /panels/p/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.aborted = False
        self.waiting = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


class FakeConnection:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self.binaries = 0
        self.gone = False

    def receive_text(self, text: str) -> None:
        self.texts.append(text)

    def receive_binary(self) -> None:
        self.binaries += 1

    def lost(self) -> None:
        self.gone = True


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


def opened(
    loop: asyncio.AbstractEventLoop, kind: type[PanelsWebSocketProtocol] = PanelsWebSocketProtocol
) -> tuple[PanelsWebSocketProtocol, FakeTransport, Any]:
    config = uvicorn.Config(_application, ws_max_size=MAX_SIZE, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol = kind(config, ServerState(), {}, loop)
    transport = FakeTransport()
    protocol.connection_made(transport)
    protocol.data_received(HANDSHAKE)
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert transport.written.startswith(b"HTTP/1.1 101")
    transport.written = b""
    connection: Any = FakeConnection()
    protocol.attach(connection, Outbox(OutboxLimits(soft_bytes=200, hard_bytes=400)), ClientCounters())
    return protocol, transport, connection


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    close(loop, None)


def close(loop: asyncio.AbstractEventLoop, protocol: PanelsWebSocketProtocol | None) -> None:
    """Ends the application's task as a lost connection would, and the loop."""
    if protocol is not None:
        protocol.connection_lost(None)
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()


def masked(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return bytes(Frame(opcode, payload, fin).serialize(mask=True))


frames = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.sampled_from([0, 1, 5, 125, 126, 127, 300, 65_535, 65_536])),
        st.tuples(st.just("ping"), st.integers(0, 125)),
        st.tuples(st.just("fragments"), st.integers(1, 4)),
        st.tuples(st.just("binary"), st.integers(0, 3)),
    ),
    max_size=8,
)


@given(frames, st.data())
def test_websocket_takes_whole_messages_however_they_are_cut(
    run: list[tuple[str, int]], data: st.DataObject
) -> None:
    loop = asyncio.new_event_loop()
    protocol, transport, connection = opened(loop)
    try:
        check_splitting(protocol, transport, connection, run, data)
    finally:
        close(loop, protocol)


def check_splitting(
    protocol: PanelsWebSocketProtocol,
    transport: FakeTransport,
    connection: Any,
    run: list[tuple[str, int]],
    data: Any,
) -> None:
    stream = b""
    expected: list[str] = []
    binaries = pings = 0
    for number, (kind, size) in enumerate(run):
        if kind == "text":
            text = chr(97 + number) * size
            stream += masked(Opcode.TEXT, text.encode())
            expected.append(text)
        elif kind == "ping":
            stream += masked(Opcode.PING, b"p" * size)
            pings += 1
        elif kind == "binary":
            stream += masked(Opcode.BINARY, b"b" * size)
            binaries += 1
        else:
            parts = [f"ü{number}" for _ in range(size + 1)]
            for at, part in enumerate(parts):
                opcode = Opcode.CONT if at else Opcode.TEXT
                stream += masked(opcode, part.encode(), fin=at == size)
                stream += masked(Opcode.PING, b"") if at == 0 else b""
            pings += 1
            expected.append("".join(parts))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12)) if stream else []
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            protocol.data_received(stream[start:end])
    assert connection.texts == expected
    assert connection.binaries == binaries
    assert len(payloads(transport.written)) == pings
    assert not transport.closed


def close_code(transport: FakeTransport) -> int:
    return int.from_bytes(payloads(transport.written)[-1][:2], "big")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (b"\xc1\x80\x00\x00\x00\x00", 1002),
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),
        (b"\x81\xff" + b"\xff" * 8, 1009),
        (masked(Opcode.TEXT, b"x" * (MAX_SIZE + 1)), 1009),
        (masked(Opcode.TEXT, b"\xff"), 1007),
        (masked(Opcode.CONT, b"x"), 1002),
        (masked(Opcode.TEXT, b"x", fin=False) + masked(Opcode.TEXT, b"y"), 1002),
        (b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + b"p" * 126, 1002),
    ],
    # names of their own: masks are random, and processes that share the tests have to agree on the names
    ids=[
        "unmasked",
        "opcode",
        "reserved-bit",
        "length",
        "endless",
        "too-big",
        "not-utf8",
        "stray-continuation",
        "text-within-text",
        "large-ping",
    ],
)
def test_websocket_closes_with_the_code_of_the_offence(
    loop: asyncio.AbstractEventLoop, data: bytes, code: int
) -> None:
    protocol, transport, connection = opened(loop)
    protocol.data_received(data)
    assert close_code(transport) == code
    assert connection.texts == []


def test_websocket_takes_nothing_after_it_has_closed(loop: asyncio.AbstractEventLoop) -> None:
    protocol, _, connection = opened(loop)
    protocol.close(1013, "slow")  # type: ignore[arg-type]
    protocol.data_received(masked(Opcode.TEXT, b"late"))
    assert connection.texts == []
    assert connection.gone


def test_websocket_cuts_a_peer_that_floods_pings(loop: asyncio.AbstractEventLoop) -> None:
    protocol, transport, _ = opened(loop)
    protocol.data_received(masked(Opcode.PING, b"") * (MAX_CONTROL_FRAMES_PER_S + 1))
    assert transport.aborted


def test_websocket_cuts_a_peer_that_sends_endless_fragments(loop: asyncio.AbstractEventLoop) -> None:
    protocol, transport, _ = opened(loop)
    protocol.data_received(
        masked(Opcode.TEXT, b"", fin=False) + masked(Opcode.CONT, b"", fin=False) * MAX_FRAGMENTS
    )
    assert transport.aborted


def test_websocket_keeps_frames_of_a_congested_client_and_sends_them_later(
    loop: asyncio.AbstractEventLoop,
) -> None:
    protocol, transport, _ = opened(loop)
    protocol.pause_writing()
    protocol.deliver(b"\x81\x01a", [b"\x81\x01a"])
    protocol.deliver(b"\x81\x01b", [b"\x81\x01b"])
    assert transport.written == b""
    protocol.resume_writing()
    loop.run_until_complete(asyncio.sleep(0))
    assert payloads(transport.written) == [b"a", b"b"]
    protocol.deliver(b"\x81\x01c", [b"\x81\x01c"])
    assert payloads(transport.written) == [b"a", b"b", b"c"]


def test_websocket_closes_a_slow_consumer_with_1013(loop: asyncio.AbstractEventLoop) -> None:
    protocol, transport, connection = opened(loop)
    protocol.pause_writing()
    frame = b"\x81\x7e\x01\x00" + os.urandom(256)
    protocol.deliver(frame, [frame])
    assert not connection.gone
    protocol.deliver(frame, [frame])
    assert close_code(transport) == 1013
    assert connection.gone
    protocol.deliver(frame, [frame])
    assert protocol._counters.slow_consumers == 1


def test_websocket_answers_an_oversized_handshake_and_closes(loop: asyncio.AbstractEventLoop) -> None:
    config = uvicorn.Config(_application, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol = PanelsWebSocketProtocol(config, ServerState(), {}, loop)
    transport = FakeTransport()
    protocol.connection_made(transport)
    protocol.data_received(HANDSHAKE[:-2] + b"X: " + b"y" * 9_000 + b"\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 4")
    assert transport.closed


# -- time --------------------------------------------------------------------------------------------


def limited(loop: asyncio.AbstractEventLoop, **seconds: float) -> tuple[Any, FakeTransport, list[str]]:
    """A socket with an open connection and these limits, and what it is cut for."""
    refused: list[str] = []
    kind = PanelsWebSocketProtocol.with_limits(SocketLimits(**seconds), refused.append)
    protocol, transport, _ = opened(loop, kind)
    return protocol, transport, refused


def run_until_cut(loop: asyncio.AbstractEventLoop, transport: FakeTransport) -> None:
    loop.run_until_complete(until(lambda: transport.aborted))


@pytest.mark.parametrize(
    "pieces",
    [
        [masked(Opcode.TEXT, b"x" * 300)[:-1]],
        [b"\x81"],
        [masked(Opcode.TEXT, b"whole") + masked(Opcode.TEXT, b"half")[:3]],
        [
            masked(Opcode.TEXT, b"a", fin=False),
            masked(Opcode.CONT, b"b", fin=False),
            masked(Opcode.PING, b""),
        ],
        [masked(Opcode.TEXT, b"a", fin=False) + masked(Opcode.CONT, b"b")[:2]],
    ],
    ids=["frame", "header", "behind a whole one", "fragments", "fragment of a frame"],
)
def test_message_that_does_not_end_is_cut(loop: asyncio.AbstractEventLoop, pieces: list[bytes]) -> None:
    protocol, transport, refused = limited(loop, message_s=0.01)
    for piece in pieces:
        protocol.data_received(piece)
    run_until_cut(loop, transport)
    assert refused == ["message_time"]
    close(loop, protocol)


def test_each_message_is_given_its_own_time(loop: asyncio.AbstractEventLoop) -> None:
    protocol, transport, refused = limited(loop, message_s=60)
    assert protocol._message_timer is None
    stream = masked(Opcode.TEXT, b"one") + masked(Opcode.TEXT, b"two", fin=False) + masked(Opcode.CONT, b"x")
    timers: list[Any] = []
    for at in range(len(stream)):
        protocol.data_received(stream[at : at + 1])
        if protocol._message_timer not in timers:
            timers.append(protocol._message_timer)
    first, none, second, last = timers[0], timers[1], timers[2], protocol._message_timer
    assert None not in (first, second)
    assert none is last is None
    assert first.cancelled()
    assert (transport.closed, refused) == (False, [])
    close(loop, protocol)


def test_handshake_that_does_not_end_is_cut(loop: asyncio.AbstractEventLoop) -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    refused: list[str] = []
    kind = PanelsWebSocketProtocol.with_limits(SocketLimits(handshake_s=0.01), refused.append)
    config = uvicorn.Config(silent, ws_per_message_deflate=False, log_config=None)
    config.load()
    protocol, transport = kind(config, ServerState(), {}, loop), FakeTransport()
    protocol.connection_made(transport)
    protocol.data_received(HANDSHAKE)
    run_until_cut(loop, transport)
    assert refused == ["handshake"]
    close(loop, protocol)


def test_floods_are_counted_by_what_they_were_cut_for(loop: asyncio.AbstractEventLoop) -> None:
    protocol, _, refused = limited(loop)
    protocol.data_received(masked(Opcode.PONG, b"") * (MAX_CONTROL_FRAMES_PER_S + 5))
    close(loop, protocol)
    assert refused == ["control_frames"]


def test_fragments_are_counted(loop: asyncio.AbstractEventLoop) -> None:
    protocol, _, refused = limited(loop)
    fragments = masked(Opcode.CONT, b"", fin=False) * (MAX_FRAGMENTS + 5)
    protocol.data_received(masked(Opcode.TEXT, b"", fin=False) + fragments)
    close(loop, protocol)
    assert refused == ["fragments"]


# -- a large first message ---------------------------------------------------------------------------


def large_image(size: int) -> tuple[Image, list[Image]]:
    """An image of that size, held once, and the list that it joins when it is let go."""
    let_go: list[Image] = []
    parts = [bytes([97 + at % 26]) * min(1_000, size - at) for at in range(0, size, 1_000)]
    return Image(3, parts, let_go.append, "a").hold(), let_go


def test_large_message_goes_in_fragments_as_the_socket_takes_it(loop: asyncio.AbstractEventLoop) -> None:
    protocol, transport, _ = opened(loop)
    image, let_go = large_image(5_500)
    transport.waiting = WRITE_HIGH_BYTES + 1
    protocol.begin(b"{head", image, b"tail}")
    assert payloads(transport.written) == [b"{head"]
    # what comes later waits, but a pong may come between two fragments
    frame = b"\x81\x01x"
    protocol.deliver(frame, [frame])
    protocol.conn.send_pong(b"p")
    transport.write(b"".join(protocol.conn.data_to_send()))
    transport.waiting = 0
    protocol._catch_up()
    shown = [b"{head", b"p", *image.parts, b"tail}", b"x"]
    assert payloads(transport.written) == shown
    assert let_go == [image]
    assert not protocol._congested
    first, rest = transport.written[0], transport.written[7 + 3 :]
    assert (first, rest[0]) == (0x01, 0x00)
    assert transport.written[-len(frame) - len(b"tail}") - 2] == 0x80


def test_large_message_ends_with_its_client(loop: asyncio.AbstractEventLoop) -> None:
    for end in ("closed", "lost", "cut", "gone"):
        protocol, transport, _ = opened(loop)
        image, let_go = large_image(5_500)
        transport.waiting = WRITE_HIGH_BYTES + 1
        transport.closed = end == "gone"
        protocol.begin(b"{", image, b"}")
        if end == "closed":
            protocol.close(CloseCode.PANEL_DELETED, "the panel was deleted")
        elif end == "lost":
            protocol.connection_lost(None)
        elif end == "cut":
            protocol._cut_slow_reader()
            assert transport.aborted
            assert protocol._counters.slow_consumers == 1
            protocol.connection_lost(None)
        assert let_go == [image], end
        transport.waiting = 0
        written = transport.written
        protocol._catch_up()
        assert transport.written == written
