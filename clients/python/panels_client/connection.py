"""The client of one panel: the shell around ``core.py``. It owns the sockets, the timer and the callbacks,
and no rule.

Everything runs on the event loop that ``connect`` was entered on. One task serves each flow; the flow that is
given up is cancelled and its socket is cut, so that nobody waits for a peer that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from weakref import WeakSet

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from panels_client import calls
from panels_client.calls import Call, Pending, Result
from panels_client.core import Core
from panels_client.errors import PanelsClientError, TooManyError
from panels_client.event_stream import EventStream
from panels_client.instructions import (
    Attended,
    Changed,
    Connect,
    Drop,
    FetchToken,
    Happened,
    Instruction,
    LogEntry,
    Moved,
    Noted,
    Notice,
    Noticed,
    Report,
    Send,
    Settle,
    Status,
)
from panels_client.messages import Event, Presence, Progress
from panels_client.options import Options

log = logging.getLogger(__name__)

Token = str | Callable[[], Awaitable[str]] | None
State = Mapping[str, Any]
Unsubscribe = Callable[[], None]
#: A key of the state, or a function of it.
Selector = str | Callable[[State], Any]
#: What a call is expected to change: values by key, ``DELETED`` for keys that go, or a function of the state
#: that is shown, which returns that.
Optimistic = Mapping[str, Any] | Callable[[State], Mapping[str, Any]]

#: The timer looks at the clock at least so often: a timer may stand still while the machine sleeps, and the
#: clock does not.
LOOK_S: Final = 5.0
#: Callbacks of each kind.
MAX_CALLBACKS: Final = 1_024


#: CLOCK_BOOTTIME counts the time during which the machine slept; Linux alone has it.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def _clock() -> float:
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class Panel:
    """A live panel. Made by ``connect``; all methods belong to its event loop."""

    def __init__(
        self, url: str, panel: str, *, token: Token, topics: tuple[str, ...] | None, options: Options
    ) -> None:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss") or not parts.netloc:
            raise ValueError(f"expected a URL such as ws://host:3001, got {url!r}")
        if token is not None and not callable(token):
            _check_token(token)
        self.options: Final = options
        self.log: Final[deque[LogEntry]] = deque(maxlen=options.log_entries)
        self._url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/panels/{quote(panel, safe='')}/ws"
        self._topics = topics
        self._provider = token if callable(token) else None
        self._core = Core(
            options,
            now=_clock(),
            random=random.random,
            token=token if isinstance(token, str) else None,
            renewable=self._provider is not None,
        )
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Future[Result]] = {}
        self._reports: dict[str, Callable[[Progress], object]] = {}
        self._todo: deque[Instruction] = deque()
        self._performing = False
        self._flows: dict[int, _Flow] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._live = asyncio.Event()
        self._on_state: dict[int, _Subscription] = {}
        self._on_event: dict[int, tuple[str, Callable[[Event], object]]] = {}
        self._on_notice: dict[int, Callable[[Notice], object]] = {}
        self._on_presence: dict[int, Callable[[Presence], object]] = {}
        self._on_status: dict[int, Callable[[Status], object]] = {}
        self._streams: WeakSet[EventStream] = WeakSet()  # one that nobody reads any longer just goes
        self._names = 0

    # -- what one can look at --------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The panel's state: live and read-only. Its values belong to the client: do not change them."""
        return self._core.replica.view.shown

    @property
    def status(self) -> Status:
        """``connecting``, ``live``, ``reconnecting`` or ``closed``."""
        return self._core.status

    @property
    def pending(self) -> tuple[Pending, ...]:
        """The calls that have no answer yet, in order."""
        return self._core.pending()

    @property
    def presence(self) -> Presence:
        """Who watches the panel: empty until that was heard, which takes the topic ``presence`` and a panel
        whose definition has it.
        """
        return self._core.presence

    @property
    def seq(self) -> int:
        """The version up to which everything was heard."""
        return self._core.replica.position

    # -- callbacks -------------------------------------------------------------------------------------

    def subscribe(self, selector: Selector, callback: Callable[[Any, Any], object]) -> Unsubscribe:
        """Calls ``callback(value, previous)`` whenever what ``selector`` selects has changed. A key that is
        not there selects None. What is returned ends it.
        """
        select = _by_key(selector) if isinstance(selector, str) else selector
        key = selector if isinstance(selector, str) else None
        return self._register(
            self._on_state, _Subscription(select, key, callback, select(self.state)), callback
        )

    def on(self, event_name: str, callback: Callable[[Event], object]) -> Unsubscribe:
        """Calls ``callback(event)`` for each event of this name; ``*`` stands for all names."""
        return self._register(self._on_event, (event_name, callback), callback)

    def on_notice(self, callback: Callable[[Notice], object]) -> Unsubscribe:
        """Calls ``callback(notice)`` after each reconnection: ``recovered``, ``resynced`` or ``lost``."""
        return self._register(self._on_notice, callback, callback)

    def on_presence(self, callback: Callable[[Presence], object]) -> Unsubscribe:
        """Calls ``callback(presence)`` whenever somebody has come or gone; see ``presence``."""
        return self._register(self._on_presence, callback, callback)

    def on_status(self, callback: Callable[[Status], object]) -> Unsubscribe:
        """Calls ``callback(status)`` whenever the status has changed."""
        return self._register(self._on_status, callback, callback)

    def events(self, event_name: str = "*", *, limit: int = 1_024) -> EventStream:
        """An iterator of the events of this name from now on (``async for``), until the client has ended.

        At most ``limit`` events wait to be read. If there are more, those that wait are given and then
        ``EventsLostError`` is raised.
        """
        if len(self._streams) >= MAX_CALLBACKS:
            raise TooManyError(f"expected at most {MAX_CALLBACKS} iterators of events")
        stream = EventStream(event_name, limit)
        if self.status == "closed":
            stream.end()
        self._streams.add(stream)
        return stream

    # -- calls -----------------------------------------------------------------------------------------

    async def call(
        self,
        tool: str,
        args: Any = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        optimistic: Optimistic | None = None,
        timeout: float | None = 60.0,  # noqa: ASYNC109 - the core counts it, across reconnections
        key: str | None = None,
        expected_seq: int | None = None,
    ) -> Result:
        """Runs a tool, once, however often the connection breaks; the answer.

        ``timeout`` is in seconds, None for none. ``key`` is the idempotency key, at random without one. With
        ``expected_seq``, such as ``seq``, it runs at that version of the panel only; ``CONFLICT`` otherwise.
        If the caller is cancelled the call is forgotten, and may run all the same.

        Raises ``CallError``, ``OutcomeUnknownError``, ``CallTimeoutError``, ``ClosedError``,
        ``TooManyError``, and ``ValueError`` or ``TypeError`` for arguments that cannot be sent.
        """
        name = secrets.token_hex(16) if key is None else key
        made = calls.trigger(
            name,
            tool,
            args,
            options=self.options,
            deadline=self._deadline(timeout),
            expected_seq=expected_seq,
        )
        expects = optimistic(self.state) if callable(optimistic) else optimistic
        return await self._settled(made, on_progress, None if expects is None else dict(expects))

    async def answer(
        self,
        suspension_id: str,
        value: Any,
        *,
        call: int | None = None,
        timeout: float | None = 60.0,  # noqa: ASYNC109
    ) -> None:
        """Answers a question of a handler that waits. Raises as ``call`` does. If an answer had to be sent
        twice, ``CONFLICT`` with ``ran`` None may mean that the first one counted.
        """
        name, deadline = secrets.token_hex(16), self._deadline(timeout)
        made = calls.answer(name, suspension_id, value, call=call, options=self.options, deadline=deadline)
        await self._settled(made, None, None)

    async def _settled(
        self, call: Call, report: Callable[[Progress], object] | None, expects: Mapping[str, Any] | None
    ) -> Result:
        instructions = self._core.call(call, _clock(), expects=expects)
        future: asyncio.Future[Result] = self._loop.create_future()
        self._waiting[call.key] = future
        if report is not None:
            self._reports[call.key] = report
        try:
            self._perform(instructions)
            return await future
        finally:
            self._waiting.pop(call.key, None)
            self._reports.pop(call.key, None)
            if not future.done() or future.cancelled():
                self._perform(self._core.forget(call.key, _clock()))

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else _clock() + timeout

    # -- the end ---------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Ends the client. Calls that wait raise ``ClosedError``. Idempotent."""
        self._perform(self._core.close(_clock()))
        me = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not me]
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)

    def start(self) -> None:
        """Begins the first attempt."""
        self._tick()

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._core.tick(_clock()))

    async def wait_live(self) -> None:
        """Returns once a connection is live. Raises ``ClosedError``."""
        await self._live.wait()
        if self._core.closed is not None:
            raise self._core.closed

    # -- what the core says ----------------------------------------------------------------------------

    def _perform(self, instructions: list[Instruction]) -> None:
        """Does it in order. What callbacks cause comes behind what is to be done already."""
        if self._performing:
            self._todo.extend(instructions)
            return
        self._performing = True
        todo, do = self._todo, self._do
        try:
            for instruction in instructions:
                do(instruction)
            while todo:
                do(todo.popleft())
        finally:
            self._performing = False
        self._set_timer()

    def _do(self, instruction: Instruction) -> None:
        match instruction:
            case Changed():  # the most frequent ones first
                self._tell_state(instruction.keys)
            case Happened():
                self._tell_event(instruction.event)
            case Send():
                if (flow := self._flows.get(instruction.flow)) is not None:
                    flow.outgoing.put_nowait(instruction.text)
            case Settle():
                future = self._waiting.get(instruction.key)
                if future is not None and not future.done():
                    _resolve(future, instruction.outcome)
            case Report():
                if (report := self._reports.get(instruction.key)) is not None:
                    self._guard(report, instruction.progress)
            case Attended():
                for watcher in list(self._on_presence.values()):
                    self._guard(watcher, instruction.presence)
            case Noticed():
                for each in list(self._on_notice.values()):
                    self._guard(each, instruction.notice)
            case Moved():
                self._moved(instruction.status)
            case Noted():
                self.log.append(instruction.entry)
                log.debug("%s: %s %s", self._url, instruction.entry.what, instruction.entry.detail)
            case Connect():
                flow = _Flow(instruction)
                self._flows[instruction.flow] = flow
                flow.task = self._spawn(self._serve(flow))
            case FetchToken():
                self._spawn(self._fetch(instruction.flow))
            case Drop():
                if (dropped := self._flows.pop(instruction.flow, None)) is not None:
                    dropped.drop()

    def _moved(self, status: Status) -> None:
        if status in ("live", "closed"):
            self._live.set()
        if status == "closed":
            for stream in list(self._streams):
                stream.end()
            for task in self._tasks:
                if task.get_name() == "panels-token":
                    task.cancel()
        for each in list(self._on_status.values()):
            self._guard(each, status)

    def _tell_state(self, keys: frozenset[str]) -> None:
        if not self._on_state:
            return
        for each in list(self._on_state.values()):
            if each.key is not None and each.key not in keys:
                continue
            try:
                value, before = each.select(self.state), each.value
                changed = value != before
            except Exception as exc:  # noqa: BLE001 - a selector is the application's code
                self._raised(exc)
                continue
            each.value = value
            if changed:
                self._guard(each.callback, value, before)

    def _tell_event(self, event: Event) -> None:
        for name, callback in list(self._on_event.values()):
            if name in ("*", event.name):
                self._guard(callback, event)
        for stream in list(self._streams):
            stream.put(event)

    def _guard(self, callback: Callable[..., object], *args: object) -> None:
        """A callback that raises harms nobody but itself."""
        try:
            callback(*args)
        except Exception as exc:  # noqa: BLE001 - it is the application's code
            self._raised(exc)

    def _raised(self, exc: Exception) -> None:
        log.error("a callback raised", exc_info=exc)
        self.log.append(LogEntry(_clock(), "callback raised", repr(exc)[:300]))

    def _set_timer(self) -> None:
        wakes_at = self._core.wakes_at()
        if self._timer is not None:
            # one that rings too early does no harm, and most messages only put off what is due
            if wakes_at is not None and self._rings_at <= wakes_at:
                return
            self._timer.cancel()
            self._timer = None
        if wakes_at is not None:
            now = _clock()
            wait_s = min(max(0.0, wakes_at - now), LOOK_S)
            self._rings_at = now + wait_s
            self._timer = self._loop.call_later(wait_s, self._tick)

    # -- I/O -------------------------------------------------------------------------------------------

    async def _fetch(self, flow: int) -> None:
        assert self._provider is not None
        task = asyncio.current_task()
        assert task is not None
        task.set_name("panels-token")
        try:
            # the core does not wait for longer either, and this is what ends a provider that hangs
            async with asyncio.timeout(self.options.token_timeout_s):
                text = await self._provider()
            _check_token(text)
        except Exception as exc:  # noqa: BLE001 - it is the application's code
            self._perform(self._core.token_failed(flow, repr(exc), _clock()))
        else:
            self._perform(self._core.token(flow, text, _clock()))

    async def _serve(self, flow: _Flow) -> None:
        number = flow.asked.flow
        try:
            instructions = await self._converse(flow)
        except InvalidStatus as exc:
            status, after = exc.response.status_code, exc.response.headers.get("Retry-After", "")
            body = (exc.response.body or b"")[:200].decode(errors="replace")
            seconds = float(after) if after.isdecimal() and len(after) < 10 else 0.0
            instructions = self._core.refused(number, status, body, _clock(), retry_after_s=seconds)
        except ConnectionClosed as exc:
            if exc.rcvd is None and exc.sent is not None:
                # this side ended it, because of what it was sent
                why = f"{exc.sent.code} {exc.sent.reason}"
                instructions = self._core.violated(number, why, _clock())
            else:
                code = None if exc.rcvd is None else exc.rcvd.code
                why = "the socket ended" if exc.rcvd is None else exc.rcvd.reason
                instructions = self._core.lost(number, code, why, _clock())
        except Exception as exc:  # noqa: BLE001 - whatever the library raises, this attempt has failed
            instructions = self._core.lost(number, None, repr(exc), _clock())
        finally:
            self._flows.pop(number, None)
        self._perform(instructions)

    async def _converse(self, flow: _Flow) -> list[Instruction]:
        asked = flow.asked
        async with open_socket(
            self._target(asked),
            additional_headers={} if asked.token is None else {"Authorization": f"Bearer {asked.token}"},
            open_timeout=self.options.connect_timeout_s,
            close_timeout=1.0,
            ping_interval=None,
            max_size=self.options.max_received_bytes,
            proxy=self.options.proxy,
        ) as socket:
            flow.socket = socket
            self._perform(self._core.opened(asked.flow, _clock()))
            writing = self._loop.create_task(_write(socket, flow.outgoing))
            try:
                while True:
                    frame = await socket.recv()
                    self._perform(self._core.heard(asked.flow, frame, _clock()))
            finally:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketException, OSError):
                    await writing

    def _target(self, asked: Connect) -> str:
        query = urlencode(asked.asks)
        if self._topics is not None:
            query += "&topics=" + ",".join(quote(topic, safe="") for topic in self._topics)
        return f"{self._url}?{query.lstrip('&')}" if query else self._url

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _register(self, where: dict[int, Any], what: object, callback: Callable[..., object]) -> Unsubscribe:
        if inspect.iscoroutinefunction(callback):
            raise TypeError("expected a plain function as a callback, got a coroutine function")
        if len(where) >= MAX_CALLBACKS:
            raise TooManyError(f"expected at most {MAX_CALLBACKS} callbacks of a kind")
        self._names += 1
        name = self._names
        where[name] = what

        def unsubscribe() -> None:
            where.pop(name, None)

        return unsubscribe


