"""What the clients cost: ``python -m benchmarks.client_figures [--quick]``.

- 10,000 PATCHes to a state of 1 MB, in Python and in Node, beside a loop by hand that checks nothing: CPU of
the
  process, taken in turn.
- Memory of 1,000 panels in one process.
- From the moment at which a client connects again, behind its back-off, to ``recovered``: connections are cut
  while somebody commits.

The client in TypeScript is the built package: ``node clients/typescript/scripts/build.mjs``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from benchmarks.driven_clients import in_node, in_python
from benchmarks.load.run import percentile
from benchmarks.report import Report, Table, command, parser
from tests.support.fault_proxy import FaultProxy
from tests.support.system import System

HERE: Final = Path(__file__).parent
LANGUAGES: Final = {
    "Python": (sys.executable, "-m", "benchmarks.client_patches"),
    "Node": ("node", "--expose-gc", "--experimental-websocket", str(HERE / "client_patches.mjs")),
}
#: Keys of the state, and characters of each value: 1 MB.
KEYS: Final = 10_000
VALUE: Final = "x" * 80
HANDLER: Final = "return $state.n = ($state.n ?? 0) + 1;"
CLIENTS: Final = {"Python": in_python, "Node": in_node}
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def frame(message: dict[str, Any]) -> bytes:
    """A text frame as a server sends it."""
    payload = json.dumps(message, separators=(",", ":")).encode()
    if len(payload) < 126:
        head = bytes((0x81, len(payload)))
    elif len(payload) < 65_536:
        head = b"\x81\x7e" + len(payload).to_bytes(2)
    else:
        head = b"\x81\x7f" + len(payload).to_bytes(8)
    return head + payload


def connected(state: dict[str, str]) -> bytes:
    """The first message of a connection."""
    return frame(
        {"type": "CONNECTED", "panelId": "p", "seq": 0, "epoch": "e", "clientId": "c", "state": state}
    )


def patches(count: int) -> bytes:
    """So many PATCHes of one key each, and an EVENT that says that these are all."""
    frames = [
        frame(
            {
                "type": "PATCH",
                "mutations": [{"op": "set", "key": f"k{number * 7919 % KEYS}", "value": VALUE + str(number)}],
                "seq": number,
            }
        )
        for number in range(1, count + 1)
    ]
    end = {"type": "EVENT", "event": {"name": "end", "payload": None, "timestamp": 0}, "seq": count + 1}
    return b"".join((*frames, frame(end)))


@contextlib.asynccontextmanager
async def feeding(greeting: bytes, rest: bytes) -> AsyncIterator[str]:
    """A server that greets everybody, answers the first PING, and then sends ``rest``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found = re.search(r"(?i)sec-websocket-key: *(\S+)", head)
            assert found is not None
            proof = base64.b64encode(hashlib.sha1((found[1] + _GUID).encode()).digest()).decode()
            offered = re.search(r"(?i)sec-websocket-protocol: *([^\s,]+)", head)
            chosen = f"Sec-WebSocket-Protocol: {offered[1]}\r\n" if offered is not None else ""
            writer.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {proof}\r\n{chosen}\r\n".encode()
            )
            writer.write(greeting)
            await writer.drain()
            # the loop by hand asks nothing; and what follows is not to be read together with the state
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await reader.read(65_536)
            writer.write(frame({"type": "PONG"}))
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.write(rest)
            await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def ask(language: str, role: str, url: str, count: int) -> float:
    """The one number that a process in that language answers."""
    child = await asyncio.create_subprocess_exec(
        *LANGUAGES[language], role, url, str(count), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    if child.returncode != 0:
        raise RuntimeError(f"expected {language} to answer {role}, it ended with {child.returncode}")
    (number,) = json.loads(out).values()
    return float(number)


async def applying(count: int, rounds: int) -> Table:
    """CPU of COUNT PATCHes."""
    columns = (
        "CPU of one PATCH, µs",
        "by hand",
        "client",
        "ratio",
        "of one key",
        "ratio ",
        "of the state",
        "ratio  ",
    )
    table = Table(f"{count:,} PATCHes to a state of 1 MB ({KEYS:,} keys)", columns)
    state = {f"k{number}": VALUE for number in range(KEYS)}
    async with feeding(connected(state), patches(count)) as url:
        for language in LANGUAGES:
            took: dict[str, list[float]] = {"loop": [], "client": [], "key": [], "state": []}
            for _ in range(rounds):
                for role, times in took.items():
                    times.append(await ask(language, role, url, count))
            # a process takes a tenth of a second of CPU, to which whatever runs beside it can only add
            loop, client, key, whole = (min(times) * 1e3 / count for times in took.values())
            table.add(language, loop, client, client / loop, key, key / loop, whole, whole / loop)
    table.notes.append(
        f"of one key, of the state: with a subscriber of it; the least of {rounds} rounds in turn"
    )
    return table


async def holding(panels: int) -> Table:
    """Memory of panels."""
    table = Table(f"{panels:,} panels in one process", ("memory of one panel", "kB"))
    async with feeding(connected({"n": "1"}), b"") as url:
        for language in LANGUAGES:
            table.add(language, await ask(language, "many", url, panels) / 1e3)
    return table


class Timed(FaultProxy):
    """Remembers when a client came last."""

    came_s = 0.0

    @contextlib.asynccontextmanager
    async def running_timed(self) -> AsyncIterator[Timed]:
        """As ``running``."""
        async with self.running():
            yield self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came_s = time.perf_counter()
        await super()._accept(reader, writer)


async def reconnecting(system: System, cuts: int) -> Table:
    """How long it takes from a client's return to ``recovered``."""
    table = Table(
        f"from connecting again to recovered, {cuts:,} cuts", ("ms", "p50", "p99", "longest", "resynced")
    )
    for language, driven in CLIENTS.items():
        times, others = await _cut(system, driven, cuts)
        p99 = percentile(sorted(times), 0.99)
        table.add(language, statistics.median(times), p99, max(times), others)
    return table


async def _cut(system: System, driven: Any, cuts: int) -> tuple[list[float], int]:
    """Milliseconds of each return, and how many were not ``recovered``."""
    panel = await asyncio.to_thread(system.make_panel, {"name": "add", "handler": HANDLER})
    back = asyncio.Event()
    times: list[float] = []
    others = 0
    async with Timed("127.0.0.1", system.port).running_timed() as proxy:

        def hear(kind: str, what: Any) -> None:
            nonlocal others
            if kind == "notice":
                times.append((time.perf_counter() - proxy.came_s) * 1e3)
                others += what != "recovered"
                back.set()

        async with driven(proxy.url, panel, system.token, {"one": hear}) as (client,):
            await client.call("add", None)
            for _ in range(cuts):
                back.clear()
                proxy.harm("cut")
                await asyncio.to_thread(system.http.post, f"/panels/{panel}/trigger/add")
                async with asyncio.timeout(60):
                    await back.wait()
    return times, others


async def measured(*, quick: bool) -> list[Table]:
    """All tables."""
    tables = [await applying(1_000 if quick else 10_000, 2 if quick else 9)]
    tables.append(await holding(50 if quick else 1_000))
    with System() as system:
        await asyncio.to_thread(system.start, processes=1)
        tables.append(await reconnecting(system, 10 if quick else 300))
    return tables


def main() -> None:
    """The command line."""
    options = parser("benchmarks.client_figures", __doc__).parse_args()
    tables = asyncio.run(measured(quick=options.quick))
    Report(command("benchmarks.client_figures"), tables).publish(options.json)


if __name__ == "__main__":
    main()
