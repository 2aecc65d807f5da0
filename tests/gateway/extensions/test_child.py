"""The extension process as the gateway sees it: nothing of it stays, also when the gateway is in a hurry."""

from __future__ import annotations

import asyncio
import sys

import psutil
import pytest

from panels_gateway.extensions.child import Child

#: Reads nothing and ends only when it is killed.
DEAF = (sys.executable, "-c", "import time; time.sleep(600)")


def test_child_whose_end_is_cancelled_is_killed_and_reaped() -> None:
    async def run() -> int:
        child = await Child.start(b"{}", command=DEAF)
        ending = asyncio.create_task(child.end(grace_s=600.0))
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        return child.pid

    assert not psutil.pid_exists(asyncio.run(run()))


def test_child_whose_start_fails_is_killed_and_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    spawn = asyncio.create_subprocess_exec

    async def spied(*args: str, **options: object) -> asyncio.subprocess.Process:
        started.append(process := await spawn(*args, **options))  # type: ignore[arg-type]
        return process

    async def refused(**_: object) -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        monkeypatch.setattr(asyncio, "create_subprocess_exec", spied)
        monkeypatch.setattr(asyncio, "open_connection", refused)
        with pytest.raises(asyncio.CancelledError):
            await Child.start(b"{}", command=DEAF)

    asyncio.run(run())
    assert len(started) == 1
    assert not psutil.pid_exists(started[0].pid)
