"""The WebSocket shell: uvicorn's sansio protocol with the panels connection right behind the socket.

``PanelsWebSocketProtocol`` leaves handshake, control frames, fragments, keep-alive and the closing handshake
to uvicorn and websockets, and differs in two places where a trigger spends its time:

- inbound, a complete unfragmented text frame is unmasked and handed to the ``Connection`` at once; every
  other frame goes, whole, to the library, which therefore always stands between two frames;
- outbound, the hub's bytes go to the transport as they are.

Time is bounded in each phase: the handshake, one message (from its first byte to its last, in however many
frames), and how long a client may answer no ping. A time-out is for the whole phase, so that a byte a second
gains nothing.

It also closes three holes (see docs/decisions/0009-websocket-protocol.md): pongs for a peer that does not
read, an oversized handshake, and endless empty fragments are all bounded. What it does not protect against: a
flood of valid messages, which ``connection`` bounds.

Backpressure: above ``WRITE_HIGH_BYTES`` in the transport the client counts as congested and its frames wait
in an ``Outbox``; a client that falls behind further is closed with 1013.
"""

from __future__ import annotations

import random
import secrets
from asyncio import BaseTransport, TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.speedups import apply_mask  # type: ignore[attr-defined, unused-ignore]

from panels_gateway.broadcast.frames import fragment_head
from panels_gateway.broadcast.outbox import Commit, Outbox
from panels_gateway.clients import recovery as recoveries
from panels_gateway.clients.connection import ClientLimits, Connection
from panels_gateway.clients.recovery import Asked, Recovery
from panels_gateway.clients.session import Session, SessionRules
from panels_gateway.kernel.images import LARGE_BYTES, Image, Part
from panels_shared.errors import CloseCode, RequestError
from panels_shared.limits import KIB

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from panels_gateway.access.tokens import Principal
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.kernel.residents import Resident
    from panels_gateway.observe.counters import ClientCounters

#: Bytes in the transport above which a client counts as congested; below the low mark it catches up.
WRITE_HIGH_BYTES: Final = 64 * KIB
WRITE_LOW_BYTES: Final = 16 * KIB
#: How many bytes a client that catches up is given at a time.
CATCH_UP_BYTES: Final = 64 * KIB
#: A read of this size is followed by others in the same loop turn, up to 8 MiB: the event loop reads on while
#: its buffer comes back full. One client's flood would hold the loop for a second, so the rest waits until
#: others had their turn.
LARGE_READ_BYTES: Final = 64 * KIB
#: Frames of one fragmented message, and control frames a second: security limits.
MAX_FRAGMENTS: Final = 256
MAX_CONTROL_FRAMES_PER_S: Final = 50
#: How long a client whose socket takes nothing has to leave after it was told to, in seconds.
CLOSE_TIMEOUT_S: Final = 5.0

#: When clients are told to come back to a gateway that stops, in milliseconds: the least; how much later the
#: last may be for each client that is connected, since a gateway takes some 1,600 a second; and the most.
RETRY_MS: Final = 50
RETRY_PER_CLIENT_MS: Final = 0.6
MAX_RETRY_MS: Final = 10_000

#: The ASGI scope extension under which the protocol offers itself to the application.
EXTENSION: Final = "panels.websocket"


def _ignore(reason: str) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """Seconds that a handshake may take, and that a message may take to arrive."""

    handshake_s: float = 5.0
    message_s: float = 30.0


def retry_within_ms(clients: int) -> int:
    """The time within which so many clients are told to come back, in milliseconds."""
    return min(MAX_RETRY_MS, 2 * RETRY_MS + int(RETRY_PER_CLIENT_MS * clients))


