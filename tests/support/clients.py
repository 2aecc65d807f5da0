"""Clients for tests: one that speaks the protocol through the public ``websockets``
library, one that speaks bytes.

Nothing here sleeps. What must *not* come is proved by a barrier: what a client is sent keeps its order, so
once PONG answers a PING, everything that was caused before the PING was sent has been heard.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import websockets
from websockets.sync.client import ClientConnection, connect

TIMEOUT_S = 20.0

Message = dict[str, Any]

#: What stands for "no args field at all".
ABSENT = object()


@dataclass(frozen=True)
class Answer:
    """What one trigger brought: everything heard up to its answer, and that answer, a RESULT or ERROR."""

    heard: list[Message]
    final: Message

    @property
    def result(self) -> Message:
        """The ExecutionResult; fails the test when the answer is an ERROR."""
        assert self.final["type"] == "RESULT", self.final
        result: Message = self.final["result"]
        return result

    @property
    def value(self) -> Any:
        """What the handler returned."""
        return self.result["returnValue"]

    @property
    def code(self) -> str:
        """The code of the ERROR; fails the test when the answer is a RESULT."""
        assert self.final["type"] == "ERROR", self.final
        return str(self.final["code"])

    @property
    def reason(self) -> str:
        """The reason of an EXECUTION_ERROR."""
        assert self.code == "EXECUTION_ERROR", self.final
        return str(self.final["details"]["reason"])


class Client:
    """One WebSocket client of one panel.

    Its first message, CONNECTED, has been heard when the constructor returns, which then takes
    over what ``stack`` holds.
    """

    def __init__(self, connection: ClientConnection, stack: ExitStack) -> None:
        self.connection = connection
        self._sent = 0
        self.hello = self.receive()
        assert self.hello["type"] == "CONNECTED", self.hello
        self._stack = stack.pop_all()

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        token: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        subprotocols: Iterable[str] = (),
        origin: str | None = None,
        max_queue: int | None = None,
        compression: str | None = None,
    ) -> Self:
        """Connects, with ``token`` in the query string. Raises ``websockets.InvalidStatus`` when refused."""
        offered = [websockets.Subprotocol(name) for name in subprotocols]
        connecting = connect(
            url if token is None else f"{url}?token={token}",
            additional_headers=list(headers),
            subprotocols=offered or None,
            origin=None if origin is None else websockets.Origin(origin),
            compression=compression,
            proxy=None,
            open_timeout=TIMEOUT_S,
            close_timeout=2,
            max_size=64 * 1024 * 1024,
            max_queue=max_queue,
        )
        with ExitStack() as stack:
            return cls(stack.enter_context(connecting), stack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The closing handshake, begun by us."""
        self._stack.close()

    # -- out -------------------------------------------------------------------------------------------------

    def send(self, message: object) -> None:
        """Sends ``message`` as JSON in a text frame."""
        self.connection.send(json.dumps(message))

    def send_raw(self, data: str | bytes) -> None:
        """A text frame (str) or a binary one (bytes), whatever is in it."""
        self.connection.send(data)

    def send_trigger(self, tool: str, args: object = ABSENT, *, request_id: str | None = None) -> str:
        """Sends TRIGGER without waiting; its requestId."""
        self._sent += 1
        chosen = request_id if request_id is not None else f"r{self._sent}"
        message: Message = {"type": "TRIGGER", "tool": tool, "requestId": chosen}
        if args is not ABSENT:
            message["args"] = args
        self.send(message)
        return chosen

    # -- in --------------------------------------------------------------------------------------------------

    def receive(self, timeout_s: float = TIMEOUT_S) -> Message:
        """The next message. Raises ``TimeoutError``, ``websockets.ConnectionClosed``."""
        text = self.connection.recv(timeout_s)
        assert isinstance(text, str), "every message is a text frame"
        message = json.loads(text)
        assert isinstance(message, dict)
        return message

    def receive_until(self, wanted: Callable[[Message], bool], timeout_s: float = TIMEOUT_S) -> list[Message]:
        """Messages up to and with the first ``wanted`` one."""
        heard: list[Message] = []
        while True:
            heard.append(self.receive(timeout_s))
            if wanted(heard[-1]):
                return heard

    def receive_type(self, kind: str, timeout_s: float = TIMEOUT_S) -> Message:
        """The next message of this type; what comes before it is dropped."""
        return self.receive_until(lambda message: message["type"] == kind, timeout_s)[-1]

    def await_answer(self, request_id: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """Everything up to the RESULT or ERROR for ``request_id``."""
        heard = self.receive_until(
            lambda m: m["type"] in ("RESULT", "ERROR") and m.get("requestId") == request_id, timeout_s
        )
        return Answer(heard[:-1], heard[-1])

    def await_answers(self, request_ids: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[Answer]:
        """The answers to these triggers in the order of ``request_ids``, in whatever order they come."""
        waiting = set(request_ids)
        finals: dict[str, Message] = {}
        while waiting:
            message = self.receive(timeout_s)
            request_id = message.get("requestId")
            if message["type"] in ("RESULT", "ERROR") and request_id in waiting:
                waiting.discard(request_id)
                finals[request_id] = message
        return [Answer([], finals[request_id]) for request_id in request_ids]

    def trigger(self, tool: str, args: object = ABSENT, *, timeout_s: float = TIMEOUT_S) -> Answer:
        """Sends TRIGGER and waits for its answer."""
        return self.await_answer(self.send_trigger(tool, args), timeout_s)

    def call(self, tool: str, args: object = ABSENT) -> Any:
        """What a trigger that must succeed returns."""
        return self.trigger(tool, args).value

    def barrier(self) -> list[Message]:
        """Everything that was on its way to us when the gateway saw this PING."""
        self.send({"type": "PING"})
        return self.receive_until(lambda message: message["type"] == "PONG")[:-1]

    def answer_to(self, data: str) -> Message:
        """What a text frame is answered with, when the gateway answers it at once."""
        self.send_raw(data)
        return self.receive()

    def await_close(self, timeout_s: float = TIMEOUT_S) -> tuple[int, list[Message]]:
        """The code the gateway closes with, and what it said before. Raises ``TimeoutError``."""
        heard: list[Message] = []
        try:
            while True:
                heard.append(self.receive(timeout_s))
        except websockets.ConnectionClosed as closed:
            return (closed.rcvd.code if closed.rcvd is not None else 1006), heard

    @property
    def is_open(self) -> bool:
        """Whether PING is still answered."""
        self.barrier()
        return True


def refused_status(connecting: Callable[[], Client]) -> tuple[int, Message]:
    """The status and error body with which an upgrade is refused; fails the test when it is not."""
    try:
        client = connecting()
    except websockets.InvalidStatus as refused:
        body = json.loads(refused.response.body or b"null")
        assert isinstance(body, dict)
        error: Message = body["error"]
        return refused.response.status_code, error
    client.close()
    raise AssertionError("expected the upgrade to be refused, got a connection")


# -- bytes --------------------------------------------------------------------------------------------------


def frame(payload: bytes, *, first: int = 0x81, masked: bool = True, length: int | None = None) -> bytes:
    """One WebSocket frame.

    ``first`` is FIN, RSV and opcode; ``length`` is what the header says, true unless given.
    """
    announced = len(payload) if length is None else length
    mask_bit = 0x80 if masked else 0
    if announced < 126:
        head = bytes((first, mask_bit | announced))
    elif announced < 65_536:
        head = bytes((first, mask_bit | 126)) + struct.pack("!H", announced)
    else:
        head = bytes((first, mask_bit | 127)) + struct.pack("!Q", announced)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def zero_masked(payload: bytes, *, first: int = 0x81) -> bytes:
    """One frame whose mask is zero, so that a large payload costs this process nothing."""
    head = bytes((first, 0x80 | 127)) + struct.pack("!Q", len(payload))
    return head + b"\0\0\0\0" + payload


@dataclass
class RawSocket:
    """A TCP connection to a gateway, for what no library would send.

    ``inbound`` is what was read and not taken.
    """

    socket: socket.socket
    inbound: bytearray = field(default_factory=bytearray)

    @classmethod
    def open(cls, port: int, *, receive_buffer_bytes: int | None = None) -> Self:
        """Connects."""
        raw = socket.socket()
        if receive_buffer_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        raw.settimeout(TIMEOUT_S)
        raw.connect(("127.0.0.1", port))
        return cls(raw)

    @classmethod
    def upgraded(cls, port: int, path: str, *, receive_buffer_bytes: int | None = None) -> Self:
        """Connects and upgrades; fails the test unless that is accepted."""
        client = cls.open(port, receive_buffer_bytes=receive_buffer_bytes)
        client.send(upgrade_request(path))
        head = client.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """All of ``data``. A peer that cuts us off meanwhile is no error."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def reset(self) -> None:
        """Ends the connection by RST, as a crashed or unplugged client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _fill(self) -> bool:
        try:
            data = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self.inbound += data
        return bool(data)

    def read_head(self) -> bytes:
        """An HTTP answer's head, or whatever came before the peer closed."""
        while b"\r\n\r\n" not in self.inbound and self._fill():
            pass
        head, found, rest = bytes(self.inbound).partition(b"\r\n\r\n")
        self.inbound = bytearray(rest)
        return head + found

    def read_to_end(self) -> bytes:
        """All that comes until the peer closes. Raises ``TimeoutError`` when it does not."""
        while self._fill():
            pass
        return bytes(self.inbound)

    def read_frame(self) -> tuple[int, bytes] | None:
        """The next frame's opcode and payload, None at the end."""
        while True:
            taken = _split_frame(self.inbound)
            if taken is not None:
                opcode, payload, size = taken
                del self.inbound[:size]
                return opcode, payload
            if not self._fill():
                return None

    def read_message(self) -> Message:
        """The next text frame's JSON; fails the test when something else comes."""
        received = self.read_frame()
        assert received is not None
        assert received[0] == 0x1, received
        message = json.loads(received[1])
        assert isinstance(message, dict)
        return message

    def close_code(self) -> int:
        """The code of the closing frame that comes, after any others; 1006 when there
        is none before the end.
        """
        while (received := self.read_frame()) is not None:
            if received[0] == 0x8:
                return int.from_bytes(received[1][:2], "big") if len(received[1]) >= 2 else 1005
        return 1006


def _split_frame(data: bytearray) -> tuple[int, bytes, int] | None:
    if len(data) < 2:
        return None
    length, header = data[1] & 0x7F, 2
    if length == 126:
        header = 4
        length = int.from_bytes(data[2:4], "big") if len(data) >= 4 else 0
    elif length == 127:
        header = 10
        length = int.from_bytes(data[2:10], "big") if len(data) >= 10 else 0
    if len(data) < header + length:
        return None
    return data[0] & 0x0F, bytes(data[header : header + length]), header + length


def upgrade_request(path: str, *extra: str, host: str = "127.0.0.1") -> bytes:
    """The bytes of an upgrade request; ``extra`` are more header lines."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *extra,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
