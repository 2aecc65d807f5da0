"""An agent that works beside people: it takes the task of the panel `scratchpad`, plans, and works it off.

    PANELS_TOKEN=… python agent.py ws://127.0.0.1:3001

`think` and `work` are where a model would be asked. What matters is around them: the agent reads a state
that is always current, each of its calls happens once although connections break, and a plan for a task that
somebody has replaced meanwhile is refused by the handler and not by luck.
"""

from __future__ import annotations

import asyncio
import os
import sys

from panels_client import CallError, Panel, connect


async def think(task: str) -> list[str]:
    """The steps of a task: what stands between its commas."""
    await asyncio.sleep(0.3)
    return [step.strip() for step in task.replace(" and ", ",").split(",") if step.strip()]


async def work(step: str) -> str:
    """Does a step; what there is to say about it."""
    await asyncio.sleep(0.3)
    return f"I have done this: {step}"


async def pursue(panel: Panel, task: str) -> None:
    """Works a task off, or gives it up as soon as there is another one."""
    try:
        steps = await think(task)
        await panel.call("plan", {"task": task, "steps": steps})
        for number, step in enumerate(steps):
            said = await work(step)
            await panel.call("tick", {"task": task, "step": number})
            await panel.call("note", {"text": said})
    except CallError as error:
        sys.stdout.write(f"given up: {error}\n")


async def main() -> None:
    """Follows the panel until it is interrupted."""
    token = os.environ.get("PANELS_TOKEN")
    async with connect(sys.argv[1], panel="scratchpad", token=token) as panel:
        changed = asyncio.Event()
        panel.subscribe(lambda state: (state.get("task"), state.get("isDone")), lambda *_: changed.set())
        sys.stdout.write("the agent is there\n")
        while True:
            changed.clear()
            if panel.state["task"] and not panel.state["isDone"]:
                await pursue(panel, panel.state["task"])
            await changed.wait()


if __name__ == "__main__":
    asyncio.run(main())
