"""An extension for the tests of this folder; the extension process loads this file by its name alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from panels_gateway.extensions.extension import CallContext, Environment, Extension, method


class Shop(Extension):
    """Writes every call into a file, so that one knows how often each was made when the process is gone."""

    name = "shop"

    async def startup(self, environment: Environment) -> None:
        """Takes the setting ``book``: the file."""
        self._book = Path(str(environment.settings["book"]))

    def _write(self, context: CallContext) -> int:
        with self._book.open("a") as book:
            book.write(f"{context.method} {context.idempotency_key}\n")
        key = context.idempotency_key
        return sum(line.split()[1] == key for line in self._book.read_text().splitlines())

    @method(repeatable=True)
    async def order(self, context: CallContext) -> int:
        """How often this call was made."""
        return self._write(context)

    @method(repeatable=True)
    async def dies_once(self, context: CallContext) -> int:
        """Takes the process along the first time; the second time, how often the call was made."""
        times = self._write(context)
        if times == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return times

    @method(repeatable=True)
    async def blocks_once(self, context: CallContext) -> int:
        """Holds the event loop up for good the first time; the second time, how often the call was made."""
        times = self._write(context)
        if times == 1:
            time.sleep(600)  # noqa: ASYNC251 - the defect that the gateway looks for
        return times

    @method()
    async def pays_for_ever(self, context: CallContext) -> None:
        """Never returns, and may not be made again."""
        self._write(context)
        await asyncio.Event().wait()
