"""Small parts of a fleet, for tests of the modules that work on one."""

from __future__ import annotations

from typing import Any

from panels_gateway.dispatch.fleet import Fleet, Lane, Pool, Run, Worker
from panels_gateway.panels.panel import Panel
from panels_gateway.panels.trigger import Trigger
from panels_shared import messages as m
from panels_shared.liveness import Liveness
from panels_shared.messages import PanelKey, PoolId, ToolKey, WorkerId
from tests.support.world import NoReply, Source

POOL = PoolId(b"pool")
SOURCE = Source(b"\1" * 32)
TOOL = m.Tool(ToolKey(1), SOURCE.digest, "wat", "handle", "t", (1, 5_000, 1, 1, 1, 1, 1), ())


def panel(key: int = 1) -> Panel:
    definition: Any = None
    return Panel(key=PanelKey(key), id=f"p{key}", definition=definition, tools={}, created_ms=0)


def lane(fleet: Fleet, key: int = 1, *, runs: int = 0) -> Lane:
    """A lane of ``fleet`` without a worker, with so many runs that wait."""
    made = fleet.lanes[key] = Lane(panel(key), (TOOL.tool,))
    made.queue.extend(run(made) for _ in range(runs))
    return made


def run(of: Lane) -> Run:
    trigger = Trigger(
        panel=of.panel, tool=TOOL, args=b"{}", scope=b"{}", now_ms=0.0, seed=1, submitted_s=0.0,
        reply_to=NoReply()
    )  # fmt: skip
    return Run(trigger, of, 0.0)


def worker(fleet: Fleet, name: bytes, pool: PoolId = POOL) -> Worker:
    made = fleet.workers[WorkerId(name)] = Worker(WorkerId(name), pool, Liveness(0.0))
    return made


def pool(fleet: Fleet, pool_id: PoolId = POOL) -> Pool:
    made = fleet.pools[pool_id] = Pool(pool_id, Liveness(0.0))
    return made


def serve(of: Worker, served: Lane, *, in_flight: int = 0) -> None:
    """Gives the lane to the worker, with some of its runs in flight."""
    served.worker = of
    of.lanes[served] = of.busy[served] = None
    for number in range(in_flight):
        sent = served.queue.popleft()
        sent.id = len(of.outstanding) + 1_000 * served.key + number
        sent.worker = of
        of.outstanding[sent.id] = sent
        served.in_flight.append(sent)
    of.queued += len(served.queue)
