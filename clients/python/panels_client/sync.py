"""The client for scripts: the same panel without ``async``. An event loop runs in a thread of its own.

    with connect("ws://127.0.0.1:3001", panel="counter") as panel:
        panel.call("add", 1)
        print(panel.state["n"])

Every method may be called from any thread but that of the loop. Callbacks run on the loop's thread: they
must not block, and must not call these methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from panels_client import connection
from panels_client.calls import Pending, Result
from panels_client.connection import Optimistic, Selector, Token, Unsubscribe
from panels_client.event_stream import EventStream
from panels_client.instructions import LogEntry, Notice, Status
from panels_client.messages import Event, Presence, Progress
from panels_client.options import Options

T = TypeVar("T")


class Panel:
    """A live panel, for threads. Made by ``connect``."""

    def __init__(self, panel: connection.Panel, loop: asyncio.AbstractEventLoop) -> None:
        self._panel = panel
        self._loop = loop

    @property
    def state(self) -> Mapping[str, Any]:
        """The state as it is now: a copy, one version as a whole."""
        return self._ask(lambda: dict(self._panel.state))

    @property
    def status(self) -> Status:
        """``connecting``, ``live``, ``reconnecting`` or ``closed``."""
        return self._panel.status

    @property
    def seq(self) -> int:
        """The version up to which everything was heard."""
        return self._panel.seq

    @property
    def pending(self) -> tuple[Pending, ...]:
        """The calls that have no answer yet, in order."""
        return self._ask(lambda: self._panel.pending)

    @property
    def log(self) -> list[LogEntry]:
        """A copy of the log."""
        return self._ask(lambda: list(self._panel.log))

    def subscribe(self, selector: Selector, callback: Callable[[Any, Any], object]) -> Unsubscribe:
        """As ``connection.Panel.subscribe``."""
        return self._safely(self._ask(lambda: self._panel.subscribe(selector, callback)))

    def on(self, event_name: str, callback: Callable[[Event], object]) -> Unsubscribe:
        """As ``connection.Panel.on``."""
        return self._safely(self._ask(lambda: self._panel.on(event_name, callback)))

    def on_notice(self, callback: Callable[[Notice], object]) -> Unsubscribe:
        """As ``connection.Panel.on_notice``."""
        return self._safely(self._ask(lambda: self._panel.on_notice(callback)))

    @property
    def presence(self) -> Presence:
        """As ``connection.Panel.presence``."""
        return self._ask(lambda: self._panel.presence)

    def on_presence(self, callback: Callable[[Presence], object]) -> Unsubscribe:
        """As ``connection.Panel.on_presence``."""
        return self._safely(self._ask(lambda: self._panel.on_presence(callback)))

    def events(self, event_name: str = "*", *, limit: int = 1_024) -> Iterator[Event]:
        """The events of this name from now on; it blocks until the next one. Raises ``EventsLostError``."""
        return self._each(self._ask(lambda: self._panel.events(event_name, limit=limit)))

    def _each(self, stream: EventStream) -> Iterator[Event]:
        while True:
            try:
                yield self._run(anext(stream))
            except StopAsyncIteration:
                return

    def call(
        self,
        tool: str,
        args: Any = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        optimistic: Optimistic | None = None,
        timeout: float | None = 60.0,
        key: str | None = None,
        expected_seq: int | None = None,
    ) -> Result:
        """As ``connection.Panel.call``, and blocks until the answer."""
        return self._run(
            self._panel.call(
                tool,
                args,
                on_progress=on_progress,
                optimistic=optimistic,
                timeout=timeout,
                key=key,
                expected_seq=expected_seq,
            )
        )

    def answer(
        self, suspension_id: str, value: Any, *, call: int | None = None, timeout: float | None = 60.0
    ) -> None:
        """As ``connection.Panel.answer``, and blocks until it is recorded."""
        self._run(self._panel.answer(suspension_id, value, call=call, timeout=timeout))

    def close(self) -> None:
        """Ends the client. Idempotent."""
        if not self._loop.is_closed():
            self._run(self._panel.close())

    # -- the loop's thread -----------------------------------------------------------------------------

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def _ask(self, look: Callable[[], T]) -> T:
        async def looked() -> T:
            return look()

        return self._run(looked())

    def _safely(self, unsubscribe: Unsubscribe) -> Unsubscribe:
        def done() -> None:
            self._loop.call_soon_threadsafe(unsubscribe)

        return done


@contextlib.contextmanager
def connect(
    url: str,
    *,
    panel: str,
    token: Token = None,
    topics: list[str] | tuple[str, ...] | None = None,
    timeout: float | None = 30.0,
    options: Options | None = None,
) -> Iterator[Panel]:
    """A live panel, as ``panels_client.connect`` makes one. The thread ends with the context."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="panels-client", daemon=True)
    thread.start()

    async def enter() -> connection.Panel:
        return await opening.__aenter__()

    async def leave() -> None:
        await opening.__aexit__(None, None, None)

    opening = connection.connect(
        url, panel=panel, token=token, topics=topics, timeout=timeout, options=options
    )
    try:
        made = asyncio.run_coroutine_threadsafe(enter(), loop).result()
        try:
            yield Panel(made, loop)
        finally:
            asyncio.run_coroutine_threadsafe(leave(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    me = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not me]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
