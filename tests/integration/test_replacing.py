"""Processes are replaced while clients trigger, and no trigger fails or is lost."""

from __future__ import annotations

import asyncio
import signal

import psutil

from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter
from tests.integration.test_resilience import check_counted, press
from tests.support.system import System, eventually


def sandboxes_in_service(system: System) -> set[int]:
    """The sandboxes that say in their titles that they are ready."""
    found = set()
    for process in system.sandboxes():
        try:
            if process.name() == "sandbox ready":
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_replacing_all_sandboxes_fails_no_trigger(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    panels = [system.make_panel(counter(), state={"count": 0}) for _ in range(3)]
    before = eventually(lambda: found if len(found := sandboxes_in_service(system)) == 2 else set())

    async def replace_under_load() -> None:
        done = asyncio.Event()
        pressing = [
            asyncio.create_task(press(system, panel, triggers=10**6, window=4, name=panel, until=done))
            for panel in panels
        ]
        system.pool.signal(signal.SIGHUP)
        await asyncio.to_thread(
            eventually,
            lambda: len(now := sandboxes_in_service(system)) == 2 and not now & before,
            within_s=40,
            what="two other sandboxes",
        )
        done.set()
        for panel, record in zip(panels, await asyncio.gather(*pressing), strict=True):
            assert check_counted(system, panel, [record]) > 0

    asyncio.run(replace_under_load())
    assert psutil.Process(system.pool.pid).name() == "pool 2/2 up"
    assert system.pool.stop() == 0
