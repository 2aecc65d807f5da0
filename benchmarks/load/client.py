"""One verifying client: keeps a window of triggers in flight and checks every frame that comes.

What it checks: CONNECTED comes first; PATCH versions follow each other without a gap; an EVENT or a RESULT
comes after the PATCH of its version; every requestId is answered once, by a RESULT of a version of its own
(or an ERROR, which is counted and, unless allowed, a violation); nothing answers what was not asked. It is
for handlers that change the state each time.
"""

from __future__ import annotations

import time
from array import array
from typing import Any

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport

clock = time.perf_counter


class _Head(msgspec.Struct):
    """Of a server message, what is looked at."""

    type: str
    seq: int = -1
    firstSeq: int = -1  # noqa: N815 - the protocol's name
    requestId: str = ""  # noqa: N815
    code: str = ""
    message: str = ""


_decode = msgspec.json.Decoder(_Head).decode


class Samples:
    """Answers as they came: when (seconds since the start) and after how long (seconds)."""

    def __init__(self) -> None:
        self.at_s = array("d")
        self.latency_s = array("d")
        self.patches = 0
        self.events = 0
        self.errors: dict[str, int] = {}
        self.violations: list[str] = []

    def violate(self, text: str) -> None:
        """Notes what must not happen; only the first are kept."""
        if len(self.violations) < 100:
            self.violations.append(text)


class LoadClient(WSListener):
    """See the module's docstring. ``window`` 0 makes a client that only listens."""

    def __init__(
        self,
        samples: Samples,
        *,
        name: str,
        window: int,
        tool: str,
        args: bytes,
        start_s: float,
        allow_errors: bool,
    ) -> None:
        self.samples = samples
        self.window = window
        self.running = False
        self.connected = False
        self.closed_early = False
        self.in_flight: dict[str, float] = {}
        self.answered = 0
        self.succeeded = 0
        self.events = 0
        self.seq = -1
        self.result_seq = -1
        self.panel_id = ""
        self._name = name
        self._sent = 0
        self._start_s = start_s
        self._allow_errors = allow_errors
        self._prefix = b'{"type":"TRIGGER","tool":"%b","args":%b,"requestId":"%b-' % (
            tool.encode(),
            args,
            name.encode(),
        )
        self._transport: WSTransport | None = None
        self._leaving = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """A connection that ends before it was told to has lost something."""
        if not self._leaving:
            self.closed_early = True
            if not self._allow_errors:
                self.samples.violate(f"{self._name}: the server closed the connection")

    def begin(self, start_s: float) -> None:
        """Fills the window."""
        self._start_s = start_s
        self.running = True
        for _ in range(self.window):
            self._send()

    def stop(self) -> None:
        """Sends no more; what is in flight is still awaited."""
        self.running = False

    def leave(self) -> None:
        """Closes the connection."""
        self._leaving = True
        if self._transport is not None:
            self._transport.disconnect()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent += 1
        number = self._sent
        self.in_flight[f"{self._name}-{number}"] = clock()
        self._transport.send(WSMsgType.TEXT, b'%b%d"}' % (self._prefix, number))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Checks one server message."""
        if frame.msg_type is not WSMsgType.TEXT:
            if frame.msg_type is WSMsgType.CLOSE:
                transport.disconnect()
            return
        message: Any = _decode(frame.get_payload_as_memoryview())
        kind = message.type
        if not self.connected and kind != "CONNECTED":
            self.samples.violate(f"{self._name}: expected CONNECTED, got {kind}")
        if kind == "RESULT":
            if not self.result_seq < message.seq <= self.seq:
                self.samples.violate(
                    f"{self._name}: expected a RESULT of {self.result_seq + 1} to "
                    f"{self.seq}, got {message.seq}"
                )
            self.result_seq = message.seq
            self._answered(message.requestId, ok=True)
        elif kind == "PATCH":
            self.samples.patches += 1
            first = message.firstSeq if message.firstSeq >= 0 else message.seq
            if first != self.seq + 1:
                self.samples.violate(f"{self._name}: expected PATCH {self.seq + 1}, got {first}")
            self.seq = message.seq
        elif kind == "EVENT":
            self.samples.events += 1
            self.events += 1
            if message.seq != self.seq:
                self.samples.violate(f"{self._name}: expected an EVENT of {self.seq}, got {message.seq}")
        elif kind == "CONNECTED":
            if self.connected:
                self.samples.violate(f"{self._name}: CONNECTED twice")
            self.connected = True
            self.seq = self.result_seq = message.seq
        elif kind == "ERROR":
            self.samples.errors[message.code] = self.samples.errors.get(message.code, 0) + 1
            if not self._allow_errors:
                self.samples.violate(f"{self._name}: ERROR {message.code}: {message.message}")
            if message.requestId:
                self._answered(message.requestId, ok=False)
        elif kind != "PROGRESS" and kind != "PONG":
            self.samples.violate(f"{self._name}: a message of type {kind!r}")

    def _answered(self, request_id: str, *, ok: bool) -> None:
        now = clock()
        sent = self.in_flight.pop(request_id, None)
        if sent is None:
            self.samples.violate(f"{self._name}: an answer to {request_id!r}, which was not awaited")
            return
        self.answered += 1
        if ok:
            self.succeeded += 1
            self.samples.at_s.append(now - self._start_s)
            self.samples.latency_s.append(now - sent)
        if self.running:
            self._send()
