"""What happens at several times the rate that the system can sustain: ``python -m benchmarks.overload``.

First many clients keep a few triggers each in flight (a closed loop): what is answered in a second then is
the *peak*. Then the same clients send at ``--factor`` times the peak on a schedule, whatever is answered (an
open loop). Beside them a polite client, on a panel of its own, sends one trigger at a time and waits for the
answer. Told are the goodput (RESULTs a second) against the peak, the latency of what was accepted, the
answers of each kind, how many triggers got none, and the memory of the gateway. Every trigger has to be
answered once: anything else is a violation and the exit code 1.

The handler counts and then burns some tenths of a millisecond, so that its worker is what is overloaded.
Clients, gateway and workers share the machine, and clients that send five times as much take more of it. So
goodput is told for each second of CPU that the workers got, too: that says what overload costs the system
itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.load.run import percentile
from benchmarks.load.system import Options, System, panels

clock = time.perf_counter

HANDLER: Final = """\
let sum = 0;
for (let i = 0; i < $args; i++) sum += i % 7;
$state.n = ($state.n ?? 0) + 1;
return sum;
"""
#: How often an open loop sends what is due, in seconds.
TICK_S: Final = 0.005
#: How long answers are awaited once nothing more is sent, in seconds.
DRAIN_S: Final = 60.0


class _Head(msgspec.Struct):
    """Of a server message, what is looked at."""

    type: str
    requestId: str = ""  # noqa: N815 - the protocol's name
    code: str = ""


_decode = msgspec.json.Decoder(_Head).decode


class Client(WSListener):
    """One client: how many of its triggers were answered, in which way, and after how long (seconds)."""

    def __init__(self, name: str, iterations: int) -> None:
        self.window = 0
        self.sent = 0
        self.answers: Counter[str] = Counter()
        self.latency_s: list[float] = []
        self.violations: list[str] = []
        self.in_flight: dict[str, float] = {}
        self.connected = asyncio.Event()
        self._name = name
        self._prefix = b'{"type":"TRIGGER","tool":"work","args":%d,"requestId":"%b-' % (
            iterations,
            name.encode(),
        )
        self._transport: WSTransport | None = None
        self._leaving = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """A connection that ends before it was told to is a violation."""
        if not self._leaving:
            self.violations.append(f"{self._name}: the server closed the connection")

    def leave(self) -> None:
        """Closes the connection."""
        self._leaving = True
        if self._transport is not None:
            self._transport.disconnect()

    def forget(self) -> None:
        """Begins to count anew."""
        self.sent = 0
        self.answers.clear()
        self.latency_s.clear()

    def send(self) -> None:
        """One more trigger."""
        assert self._transport is not None
        self.sent += 1
        request_id = f"{self._name}-{clock():.9f}-{self.sent}"
        self.in_flight[request_id] = clock()
        text = self._prefix + request_id[len(self._name) + 1 :].encode() + b'"}'
        self._transport.send(WSMsgType.TEXT, text)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Counts an answer, and sends another trigger where a window is kept full."""
        if frame.msg_type is not WSMsgType.TEXT:
            return
        message: Any = _decode(frame.get_payload_as_memoryview())
        if message.type == "CONNECTED":
            self.connected.set()
        if message.type not in ("RESULT", "ERROR"):
            return
        sent_s = self.in_flight.pop(message.requestId, None)
        if sent_s is None:
            self.violations.append(f"{self._name}: an answer to {message.requestId!r}, which none waits for")
            return
        self.answers[message.code or "RESULT"] += 1
        if message.type == "RESULT":
            self.latency_s.append(clock() - sent_s)
        if len(self.in_flight) < self.window:
            self.send()


