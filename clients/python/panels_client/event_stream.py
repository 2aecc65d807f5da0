"""The events that wait for an application which reads them with ``async for``."""

from __future__ import annotations

import asyncio
from collections import deque

from panels_client.errors import EventsLostError
from panels_client.messages import Event


class EventStream:
    """The events that wait for one iterator, at most ``limit``; above it no more are taken."""

    def __init__(self, name: str, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {limit}")
        self._name, self._limit = name, limit
        self._waiting: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._lost = self._ended = False

    def put(self, event: Event) -> None:
        """Takes an event, if it is one of those asked for."""
        if self._name not in ("*", event.name) or self._lost:
            return
        if len(self._waiting) >= self._limit:
            self._lost = True
        else:
            self._waiting.append(event)
        self._wake.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._lost:
                raise EventsLostError(f"expected at most {self._limit} events that wait to be read")
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._waiting.popleft()