class PanelsWebSocketProtocol(WebSocketsSansIOProtocol):
    """See the module's docstring.

    ``with_limits`` makes a class with other limits, as uvicorn takes only classes.
    """

    limits: SocketLimits = SocketLimits()
    #: Told why a socket is cut: one of ``observe.counters.REFUSALS``.
    on_refused: Callable[[str], None] = staticmethod(_ignore)

    _handshake_timer: TimerHandle | None = None
    _message_timer: TimerHandle | None = None
    _connection: Connection | None = None
    _congested: bool = False
    _inbound: bytearray | None = None
    _needed: int = 0
    _fragments: int = 0
    _control_count: int = 0
    _control_window_s: float = 0.0
    _outbox: Outbox
    _counters: ClientCounters
    _session: Session | None = None
    #: The rest of a large first message, its image, and when the client has to have taken it.
    _parts: deque[Part]
    _image: Image | None = None
    _taking: TimerHandle | None = None

    @classmethod
    def with_limits(
        cls, limits: SocketLimits, on_refused: Callable[[str], None] = _ignore
    ) -> type[PanelsWebSocketProtocol]:
        """A protocol class with these limits."""
        fields = {"limits": limits, "on_refused": staticmethod(on_refused)}
        return cast("type[PanelsWebSocketProtocol]", type(cls.__name__, (cls,), fields))

    # -- life ----------------------------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._handshake_timer = self.loop.call_later(self.limits.handshake_s, self._cut, "handshake")
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.transport.is_closing():
            extensions: Any = self.scope["extensions"]  # type: ignore[typeddict-item, unused-ignore]
            extensions[EXTENSION] = self

    def shutdown(self) -> None:
        """Closes with 1012 because the gateway stops, and says when to come back: each client at another
        time, so that they do not all come to the next gateway at once.
        """
        if self.close_sent or not self.handshake_complete:
            super().shutdown()
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.SERVICE_RESTART.value})
        latest_ms = retry_within_ms(len(self.connections))
        self.conn.send_close(CloseCode.SERVICE_RESTART, f"retry in {random.randint(RETRY_MS, latest_ms)} ms")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()

    async def send(self, message: Any) -> None:
        """What the upgrade has to say. An HTTP answer completes it as well, which uvicorn would report as an
        error: everybody who asks for a panel that is not there could fill the log.
        """
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True

    def attach(
        self,
        connection: Connection,
        outbox: Outbox,
        counters: ClientCounters,
        session: Session | None = None,
    ) -> None:
        """Hands the socket to ``connection``; called once, right after the upgrade was accepted."""
        self._stop_handshake_timer()
        self._connection = connection
        self._session = session
        self._outbox = outbox
        self._counters = counters
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _stop_handshake_timer(self) -> None:
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None

    def _stop_message_timer(self) -> None:
        if self._message_timer is not None:
            self._message_timer.cancel()
            self._message_timer = None

    def _cut(self, reason: str) -> None:
        """Ends the socket without a closing handshake, which a client like this would not take part in."""
        if not self.transport.is_closing():
            self.on_refused(reason)
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        """No pong came in time."""
        if not (self.close_sent or self.transport.is_closing()):
            self.on_refused("no_pong")
        super().keepalive_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_handshake_timer()
        self._stop_message_timer()
        if self._session is not None:
            self._session.stop()
            self._session = None
        self._end_large()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._outbox.clear()
            connection.lost()
        super().connection_lost(exc)

    # -- inbound -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)
            if not self.handshake_initiated and self.conn.handshake_exc is not None:
                # the library has a refusal ready, which uvicorn would never send
                if not self.transport.is_closing():
                    self.transport.write(b"".join(self.conn.data_to_send()))
                    self.transport.close()
            elif self.conn.reader.buffer:
                # half a frame behind the upgrade request: the splitter would lose its place
                self.transport.abort()
            return
        if len(data) >= LARGE_READ_BYTES and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()
            self.loop.call_soon(self._resume_reading)
        if self._inbound is not None:
            self._inbound += data
            if len(self._inbound) < self._needed:
                return
            data, self._inbound = bytes(self._inbound), None
        self._split(data)

    def _resume_reading(self) -> None:
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def _split(self, data: bytes) -> None:
        """Splits ``data`` into whole frames; an incomplete one waits for more bytes."""
        at, size = 0, len(data)
        max_size = self.config.ws_max_size
        while size - at >= 2:
            first, second = data[at], data[at + 1]
            length = second & 0x7F
            header = 2
            if length == 126:
                header = 4
                if size - at < 4:
                    break
                length = data[at + 2] << 8 | data[at + 3]
            elif length == 127:
                header = 10
                if size - at < 10:
                    break
                length = int.from_bytes(data[at + 2 : at + 10], "big")
            if length > max_size or second < 0x80:
                # the frame is too large or unmasked: the library refuses it by its header alone
                super().data_received(data[at:])
                return
            end = at + header + 4 + length
            if end > size:
                break
            connection = self._connection
            if first == 0x81 and connection is not None and not self._fragments and not self.close_sent:
                mask_at = at + header
                self._receive_text(
                    connection, apply_mask(data[mask_at + 4 : end], data[mask_at : mask_at + 4])
                )
            else:
                super().data_received(data[at:end])
            at = end
            if self.disconnected or self.conn.parser_exc is not None or self.transport.is_closing():
                return
        if at < size:
            self._inbound = bytearray(data[at:])
            self._needed = self._frame_bytes(self._inbound)
        if self._inbound is not None or self._fragments:
            # behind a message that is whole, another one has begun
            if at and not self._fragments:
                self._stop_message_timer()
            if self._message_timer is None:
                self._message_timer = self.loop.call_later(self.limits.message_s, self._cut, "message_time")
        elif self._message_timer is not None:
            self._stop_message_timer()

    @staticmethod
    def _frame_bytes(head: bytearray) -> int:
        """How many bytes ``_split`` needs: the whole frame or, until its size is known, its header."""
        if len(head) < 2:
            return 2
        length = head[1] & 0x7F
        header = 2 if length < 126 else 4 if length == 126 else 10
        if len(head) < header:
            return header
        if length == 126:
            length = head[2] << 8 | head[3]
        elif length == 127:
            length = int.from_bytes(head[2:10], "big")
        return header + 4 + length

    def _begin(self, event: Any) -> None:
        self._fragments = 0 if event.fin else 1
        self._stop_message_timer()

    def handle_text(self, event: Any) -> None:
        self._begin(event)
        super().handle_text(event)

    def handle_bytes(self, event: Any) -> None:
        self._begin(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Any) -> None:
        self._fragments = 0 if event.fin else self._fragments + 1
        if self._fragments > MAX_FRAGMENTS:
            self._cut("fragments")
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """A message that came in fragments, or a binary one."""
        connection = self._connection
        if connection is None:
            self.transport.abort()  # a message before the upgrade was answered
            return
        data = b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            self._receive_text(connection, data)
        else:
            connection.receive_binary()

    def _receive_text(self, connection: Connection, data: bytes) -> None:
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_TEXT, "expected UTF-8")
            return
        connection.receive_text(text)

    def handle_ping(self) -> None:
        if self._control_frames_exceeded():
            return
        super().handle_ping()

    def handle_pong(self, event: Any) -> None:
        if not self._control_frames_exceeded():
            super().handle_pong(event)

    def _control_frames_exceeded(self) -> bool:
        now_s = self.loop.time()
        if now_s - self._control_window_s > 1.0:
            self._control_window_s, self._control_count = now_s, 0
        self._control_count += 1
        if self._control_count <= MAX_CONTROL_FRAMES_PER_S and not self._congested:
            return False
        if self._control_count > MAX_CONTROL_FRAMES_PER_S:
            self._cut("control_frames")
        self.conn.data_to_send()  # a congested peer gets no pong
        return True

    # -- outbound ------------------------------------------------------------------------------------

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        """Writes frames, or keeps them while the client is congested.

        Closes a client that has fallen too far behind.
        """
        if self.close_sent or self.transport.is_closing():
            return
        if not self._congested:
            self.transport.write(frames)
        elif not self._outbox.put(items):
            self._counters.slow_consumers += 1
            self.close(CloseCode.TRY_AGAIN_LATER, "the client reads too slowly")

    def begin(self, head: bytes, image: Image, tail: bytes) -> None:
        """Sends a large message in fragments, each when the socket has taken the one before: pings and pongs
        can come between, and the transport has one part at a time, which other clients share.
        """
        if self.close_sent or self.transport.is_closing():
            image.release()
            return
        self._image = image
        self._parts = deque((*image.parts, tail))
        self._taking = self.loop.call_later(self.limits.message_s, self._cut_slow_reader)
        self.transport.write(fragment_head(len(head), first=True) + head)
        self._write_parts()

    def _write_parts(self) -> bool:
        """Writes what the socket takes; whether that was the rest."""
        parts, transport = self._parts, self.transport
        while parts and transport.get_write_buffer_size() <= WRITE_HIGH_BYTES:
            part = parts.popleft()
            transport.write(fragment_head(len(part), last=not parts))
            transport.write(part)
        if parts:
            self._congested = True
            return False
        self._end_large()
        return True

    def _end_large(self) -> None:
        image, self._image = self._image, None
        if image is not None:
            self._parts.clear()
            image.release()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _cut_slow_reader(self) -> None:
        self._taking = None
        self._counters.slow_consumers += 1
        self.transport.abort()

    def pause_writing(self) -> None:
        self._congested = True
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._connection is None:
            self._congested = False
            super().resume_writing()
            return
        # asyncio calls this from inside a write's completion: catch up from the loop
        self.loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        if self.transport.is_closing():
            return
        if self._image is not None and not self._write_parts():
            return
        while self._outbox and self.transport.get_write_buffer_size() <= WRITE_LOW_BYTES:
            self.transport.write(self._outbox.drain(CATCH_UP_BYTES))
        if self._outbox or self.transport.get_write_buffer_size() > WRITE_HIGH_BYTES:
            return  # the transport will call again
        self._congested = False
        super().resume_writing()

    def close(self, code: CloseCode, reason: str) -> None:
        """Starts the closing handshake; a peer that does not answer is cut after ``CLOSE_TIMEOUT_S``."""
        if self.close_sent or self.transport.is_closing():
            return
        if code is CloseCode.POLICY_VIOLATION:
            self.on_refused("message_rate")
        self._end_large()  # no data may follow a close, not even the rest of a message
        self.conn.send_close(int(code), reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(code), "reason": reason})
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)
        connection = self._connection
        if connection is not None:
            connection.lost()