class Overload:
    """One run."""

    def __init__(self, system: System, asked: argparse.Namespace) -> None:
        self.system = system
        self.asked = asked
        self.clients: list[Client] = []

    async def run(self) -> dict[str, Any]:
        """Takes all figures."""
        asked = self.asked
        body = {"kind": "overload", "tools": [{"name": "work", "handler": HANDLER}]}
        for number in range(asked.panels + 1):
            panel = {"id": f"over-{number}", **body}
            await asyncio.to_thread(self.system.http, "POST", "/panels", panel)
        for number in range(asked.clients):
            self.clients.append(await self._connect(f"c{number}", f"over-{number % asked.panels}"))
        polite = await self._connect("polite", f"over-{asked.panels}")

        peak, peak_per_cpu_s, peak_busy = await self._closed_loop()
        rss_before = self.system.server_rss_bytes()
        for client in self.clients:
            client.forget()
        manners = asyncio.create_task(self._be_polite(polite))
        begun_s, cpu_s, own_s = clock(), self.system.server_cpu_s(), time.process_time()
        worker_s = self.system.worker_cpu_s()
        await self._open_loop(peak * asked.factor)
        elapsed_s, cpu_s = clock() - begun_s, self.system.server_cpu_s() - cpu_s
        worker_s, own_s = self.system.worker_cpu_s() - worker_s, time.process_time() - own_s
        succeeded = self._succeeded()
        goodput = succeeded / elapsed_s
        rss_during = self.system.server_rss_bytes()
        manners.cancel()
        everybody = [*self.clients, polite]
        deadline = clock() + DRAIN_S
        while any(c.in_flight for c in everybody) and clock() < deadline:  # noqa: ASYNC110 - others answer
            await asyncio.sleep(0.02)
        answers: Counter[str] = Counter()
        for client in self.clients:
            answers.update(client.answers)
        latencies = sorted(latency for client in self.clients for latency in client.latency_s)
        manner_s = sorted(polite.latency_s)
        violations = [text for client in everybody for text in client.violations]
        unanswered = sum(len(client.in_flight) for client in everybody)
        if unanswered:
            violations.append(f"{unanswered} triggers were not answered within {DRAIN_S:.0f} s")
        for client in everybody:
            client.leave()
        sent = sum(client.sent for client in self.clients)
        return {
            "peak_per_s": peak,
            "offered_per_s": sent / elapsed_s,
            "goodput_per_s": goodput,
            "goodput_ratio": goodput / peak,
            "goodput_ratio_per_cpu_s": succeeded / max(worker_s, 1e-9) / peak_per_cpu_s,
            "worker_busy": [peak_busy, worker_s / elapsed_s],
            "client_busy": own_s / elapsed_s,
            "sent": sent,
            "answers": dict(answers),
            "unanswered": unanswered,
            "accepted_p50_ms": percentile(latencies, 0.5) * 1e3,
            "accepted_p99_ms": percentile(latencies, 0.99) * 1e3,
            "polite_sent": polite.sent,
            "polite_answers": dict(polite.answers),
            "polite_p50_ms": percentile(manner_s, 0.5) * 1e3,
            "polite_p99_ms": percentile(manner_s, 0.99) * 1e3,
            "gateway_busy": cpu_s / elapsed_s,
            "gateway_rss_mib": [
                rss_before / 2**20,
                rss_during / 2**20,
                self.system.server_rss_bytes() / 2**20,
            ],
            "violations": violations,
        }

    async def _connect(self, name: str, panel_id: str) -> Client:
        client = Client(name, self.asked.iterations)
        await ws_connect(lambda: client, self.system.websocket_url(panel_id), use_aiofastnet=False)
        await asyncio.wait_for(client.connected.wait(), 30)
        return client

    async def _closed_loop(self) -> tuple[float, float, float]:
        """RESULTs a second, RESULTs a second of the workers' CPU, and how much CPU those used."""
        for client in self.clients:
            client.window = self.asked.window
            for _ in range(client.window):
                client.send()
        await asyncio.sleep(self.asked.warmup)
        before, begun_s, worker_s = self._succeeded(), clock(), self.system.worker_cpu_s()
        await asyncio.sleep(self.asked.seconds)
        succeeded, elapsed_s = self._succeeded() - before, clock() - begun_s
        worker_s = max(1e-9, self.system.worker_cpu_s() - worker_s)
        for client in self.clients:
            client.window = 0
        while any(c.in_flight for c in self.clients):  # noqa: ASYNC110 - the gateway answers
            await asyncio.sleep(0.01)
        return succeeded / elapsed_s, succeeded / worker_s, worker_s / elapsed_s

    def _succeeded(self) -> int:
        return sum(client.answers["RESULT"] for client in self.clients)

    async def _open_loop(self, per_s: float) -> None:
        begun_s, sent, turn = clock(), 0, 0
        total = self.asked.triggers or int(per_s * self.asked.seconds)
        while sent < total:
            due = min(total, int((clock() - begun_s) * per_s))
            while sent < due:
                self.clients[turn % len(self.clients)].send()
                turn += 1
                sent += 1
                if sent % 64 == 0:
                    # whoever sends must read too, or it is the client that is overloaded
                    await asyncio.sleep(0)
            await asyncio.sleep(TICK_S)

    async def _be_polite(self, client: Client) -> None:
        while True:
            if not client.in_flight:
                client.send()
            await asyncio.sleep(0.02)


def show(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    rss = " → ".join(f"{mib:.0f}" for mib in figures["gateway_rss_mib"])
    busy, ratio = figures["worker_busy"], figures["goodput_ratio_per_cpu_s"]
    served = figures["polite_answers"]
    return f"""\
peak                {figures["peak_per_s"]:10,.0f} /s
offered             {figures["offered_per_s"]:10,.0f} /s
goodput             {figures["goodput_per_s"]:10,.0f} /s   {figures["goodput_ratio"]:.2f} × the peak
  of a worker's CPU              {ratio:.2f} × the peak
CPUs                workers {busy[0]:.2f}, then {busy[1]:.2f}; clients {figures["client_busy"]:.2f}; \
gateway {figures["gateway_busy"]:.2f}
accepted            p50 {figures["accepted_p50_ms"]:,.0f} ms   p99 {figures["accepted_p99_ms"]:,.0f} ms
answers             {figures["answers"]}
sent, unanswered    {figures["sent"]:,}, {figures["unanswered"]}
polite client       {served} of {figures["polite_sent"]}   p50 {figures["polite_p50_ms"]:.1f} ms   \
p99 {figures["polite_p99_ms"]:.1f} ms
gateway's memory    {rss} MiB
""" + "".join(f"violation: {text}\n" for text in figures["violations"][:20])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each of the two loops is")
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--factor", type=float, default=5.0, help="how much more is sent than can be run")
    parser.add_argument("--triggers", type=int, help="how many are sent, in place of --seconds of them")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--panels", type=int, default=8)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=1_000, help="how much the handler burns")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with panels(Options(workers=asked.workers)) as system:
        figures = uvloop.run(Overload(system, asked).run())
    sys.stdout.write(show(figures))
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1))
    sys.exit(1 if figures["violations"] else 0)


if __name__ == "__main__":
    main()
