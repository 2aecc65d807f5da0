"""The gateway's side of extensions: keeps the extension process running, and makes calls in it.

Tasks: one (``_serve``) starts the process, reads from it and starts it again; one timer is set for the
earliest deadline of a call. Heartbeat: a Ping every interval; a process that answers nothing for some
intervals, because it is stopped or an extension blocks its event loop, is killed. That is not the time-out of
a call, which ``calls`` keeps.

The process runs as the gateway's user and locks itself in (``confinement``), so that it holds no key and no
state, and cannot read any. What this does not protect against is said there.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from panels_gateway.extensions import config as configuration
from panels_gateway.extensions.calls import Answer, Calls, Instruction
from panels_gateway.extensions.child import COMMAND, Child
from panels_gateway.extensions.config import ExtensionsConfig
from panels_gateway.extensions.errors import ExtensionConfigError, FrameError
from panels_gateway.extensions.messages import (
    Call,
    CallId,
    FromExtensions,
    MethodInfo,
    Ping,
    Pong,
    Ready,
    Returned,
)
from panels_shared.restart import RestartPolicy, Restarts

logger = logging.getLogger("panels.extensions")

#: A handler that can crash an extension must not end all extensions, nor keep them starting without a pause.
RESTART: Final = RestartPolicy(
    initial_s=0.1, maximum_s=10.0, stable_after_s=5.0, restarts_per_minute=30, prompt=False
)
#: The exit code of a process whose configuration cannot be used; it is not started again.
EXIT_CONFIG: Final = 78


class ClientState(str, Enum):
    """NEW → STARTING ⇄ READY; STARTING → FAILED when the configuration cannot be used; any → STOPPED."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """One Ping every ``interval_s``; the process is killed after ``misses`` of them
    without a word in between.
    """

    interval_s: float = 1.0
    misses: int = 5


class ExtensionClient:
    """Makes calls of extensions. Everything happens in the event loop that ``start`` runs in.

    ``on_returned`` gets exactly one ``Returned`` for each call, while the client runs, from the event loop
    and possibly before ``call`` returns; it must not block, and what it raises is logged. ``calls`` starts
    empty. ``command``, with the socket's number behind it, starts the process. ``confinement`` names what
    locks the process in, "" before the first was ready.
    """

    def __init__(
        self,
        config: ExtensionsConfig,
        on_returned: Callable[[Returned], None],
        *,
        calls: Calls | None = None,
        policy: RestartPolicy | None = None,
        heartbeat: Heartbeat | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.confinement = ""
        self._config = config
        self._on_returned = on_returned
        self._calls = calls or Calls()
        self._restarts = Restarts(policy or RESTART)
        self._heartbeat = heartbeat or Heartbeat()
        self._command = command
        self._child: Child | None = None
        self._unanswered = 0
        self._instructions: deque[Instruction] = deque()
        self._performing = False
        self._state = ClientState.NEW
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> ClientState:
        """Where the process stands."""
        return self._state

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._child.pid if self._child else None

    @property
    def methods(self) -> Sequence[MethodInfo]:
        """What the process offers; empty while it is not ready."""
        return self._calls.methods

    @property
    def open_calls(self) -> int:
        """Calls that have not been answered."""
        return self._calls.running + self._calls.waiting

    def repeatable(self, extension: str, method: str) -> bool | None:
        """Whether a call that may have been made can be made again; None while there is no such method."""
        for info in self._calls.methods:
            if (info.extension, info.method) == (extension, method):
                return info.repeatable
        return None

    async def start(self) -> None:
        """Starts the process and waits until it is ready.

        Raises ``ExtensionConfigError`` when it can never be.
        """
        if self._state is not ClientState.NEW:
            raise RuntimeError(f"expected a new client, got one that is {self._state.value}")
        self._set(ClientState.STARTING)
        self._task = asyncio.create_task(self._serve(), name="extensions")
        self._task.add_done_callback(self._served)
        if await self._left(ClientState.STARTING) is ClientState.FAILED:
            raise ExtensionConfigError("the extension process refused its configuration; its log says why")

    def call(self, call: Call) -> None:
        """Makes a call, now or when there is a slot.

        Raises ``DuplicateCallError``; all else comes as an answer.
        """
        instructions = self._calls.open(call, self._now_s())
        if self._state in (ClientState.FAILED, ClientState.STOPPED):
            instructions += self._calls.give_up()
        self._perform(instructions)

    def cancel(self, call_id: CallId) -> None:
        """Stops a call, which is then answered as cancelled. Nothing happens if it is not open."""
        self._perform(self._calls.cancel(call_id, self._now_s()))

    def restart(self) -> None:
        """Kills the process; calls that run are answered as lost, and a new one is started."""
        if self._child:
            self._child.kill()

    async def stop(self) -> None:
        """Ends the process and answers nothing more. Can be called twice.

        What is open stays so in the kernel's journal, and the kernel decides after the next start.
        """
        self._set(ClientState.STOPPED)
        self._set_timer()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _left(self, state: ClientState) -> ClientState:
        """Waits while the state is ``state``; what it then is."""
        while self._state is state:
            self._changed.clear()
            await self._changed.wait()
        return self._state

    async def _serve(self) -> None:
        config = configuration.encode(self._config)
        loop = asyncio.get_running_loop()
        while True:
            started_s = loop.time()
            code = await self._live(config)
            self._perform(self._calls.lost())
            if code == EXIT_CONFIG:
                self._set(ClientState.FAILED)
                self._perform(self._calls.give_up())
                return
            self._set(ClientState.STARTING)
            now_s = loop.time()
            next_s = self._restarts.next_start_s(now_s, lived_s=now_s - started_s, chance=random.random())
            logger.warning(
                "the extension process ended (%s); the next one starts in %.1f s", code, next_s - now_s
            )
            await asyncio.sleep(next_s - now_s)

    def _served(self, task: asyncio.Task[None]) -> None:
        # a defect of ours must not leave whoever waits for the start, or for an answer, waiting
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the extension process is given up", exc_info=error)
            self._set(ClientState.FAILED)
            self._perform(self._calls.give_up())

    async def _live(self, config: bytes) -> int | None:
        """One process from start to end. Its exit code, None if it could not be started."""
        try:
            self._child = child = await Child.start(config, command=self._command)
        except OSError as exc:
            logger.error("the extension process cannot be started: %s", exc)
            return None
        grace_s = 0.0
        try:
            await self._converse(child)
            # it closed the socket of itself, and may be about to end with a code that says why
            grace_s = 1.0
        except FrameError as exc:
            logger.error("the extension process is not understood: %s", exc)
        except TimeoutError:
            logger.error("the extension process does not get ready")
        except asyncio.CancelledError:
            grace_s = self._config.startup_s
            raise
        finally:
            self._child = None
            code = await child.end(grace_s=grace_s)
        return code

    async def _converse(self, child: Child) -> None:
        """Until the process closes its socket.

        Raises ``FrameError``, and ``TimeoutError`` when it gets not ready.
        """
        self._unanswered = 0
        beat: asyncio.Task[None] | None = None
        try:
            # until it is ready, importing and starting extensions may keep its event loop from turning
            async with asyncio.timeout(self._config.startup_s + 1.0) as limit:
                while (messages := await child.receive()) is not None:
                    self._unanswered = 0
                    if beat is None and any(isinstance(message, Ready) for message in messages):
                        limit.reschedule(None)
                        beat = asyncio.create_task(self._beat(child))
                    for message in messages:
                        self._receive(message)
        finally:
            if beat:
                beat.cancel()

    async def _beat(self, child: Child) -> None:
        # counts unanswered pings and not seconds, so that a gateway that stood still does not blame the
        # process
        while self._unanswered < self._heartbeat.misses:
            self._unanswered += 1
            child.send(Ping())
            await asyncio.sleep(self._heartbeat.interval_s)
        logger.error("the extension process does not answer; it is killed")
        child.kill()

    def _receive(self, message: FromExtensions) -> None:
        match message:
            case Ready(methods=methods, confinement=confinement):
                self.confinement = confinement
                level = logging.WARNING if "missing" in confinement else logging.INFO
                logger.log(level, "the extension process is ready; it is confined by %s", confinement)
                self._set(ClientState.READY)
                self._perform(self._calls.ready(methods, self._now_s()))
            case Returned():
                self._perform(self._calls.returned(message, self._now_s()))
            case Pong():
                pass

    def _perform(self, instructions: Iterable[Instruction]) -> None:
        self._instructions.extend(instructions)
        if self._performing:
            return  # the kernel calls from ``on_returned``: what came first is done first
        self._performing = True
        while self._instructions:
            instruction = self._instructions.popleft()
            if isinstance(instruction, Answer):
                self._answer(instruction.returned)
            elif self._child:
                self._child.send(instruction.message)
        self._performing = False
        self._set_timer()

    def _answer(self, returned: Returned) -> None:
        if self._state is ClientState.STOPPED:
            return
        try:
            self._on_returned(returned)
        except Exception:
            logger.exception("the answer to call %s could not be handed over", returned.id)

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        next_s = self._calls.next_s
        if next_s is not None and self._state is not ClientState.STOPPED:
            self._timer = asyncio.get_running_loop().call_at(next_s, self._tick)

    def _tick(self) -> None:
        self._perform(self._calls.tick(self._now_s()))

    def _set(self, state: ClientState) -> None:
        if self._state is not ClientState.STOPPED:
            self._state = state
        self._changed.set()

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
