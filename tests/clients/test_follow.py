"""examples/perl/follow.pl, a third client, which was written from docs/protocol.md: by the vectors of
resuming, and behind a proxy of faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.python.scripted import scripted
from tests.support.fault_proxy import FAULTS, FaultProxy
from tests.support.resume_runner import load
from tests.support.system import System

FOLLOW: Final = Path(__file__).resolve().parents[2] / "examples" / "perl" / "follow.pl"
FAULTS_MADE: Final = 60
HANDLER: Final = (
    "const n = $state.n = ($state.n ?? 0) + 1; $emit('one', n); if (n % 3 === 0) $emit('three', n); return n;"
)
Line = dict[str, Any]

pytestmark = [
    pytest.mark.skipif(shutil.which("perl") is None, reason="there is no Perl"),
    pytest.mark.timeout(240),
]


class Follower:
    """A running client, and what it printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[Line] = []

    async def read_until(self, reached: Callable[[Line], bool]) -> Line:
        """Reads on to the first line of which ``reached`` is true."""
        assert self.process.stdout is not None
        while True:
            raw = await self.process.stdout.readline()
            assert raw, "the client has ended"
            line: Line = json.loads(raw)
            self.lines.append(line)
            if reached(line):
                return line

    @property
    def events(self) -> list[list[Any]]:
        return [[line["seq"], line["event"], line["payload"]] for line in self.lines if "event" in line]


@contextlib.asynccontextmanager
async def following(url: str, panel: str, *token: str) -> AsyncIterator[Follower]:
    process = await asyncio.create_subprocess_exec(
        "perl", str(FOLLOW), url, panel, *token, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    try:
        yield Follower(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("vector", load(), ids=lambda vector: vector["name"])
def test_follow_ends_as_the_vector_says(vector: Line) -> None:
    async def whole() -> None:
        had, sent, ends = vector["had"], vector["sent"], vector["ends"]
        async with scripted() as server, following(server.url, "p q") as follower:
            peer = await server.peer()
            await peer.greet(had["state"], seq=had["seq"])
            await peer.say(*had["heard"])
            await (await peer.socket.ping())  # it answers when it has heard all that
            if vector["asks"]["since"] == "none":
                await peer.say({"type": "PATCH", "seq": 10**9, "mutations": []})
            else:
                peer.cut()
            again = await server.peer()
            assert again.path.startswith("/panels/p%20q/ws?")
            assert f"since={vector['asks']['since']}" in again.path
            last = 10**6 if sent["seq"] == "last" else sent["seq"]
            same = vector["asks"]["epoch"] == "current"
            await again.greet(sent.get("state"), seq=last, epoch="e" if same else "f")
            await again.say(*sent["messages"], *vector.get("then", {}).get("messages", []))
            await (await again.socket.ping())
            await again.close(4404)
            assert await follower.process.wait() == 1
            assert follower.process.stdout is not None
            printed = await follower.process.stdout.read()
            follower.lines = [json.loads(line) for line in printed.splitlines()]
            states = [line for line in follower.lines if "state" in line]
            assert states[-1]["state"] == ends["state"]
            assert states[-1]["seq"] == (last if ends["seq"] == "last" else ends["seq"])
            assert follower.events == ends["events"]

    asyncio.run(whole())


@pytest.fixture
def system() -> Iterator[System]:
    """A gateway with one sandbox."""
    with System() as started:
        yield started.start(processes=1)


def test_follow_misses_nothing_behind_a_proxy_of_faults(system: System) -> None:
    panel = system.make_panel({"name": "count", "handler": HANDLER})
    chance = random.Random(7)

    async def whole() -> None:
        async with (
            FaultProxy("127.0.0.1", system.port).running() as proxy,
            following(proxy.url, panel, system.token()) as follower,
        ):
            await follower.read_until(lambda line: line["seq"] == 0)
            for number in range(1, FAULTS_MADE + 1):
                proxy.harm(chance.choice(FAULTS), seconds=0.05 * chance.random())
                await asyncio.to_thread(system.http.post, f"/panels/{panel}/trigger/count")
                if number % 4 == 0:
                    # PATCHes may come merged, so that a state in between is never seen
                    await follower.read_until(lambda line: line.get("state", {}).get("n", 0) >= number)  # noqa: B023
            expected: list[list[Any]] = []
            for number in range(1, FAULTS_MADE + 1):
                expected += [[number, "one", number]] + [[number, "three", number]] * (number % 3 == 0)
            assert follower.events == expected
            greetings = [line["connected"] for line in follower.lines if "connected" in line]
            assert greetings[0] == "new"
            assert set(greetings[1:]) == {"recovered"}
            assert proxy.done.total() > 10

    asyncio.run(whole())
