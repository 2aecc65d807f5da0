"""Clients that come back: how long it takes until one has what it missed, and how long when all come at
once.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.load.system import System


class _Head(msgspec.Struct):
    type: str
    seq: int = -1
    epoch: str = ""
    recovered: bool | None = None
    more: bool = False
    requestId: str = ""  # noqa: N815 - the protocol's name


_decode = msgspec.json.Decoder(_Head).decode


class Caller(WSListener):
    """A client that knows which version it has. ``caught_up`` is set once it has ``until``."""

    def __init__(self) -> None:
        self.seq = -1
        self.epoch = ""
        self.recovered: bool | None = None
        self.until = -1
        self.caught_up = asyncio.Event()
        self.answered = 0
        self.changed = asyncio.Event()
        self._transport: WSTransport | None = None

    @staticmethod
    async def connect(url: str, *, until: int = -1) -> Caller:
        """Connects; CONNECTED may come later."""

        def make() -> Caller:
            made = Caller()
            made.until = until
            return made

        _, caller = await ws_connect(make, url, use_aiofastnet=False, websocket_handshake_timeout=120)
        assert isinstance(caller, Caller)
        return caller

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Follows versions, and expects that none is missing."""
        if frame.msg_type is not WSMsgType.TEXT:
            return
        message = _decode(frame.get_payload_as_memoryview())
        if message.type == "CONNECTED":
            self.epoch, self.recovered = message.epoch, message.recovered
            if not message.recovered:
                self.seq = message.seq
        elif message.type == "PATCH":
            if self.seq >= 0 and message.seq != self.seq + 1:
                raise RuntimeError(f"expected version {self.seq + 1}, got {message.seq}")
            self.seq = message.seq
        elif message.type == "RESULT":
            self.answered += 1
            self.changed.set()
        if self.seq >= self.until and not message.more:
            self.caught_up.set()

    async def trigger(self, count: int, *, window: int) -> None:
        """Triggers ``count`` times, ``window`` at once, and waits for all answers."""
        assert self._transport is not None
        goal, sent = self.answered + count, self.answered
        while self.answered < goal:
            while sent < goal and sent - self.answered < window:
                self._transport.send(WSMsgType.TEXT, b'{"type":"TRIGGER","tool":"increment"}')
                sent += 1
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 60)

    def leave(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.disconnect()


async def resume(
    system: System, panel_id: str, missed: int, fold: Callable[[], None], rounds: int = 5
) -> tuple[float, float]:
    """Milliseconds until a client has ``missed`` commits, before and after they are folded: medians of
    ``rounds``.
    """
    url = system.websocket_url(panel_id)
    writer = await Caller.connect(url)
    await asyncio.wait_for(writer.caught_up.wait(), 60)
    found: list[list[float]] = [[], []]
    for _ in range(rounds):
        before = writer.seq
        await writer.trigger(missed, window=64)
        writer.until = before + missed
        for times in found:
            times.append(await _resumed(url, writer.epoch, before, before + missed))
            await asyncio.to_thread(fold)
    writer.leave()
    fresh, folded = (sorted(times)[len(times) // 2] for times in found)
    return fresh, folded


async def _resumed(url: str, epoch: str, since: int, until: int) -> float:
    began = time.perf_counter()
    client = await Caller.connect(f"{url}?epoch={epoch}&since={since}", until=until)
    await asyncio.wait_for(client.caught_up.wait(), 60)
    took = (time.perf_counter() - began) * 1e3
    if client.recovered is not True:
        raise RuntimeError(f"expected to resume at version {since}, got the whole state")
    client.leave()
    return took


@dataclass(slots=True)
class Herd:
    """Milliseconds, ascending: of each client that came back, and of somebody else's triggers, before and
    meanwhile.
    """

    resumed_ms: list[float] = field(default_factory=list)
    quiet_ms: list[float] = field(default_factory=list)
    other_ms: list[float] = field(default_factory=list)


async def herd(system: System, count: int, missed: int = 10) -> Herd:
    """Has ``count`` clients come back at once that missed ``missed`` commits, while another panel is
    triggered in turn.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = Herd()
    url = system.websocket_url("herd")
    writer = await Caller.connect(url)
    await asyncio.wait_for(writer.caught_up.wait(), 60)
    since = writer.seq
    await writer.trigger(missed, window=1)
    other = await Caller.connect(system.websocket_url("other"))
    for _ in range(200):
        await _timed(other, found.quiet_ms)
    meanwhile = asyncio.create_task(_steadily(other, found.other_ms))
    clients: list[Caller] = []

    async def come_back() -> None:
        began = time.perf_counter()
        client = await Caller.connect(f"{url}?epoch={writer.epoch}&since={since}", until=since + missed)
        clients.append(client)
        await asyncio.wait_for(client.caught_up.wait(), 120)
        found.resumed_ms.append((time.perf_counter() - began) * 1e3)
        if client.recovered is not True:
            raise RuntimeError("expected every client to resume, got the whole state")

    try:
        await asyncio.gather(*(come_back() for _ in range(count)))
    finally:
        meanwhile.cancel()
        for client in (*clients, writer, other):
            client.leave()
    for times in (found.resumed_ms, found.quiet_ms, found.other_ms):
        times.sort()
    return found


async def _steadily(caller: Caller, times: list[float]) -> None:
    while True:
        await _timed(caller, times)


async def _timed(caller: Caller, times: list[float]) -> None:
    began = time.perf_counter()
    await caller.trigger(1, window=1)
    times.append((time.perf_counter() - began) * 1e3)
