"""How long an honest panel's triggers take while a sandbox that was taken over floods the bus with
forged results.

    python -m benchmarks.bus_flood

A figure of this machine, printed as milliseconds; what must hold on every machine is
tests/integration/test_bus.py's.
"""

from __future__ import annotations

import re
import statistics
import sys
import time

from panels_shared import wire
from panels_shared.messages import Result
from panels_shared.outcome import Completed, Usage
from tests.support.rogue import admitted
from tests.support.system import System

FRAMES = 250
CALLS = 200
#: Results in the flood.
FORGED = FRAMES * wire.MAX_MESSAGES
COUNT = "$state.count = ($state.count ?? 0) + 1; return $state.count"


def timings(system: System, panel: str) -> list[float]:
    """Milliseconds of each of ``CALLS`` triggers, one after the other."""
    with system.connect(panel) as client:
        client.call("count")
        took: list[float] = []
        for _ in range(CALLS):
            began_s = time.perf_counter()
            client.call("count")
            took.append((time.perf_counter() - began_s) * 1_000)
        return took


def dropped(system: System) -> int:
    """Frames that the gateway has received since its start, most of which it drops unread."""
    found = re.findall(
        r"^panels_bus_frames_received_total (\d+)", system.http.get("/metrics").text, re.MULTILINE
    )
    return sum(map(int, found))


def await_flood(system: System, before: int) -> int:
    """How many frames have come, once it is all of the flood or no more come for a second."""
    arrived, quiet_since = 0, time.monotonic()
    while arrived < FRAMES and time.monotonic() - quiet_since < 1.0:
        found = dropped(system) - before
        if found != arrived:
            arrived, quiet_since = found, time.monotonic()
        time.sleep(0.05)
    return arrived


def report(name: str, took: list[float]) -> None:
    """One line of the table."""
    p99 = sorted(took)[int(len(took) * 0.99)]
    print(f"{name:8} p50 {statistics.median(took):8.2f} ms  p99 {p99:8.2f} ms  slowest {max(took):8.2f} ms")


def main() -> None:
    """Measures without and with the flood."""
    frame = wire.encode([Result(10**9 + n, Completed(Usage())) for n in range(wire.MAX_MESSAGES)])
    with System() as system:
        system.start()
        panel = system.make_panel({"name": "count", "handler": COUNT}, state={"count": 0})
        report("quiet", timings(system, panel))
        with admitted(system.endpoint) as dealer:
            before = dropped(system)
            for _ in range(FRAMES):
                dealer.send(frame)
            report("flooded", timings(system, panel))
            arrived = await_flood(system, before)
            print(
                f"frames that arrived: {arrived:,}, with {FRAMES:,} of the flood and its {FORGED:,} results"
            )
            if arrived < FRAMES:
                sys.exit("bus_flood: the flood did not arrive, so the figures say nothing")


if __name__ == "__main__":
    main()
