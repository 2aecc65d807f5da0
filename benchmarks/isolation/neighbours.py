"""Well-behaved clients beside the attacks: each triggers a counter at a steady rate, and checks what it
hears.

    python -m benchmarks.isolation.neighbours URL TOKEN PER_SECOND REPORT PANEL...

A process of its own, so that attacks cost it nothing but the machine. It begins when it is started, prints
``ready`` once every client is connected, ends when its standard input does, and writes ``Observed`` as JSON
to REPORT. Triggers are sent when they are due, whether or not earlier ones were answered, and a latency
counts from when a trigger was due: a system that stops for a while shows up in every trigger of that while.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from websockets.asyncio.client import ClientConnection, connect

#: How long an answer may take, in seconds, before it counts as lost.
_PATIENCE_S: Final = 30.0
#: Violations that are kept.
_MOST: Final = 100


class Observed(msgspec.Struct):
    """What the neighbours saw: one entry of ``at_s`` and of ``latency_ms`` for each answer.

    ``at_s`` is when the trigger was due, by the clock that all processes share (``time.monotonic``).
    """

    at_s: list[float] = []
    latency_ms: list[float] = []
    sent: int = 0
    answered: int = 0
    violations: list[str] = []

    def violate(self, text: str) -> None:
        """Notes what must not happen; the first ``_MOST`` are kept."""
        if len(self.violations) < _MOST:
            self.violations.append(text)


class Neighbour:
    """One client of one panel, on which it is alone: its counter counts what it sends, and nothing else."""

    def __init__(self, observed: Observed, name: str) -> None:
        self._observed = observed
        self._name = name
        self._due: dict[str, float] = {}
        self._sent = 0
        self._counted = 0
        self._seq = 0

    async def run(
        self, socket: ClientConnection, period_s: float, offset_s: float, stop: asyncio.Event
    ) -> None:
        """Triggers until ``stop``, then waits for what is not answered."""
        listening = asyncio.create_task(self._listen(socket))
        due_s = time.monotonic() + offset_s
        while not stop.is_set() and not listening.done():
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self._sent += 1
            self._observed.sent += 1
            request = f"{self._name}-{self._sent}"
            self._due[request] = due_s
            await socket.send(json.dumps({"type": "TRIGGER", "tool": "count", "requestId": request}))
            due_s += period_s
        until_s = time.monotonic() + _PATIENCE_S
        while self._due and time.monotonic() < until_s and not listening.done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if self._due:
            self._observed.violate(f"{self._name}: {len(self._due)} triggers have no answer")
        listening.cancel()

    async def _listen(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                self._hear(json.loads(text), time.monotonic())
        except Exception as exc:  # noqa: BLE001 - whatever ends the connection is what is reported
            self._observed.violate(f"{self._name}: {type(exc).__name__}: {exc}")
        self._observed.violate(f"{self._name}: the connection ended")

    def _hear(self, message: dict[str, object], now_s: float) -> None:
        kind = message["type"]
        if kind == "RESULT":
            self._counted += 1
            self._answered(str(message.get("requestId")), now_s)
            result = message["result"]
            value = result["returnValue"] if isinstance(result, dict) else None
            if value != self._counted:
                self._observed.violate(f"{self._name}: expected the count {self._counted}, got {value!r}")
        elif kind == "PATCH":
            first = message.get("firstSeq", message["seq"])
            if first != self._seq + 1:
                self._observed.violate(f"{self._name}: expected PATCH {self._seq + 1}, got {first}")
            self._seq = int(str(message["seq"]))
        elif kind == "EVENT":
            if message.get("seq") != self._seq:
                self._observed.violate(
                    f"{self._name}: an EVENT of {message.get('seq')} after PATCH {self._seq}"
                )
        elif kind == "CONNECTED":
            # each of its triggers is a commit, so the version is the count
            self._seq = self._counted = int(str(message["seq"]))
        elif kind != "PROGRESS":
            self._observed.violate(f"{self._name}: {json.dumps(message)[:200]}")
            if "requestId" in message:
                self._due.pop(str(message["requestId"]), None)

    def _answered(self, request: str, now_s: float) -> None:
        due_s = self._due.pop(request, None)
        if due_s is None:
            self._observed.violate(f"{self._name}: an answer to {request}, which was not awaited")
            return
        self._observed.answered += 1
        self._observed.at_s.append(due_s)
        self._observed.latency_ms.append((now_s - due_s) * 1e3)


async def watch(url: str, token: str, per_s: float, panels: list[str]) -> Observed:
    """All neighbours, one for each panel, until standard input ends."""
    observed, stop = Observed(), asyncio.Event()
    sockets = [
        await connect(f"{url}/panels/{panel}/ws?token={token}", compression=None, proxy=None, max_queue=None)
        for panel in panels
    ]
    print("ready", flush=True)
    asyncio.create_task(asyncio.to_thread(sys.stdin.read)).add_done_callback(lambda _: stop.set())
    period_s = len(panels) / per_s
    try:
        await asyncio.gather(
            *(
                Neighbour(observed, panel).run(socket, period_s, period_s * at / len(panels), stop)
                for at, (panel, socket) in enumerate(zip(panels, sockets, strict=True))
            )
        )
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))
    return observed


def main() -> None:
    """The command."""
    url, token, per_s, report, *panels = sys.argv[1:]
    observed = uvloop.run(watch(url, token, float(per_s), panels))
    Path(report).write_bytes(msgspec.json.encode(observed))


if __name__ == "__main__":
    main()