class _Subscription:
    __slots__ = ("callback", "key", "select", "value")

    def __init__(
        self,
        select: Callable[[State], Any],
        key: str | None,
        callback: Callable[[Any, Any], object],
        value: Any,
    ) -> None:
        self.select, self.key, self.callback, self.value = select, key, callback, value


class _Flow:
    """One attempt. What is to be sent waits in ``outgoing``, which the core bounds: calls, PING, REFRESH."""

    __slots__ = ("asked", "outgoing", "socket", "task")

    def __init__(self, asked: Connect) -> None:
        self.asked = asked
        self.outgoing: asyncio.Queue[str] = asyncio.Queue()
        self.socket: ClientConnection | None = None
        self.task: asyncio.Task[None] | None = None

    def drop(self) -> None:
        """Ends it. A closing handshake would wait for a peer that may be gone."""
        if self.socket is not None:
            self.socket.transport.abort()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


def _check_token(token: object) -> None:
    """Raises ``ValueError`` for what no header can hold; the token itself is not told."""
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"expected a token of printable ASCII characters, got another {type(token).__name__}"
        )


async def _write(socket: ClientConnection, outgoing: asyncio.Queue[str]) -> None:
    # a socket that has ended is noticed by who reads
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.send(await outgoing.get())


def _resolve(future: asyncio.Future[Result], outcome: Result | PanelsClientError) -> None:
    if isinstance(outcome, Result):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _by_key(key: str) -> Callable[[State], Any]:
    return lambda state: state.get(key)


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    panel: str,
    token: Token = None,
    topics: list[str] | tuple[str, ...] | None = None,
    timeout: float | None = 30.0,  # noqa: ASYNC109
    options: Options | None = None,
) -> AsyncIterator[Panel]:
    """A live panel, from its first CONNECTED until the context is left.

    ``url`` is the gateway's, such as ``ws://127.0.0.1:3001``. ``token`` is a string, or an async callable
    that is asked at the start, when a token expires and when one was refused. ``topics`` are those to hear
    instead of ``state`` and ``events``. ``timeout`` bounds the wait for the first CONNECTED, in seconds.

    Raises ``ClosedError`` where the gateway refuses, ``TimeoutError``, ``ValueError``.
    """
    made = Panel(
        url,
        panel,
        token=token,
        topics=None if topics is None else tuple(topics),
        options=options or Options(),
    )
    made.start()
    try:
        async with asyncio.timeout(timeout):
            await made.wait_live()
        yield made
    finally:
        await made.close()