async def serve(
    kernel: Kernel,
    resident: Resident,
    principal: Principal,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    subprotocol: str | None,
    limits: ClientLimits,
    counters: ClientCounters,
    rules: SessionRules,
    address: str,
    asked: Asked,
) -> None:
    """Accepts the upgrade in ``scope`` and serves the client until it is gone. Raises ``RequestError``
    OVERLOADED where there is no room for the state that it would be sent; nothing has been answered then.

    ``asked`` is what the query asks for, ``address`` whose failures to renew the token are.
    """
    protocol: PanelsWebSocketProtocol = scope["extensions"][EXTENSION]
    recovery = await recoveries.read(asked, resident, kernel.histories, principal.subject)
    image = await _image(kernel, resident, principal, recovery)
    try:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        if kernel.residents.of(resident.panel) is not resident:
            protocol.close(CloseCode.PANEL_DELETED, "the panel was deleted")  # while its history was read
        else:
            connection = Connection(
                kernel,
                resident.panel,
                principal,
                protocol,
                client_id=secrets.token_urlsafe(12),
                limits=limits,
                topics=asked.topics,
                traceparent=asked.traceparent,
            )
            session = Session(connection, rules, address=address, call_later=protocol.loop.call_later)
            connection.session = session
            protocol.attach(connection, Outbox(limits.outbox, counters.outboxes), counters, session)
            image = await _open(kernel, resident, connection, recovery, image, protocol)
            session.start()
    finally:
        if image is not None:
            image.release()
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _image(
    kernel: Kernel, resident: Resident, principal: Principal, recovery: Recovery | None
) -> Image | None:
    """The state of a client that is sent all of it, held, if it is large. Raises ``RequestError``
    OVERLOADED.
    """
    if resident.panel.state_bytes <= LARGE_BYTES or (recovery is not None and recovery.is_possible):
        return None
    return await kernel.images.of(resident, principal.subject or "", behind=True)


async def _open(
    kernel: Kernel,
    resident: Resident,
    connection: Connection,
    recovery: Recovery | None,
    image: Image | None,
    protocol: PanelsWebSocketProtocol,
) -> Image | None:
    """Opens ``connection``, with a newer image where the one that is held is too old by now; the image that
    the caller still has to let go.
    """
    if image is None and connection.open(recovery):
        return None
    while True:
        if image is not None:
            since = recoveries.since_image(resident, image)
            if connection.open_large(image, since, resumes=recovery is not None):
                return None
            image.release()
            image = None
        try:
            image = await kernel.images.of(resident, connection.principal.subject or "", behind=True)
        except RequestError as error:
            protocol.close(CloseCode.TRY_AGAIN_LATER, error.message[:120])
            return None
        if connection.closed or kernel.residents.of(resident.panel) is not resident:
            protocol.close(CloseCode.PANEL_DELETED, "the panel was deleted")
            return image
