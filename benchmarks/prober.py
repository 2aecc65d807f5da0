"""Asks a gateway for a PONG every 2 ms and says how long each took: ``python -m benchmarks.prober URL SECONDS
PID``.

Prints a line for each answer: the milliseconds that it took, and the milliseconds of these in which neither
the gateway's first thread (of process PID), in which its loop runs, nor this process was waiting for a CPU.
The kernel counts that (``/proc/PID/schedstat``), and on a machine that does other things as well it is most
of a long wait.
"""

from __future__ import annotations

import os
import sys
import time

from websockets.sync.client import connect

_EVERY_S = 0.002


class _Waiting:
    """How long threads have waited for a CPU since they began, in milliseconds."""

    def __init__(self, *threads: int) -> None:
        self._files = [os.open(f"/proc/{thread}/schedstat", os.O_RDONLY) for thread in threads]

    def ms(self) -> float:
        """The sum over the threads."""
        return sum(int(os.pread(file, 64, 0).split()[1]) for file in self._files) / 1e6


def main() -> None:
    """The command."""
    sys.stdout.write(probe(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))


def probe(url: str, duration_s: float, gateway: int) -> str:
    """The lines."""
    waiting = _Waiting(gateway, os.getpid())
    lines: list[str] = []
    with connect(url, max_size=None) as socket:
        socket.recv()
        end = time.perf_counter() + duration_s
        while time.perf_counter() < end:
            waited, began = waiting.ms(), time.perf_counter()
            socket.send('{"type":"PING"}')
            socket.recv()
            took = (time.perf_counter() - began) * 1e3
            lines.append(f"{took:.3f} {max(0.0, took - (waiting.ms() - waited)):.3f}")
            time.sleep(_EVERY_S)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
