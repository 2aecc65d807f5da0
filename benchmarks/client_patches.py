"""What benchmarks.client_figures asks of Python: ROLE URL COUNT, and one JSON line; the roles are those of
``client_patches.mjs``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack

import psutil
from websockets.asyncio.client import connect as open_socket

from panels_client import Options, connect

OPTIONS = Options(proxy=None)


async def loop(url: str, count: int) -> float:
    """Milliseconds of CPU of a loop by hand."""
    state: dict[str, object] = {}
    began = 0.0
    connecting = open_socket(
        f"{url}/panels/p/ws", max_size=None, compression=None, proxy=None, close_timeout=0
    )
    async with connecting as socket:
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "CONNECTED":
                state.update(message["state"])
                began = time.process_time()
            elif message["type"] == "PATCH":
                for mutation in message["mutations"]:
                    if mutation["op"] == "set":
                        state[mutation["key"]] = mutation["value"]
                    else:
                        state.pop(mutation["key"], None)
                if message["seq"] == count:
                    break
        return (time.process_time() - began) * 1e3


async def client(url: str, role: str) -> float:
    """Milliseconds of CPU of the package."""
    ended = asyncio.Event()
    async with connect(url, panel="p", options=OPTIONS) as panel:
        began = time.process_time()
        if role == "key":
            panel.subscribe("k0", lambda now, before: None)
        if role == "state":
            panel.subscribe(lambda state: state["k0"], lambda now, before: None)
        panel.on("end", lambda event: ended.set())
        await ended.wait()
        return (time.process_time() - began) * 1e3


async def many(url: str, count: int) -> float:
    """Bytes that a panel adds to the process."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connect(url, panel="p", options=OPTIONS))
        before = psutil.Process().memory_info().rss
        entering = [stack.enter_async_context(connect(url, panel="p", options=OPTIONS)) for _ in range(count)]
        await asyncio.gather(*entering)
        return (psutil.Process().memory_info().rss - before) / count


async def main(role: str, url: str, count: int) -> None:
    """The command line."""
    if role == "many":
        told = {"bytes": await many(url, count)}
    elif role == "loop":
        told = {"cpuMs": await loop(url, count)}
    else:
        told = {"cpuMs": await client(url, role)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
