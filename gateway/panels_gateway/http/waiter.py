"""A caller over HTTP: waits for one answer."""

from __future__ import annotations

import asyncio


class HttpWaiter:
    """Resolves ``future`` with the answer; one whose client went away is dropped."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future

    def answer(self, payload: bytes) -> None:
        """The one RESULT or ERROR message, as JSON."""
        if not self.future.done():
            self.future.set_result(payload)
