"""The ROUTER socket, with real peers on a real socket."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop
import zmq

from panels_gateway.bus.admission import Admission
from panels_gateway.bus.broker import FRAMES_PER_TURN, PARTS_PER_TURN, Broker
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import Run
from panels_gateway.observe.counters import BrokerCounters
from panels_gateway.panels.trigger import Trigger
from panels_shared import wire
from panels_shared.messages import Heartbeat, Refusal
from panels_shared.outcome import Outcome, Reason
from tests.support.rogue import pool_hello

KEY = bytes(32)


def admission() -> Admission:
    return Admission(KEY, BrokerCounters())


class NoResults:
    """Nothing runs here."""

    def finish(self, run: Run, outcome: Outcome) -> bool:
        raise AssertionError

    def failed(self, trigger: Trigger, reason: Reason, message: str) -> None:
        raise AssertionError

    def overdue(self, trigger: Trigger, message: str) -> None:
        raise AssertionError

    def outdated(self, trigger: Trigger) -> None:
        raise AssertionError

    def tick(self) -> None:
        return

    def prepared(self, digest: bytes, refusal: Refusal | None) -> None:
        raise AssertionError

    def flush(self) -> None:
        return


async def eventually(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not look():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.001)


def test_frames_are_read_although_a_heartbeat_consumed_their_edge(tmp_path: Path) -> None:
    """Frames arrive, and before the loop looks at the descriptor a timer sends a heartbeat: the
    send takes in the signal of their arrival, the descriptor falls silent, and a gateway that waits
    for it is deaf for ever.
    """

    async def run() -> None:
        dispatcher = Dispatcher(heartbeat_s=3_600.0)
        broker = Broker(
            f"ipc://{tmp_path}/w.sock", dispatcher, NoResults(), admission=admission(), heartbeat_s=3_600.0
        )
        await broker.start()
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.LINGER, 0)
            worker = os.urandom(16)
            dealer.set(zmq.IDENTITY, worker)
            dealer.connect(broker.endpoint)
            dealer.send(wire.encode([pool_hello(KEY, worker)]))
            await eventually(lambda: broker.counters.frames_in == 1)
            await asyncio.sleep(0.05)  # the turns that follow the Welcome
            for count in range(10):
                dealer.send(wire.encode([Heartbeat(worker, 0)]))
                time.sleep(0.02)  # noqa: ASYNC251 - the loop must not run while the frame arrives
                broker._beat()
                await eventually(lambda seen=count + 2: broker.counters.frames_in == seen)  # type: ignore[misc]
        await broker.stop()

    uvloop.run(run())


def test_broker_reads_a_bounded_number_of_frames_in_one_turn() -> None:
    """A peer's flood is read in turns, so that clients and other workers are served in between."""

    class EndlessSocket:
        def __init__(self) -> None:
            self.more = False

        def recv(self, flags: int) -> bytes:
            self.more = not self.more
            return b"peer" if self.more else b"no frame"

        def get(self, option: int) -> bool:
            assert option == zmq.RCVMORE
            return self.more

    scheduled: list[object] = []
    loop: Any = SimpleNamespace(call_soon=scheduled.append)
    kernel: Any = SimpleNamespace(flush=lambda: scheduled.append("flush"))
    broker = Broker("ipc:///nowhere", Dispatcher(), kernel, admission=admission(), clock=lambda: 1.0)
    endless: Any = EndlessSocket()
    broker._socket, broker._loop = endless, loop

    broker._readable()

    assert broker.counters.frames_in == FRAMES_PER_TURN
    assert scheduled == [broker._readable, "flush"]


def test_message_of_many_parts_is_thrown_away_in_turns_of_the_loop(tmp_path: Path) -> None:
    """Nobody else is read or served while the loop reads one message, of which a peer chooses the parts."""
    turns = 0
    messages = 20

    async def run() -> None:
        broker = Broker(
            f"ipc://{tmp_path}/w.sock", Dispatcher(), NoResults(), admission=admission(), heartbeat_s=3_600.0
        )
        await broker.start()

        def turn() -> None:
            nonlocal turns
            turns += 1
            asyncio.get_running_loop().call_soon(turn)

        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.LINGER, 0)
            worker = os.urandom(16)
            dealer.set(zmq.IDENTITY, worker)
            dealer.connect(broker.endpoint)
            dealer.send(wire.encode([pool_hello(KEY, worker)]))
            await eventually(lambda: broker.counters.frames_in == 1)
            dealer.send_multipart([b""] * PARTS_PER_TURN * messages)
            time.sleep(0.1)  # noqa: ASYNC251 - the whole message arrives while the loop stands still
            turn()
            before = turns
            await eventually(lambda: broker.counters.bad_frames == 1 and not broker._surplus)
            # several of the broker's callbacks may read in one turn
            assert turns - before >= messages // 5
            # what comes behind it is read from its beginning
            dealer.send(wire.encode([pool_hello(KEY, worker)]))
            await eventually(lambda: broker.counters.messages_in == 2)
        assert broker.counters.bad_frames == 1
        await broker.stop()

    uvloop.run(run())
