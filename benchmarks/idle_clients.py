"""What a client costs that is connected and does nothing: the gateway's memory, before and
after so many have come.
"""

from __future__ import annotations

import asyncio
import resource

import psutil
import uvloop
from picows import WSListener, ws_connect

from benchmarks import handlers
from benchmarks.load.system import Options, System, panels
from benchmarks.report import Report, Table, command, parser


def main() -> None:
    """Measures and prints."""
    arguments = parser("benchmarks.idle_clients", __doc__)
    arguments.add_argument("--clients", type=int, default=5_000, metavar="N", help="how many (5000)")
    options = arguments.parse_args()
    count = min(options.clients, 1_000) if options.quick else options.clients
    report = Report(command("benchmarks.idle_clients"), [idle_clients(count)])
    report.publish(options.json)


def idle_clients(count: int) -> Table:
    """Proportional memory (PSS) of the gateway, per client."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * count + 1_000), hard))
    made = Table(
        "Idle clients", ("clients", "gateway MB before", "MB after", "KiB per client", "CPU s for 5 s idle")
    )
    room = str(count + 100)
    limits = ["--max-connections", room, "--max-connections-per-subject", room]
    with panels(Options(gateway_args=limits)) as system:
        system.http("POST", "/panels", handlers.WASM("idle"))
        uvloop.run(_warm(system))
        before = _memory(system)
        after, idle_s = uvloop.run(_connect(system, count))
        made.add(f"{count:,}", before / 1e6, after / 1e6, (after - before) / count / 1_024, idle_s)
    return made


async def _warm(system: System) -> None:
    transport, _ = await ws_connect(WSListener, system.websocket_url("idle"))
    transport.disconnect()


async def _connect(system: System, count: int) -> tuple[int, float]:
    url = system.websocket_url("idle")
    transports = []
    for start in range(0, count, 100):
        made = await asyncio.gather(*(ws_connect(WSListener, url) for _ in range(min(100, count - start))))
        transports += [transport for transport, _ in made]
    await asyncio.sleep(1.0)
    after = _memory(system)
    cpu = system.server_cpu_s()
    await asyncio.sleep(5.0)
    idle_s = system.server_cpu_s() - cpu
    for transport in transports:
        transport.disconnect()
    return after, idle_s


def _memory(system: System) -> int:
    assert isinstance(system.server, psutil.Process)
    return int(system.server.memory_full_info().pss)


if __name__ == "__main__":
    main()
