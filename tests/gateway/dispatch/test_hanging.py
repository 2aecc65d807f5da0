"""A worker that lives and does not answer: its pool, which sees only that it lives, is told to kill it."""

from __future__ import annotations

import pytest

from panels_gateway.dispatch.watch import GRACE_S
from panels_shared import messages as m
from panels_shared.messages import WorkerId
from tests.support.gateway import POOL, WORKER, Gateway

pytestmark = pytest.mark.anyio


async def hanging(*, replaces: bool) -> Gateway:
    """A gateway whose worker was sent a job, and is alive and silent about it when its time is over."""
    gateway = Gateway(workers=False, respond=lambda call: None)
    gateway.dispatcher.hello(WorkerId(POOL), m.Hello("pool", b"", 1, {}, replaces=replaces), gateway.now_s)
    gateway.dispatcher.hello(WORKER, m.Hello("sandbox", POOL, 2, {}), gateway.now_s)
    resident = await gateway.add("p")
    gateway.submit(resident)
    await gateway.settle()
    assert gateway.held == 1
    gateway.now_s += resident.panel.tools["t"].limits[1] / 1_000 + GRACE_S + 0.1
    for peer in (WorkerId(POOL), WORKER):
        gateway.dispatcher.heard(peer, gateway.now_s)
    gateway.dispatcher.tick(gateway.now_s)
    return gateway


async def test_pool_is_told_which_of_its_sandboxes_hangs() -> None:
    gateway = await hanging(replaces=True)
    sent = dict(gateway.dispatcher.drain(gateway.now_s))
    assert sent[WorkerId(POOL)] == [m.Replace(WORKER)]
    stats = gateway.dispatcher.stats()
    assert (stats["hung"], stats["workers_lost"], stats["workers"]) == (1, 1, 0)


async def test_pool_that_would_not_understand_is_told_nothing() -> None:
    gateway = await hanging(replaces=False)
    assert WorkerId(POOL) not in dict(gateway.dispatcher.drain(gateway.now_s))
    assert gateway.dispatcher.stats()["hung"] == 1


async def test_sandbox_that_is_silent_is_its_pools_own_affair() -> None:
    gateway = Gateway(workers=False)
    gateway.dispatcher.hello(WorkerId(POOL), m.Hello("pool", b"", 1, {}, replaces=True), gateway.now_s)
    gateway.dispatcher.hello(WORKER, m.Hello("sandbox", POOL, 2, {}), gateway.now_s)
    gateway.now_s += 60.0
    gateway.dispatcher.heard(WorkerId(POOL), gateway.now_s)
    gateway.dispatcher.tick(gateway.now_s)
    assert WorkerId(POOL) not in dict(gateway.dispatcher.drain(gateway.now_s))
    assert (gateway.dispatcher.stats()["hung"], gateway.dispatcher.stats()["workers_lost"]) == (0, 1)
