"""Extensions that behave and misbehave, for the tests; the extension process loads this file by its name
alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from panels_gateway.extensions.errors import ExtensionError
from panels_gateway.extensions.extension import (
    Arguments,
    CallContext,
    CallNext,
    Environment,
    Extension,
    method,
)


class LongWindedError(ExtensionError):
    """Has made of its message what no frame takes."""

    def __init__(self) -> None:
        super().__init__("")
        self.message = "x" * 100_000 + "\ud800"


class Sample(Extension):
    """Methods that end in every way."""

    name = "sample"

    async def startup(self, environment: Environment) -> None:
        self._settings = environment.settings
        self.cancelled: list[str] = []

    @method()
    async def echo(self, context: CallContext, value: Any) -> Any:
        return value

    @method()
    async def who(self, context: CallContext) -> list[str]:
        return [context.panel, context.tool, context.principal, context.suspension, context.idempotency_key]

    @method()
    async def surroundings(self, context: CallContext) -> dict[str, Any]:
        return {"environment": dict(os.environ), "folder": os.getcwd(), "settings": dict(self._settings)}

    @method()
    async def refuses(self, context: CallContext) -> None:
        raise ExtensionError("the shop is closed")

    @method()
    async def long_winded(self, context: CallContext) -> None:
        raise LongWindedError

    @method()
    async def breaks(self, context: CallContext) -> None:
        raise RuntimeError("password=hunter2")

    @method()
    async def times_out_by_itself(self, context: CallContext) -> None:
        raise TimeoutError

    @method()
    async def is_cancelled_by_itself(self, context: CallContext) -> None:
        raise asyncio.CancelledError

    @method(timeout_s=0.05)
    async def is_slow(self, context: CallContext) -> None:
        await asyncio.Event().wait()

    @method(repeatable=True)
    async def hangs(self, context: CallContext) -> None:
        await asyncio.Event().wait()

    @method()
    async def hangs_once(self, context: CallContext) -> None:
        await asyncio.Event().wait()

    @method(repeatable=True)
    async def blocks(self, context: CallContext) -> None:
        time.sleep(600)  # noqa: ASYNC251 - the defect that the heartbeat is for

    @method()
    async def crashes(self, context: CallContext) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @method()
    async def returns_an_object(self, context: CallContext) -> object:
        return object()

    @method()
    async def returns_too_much(self, context: CallContext) -> str:
        return "x" * 5_000_000

    @method()
    async def returns_too_deep(self, context: CallContext) -> Any:
        value: Any = 1
        for _ in range(100):
            value = [value]
        return value

    @method()
    async def returns_a_circle(self, context: CallContext) -> Any:
        value: list[Any] = []
        value.append(value)
        return value


class Failing(Extension):
    """Cannot start."""

    name = "failing"

    async def startup(self, environment: Environment) -> None:
        raise RuntimeError("no database")


async def doorkeeper(context: CallContext, arguments: Arguments, call_next: CallNext) -> Any:
    """Refuses by panel, and marks what it lets through."""
    if context.panel == "banned":
        raise ExtensionError("the panel is banned")
    return {"arguments": dict(arguments), "result": await call_next()}
