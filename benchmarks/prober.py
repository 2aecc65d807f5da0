"""Asks a gateway for a PONG every 2 ms and says how long each took: ``python -m benchmarks.prober URL SECONDS``.

Prints milliseconds: first how late this process itself was woken at most, which is the machine's doing, then each answer.
"""

from __future__ import annotations

import sys
import time

from websockets.sync.client import connect

_EVERY_S = 0.002


def main() -> None:
    """The command."""
    url, duration_s = sys.argv[1], float(sys.argv[2])
    late = 0.0
    times: list[float] = []
    with connect(url, max_size=None) as socket:
        socket.recv()
        end = time.perf_counter() + duration_s
        while (began := time.perf_counter()) < end:
            socket.send('{"type":"PING"}')
            socket.recv()
            answered = time.perf_counter()
            times.append((answered - began) * 1e3)
            time.sleep(_EVERY_S)
            late = max(late, (time.perf_counter() - answered - _EVERY_S) * 1e3)
    sys.stdout.write("\n".join(f"{each:.3f}" for each in (late, *times)))


if __name__ == "__main__":
    main()
