"""How handlers go on with the answers that came: which of them, in which order, and how many at a time.

    want ──▶ ready, by deadline ──▶ image from memory or journal ──▶ dispatcher ──▶ came_back
                    └ at most MAX_RESUMING and MAX_RESUMING_BYTES ──────────────────────┘

Those that end the earliest go on first, so that after a restart, when many can, the oldest are not the last.
The first that waits is never overtaken by a smaller one. One whose image is larger than the bound in bytes
is resumed alone.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from itertools import count
from typing import Final, Protocol

import msgspec

from panels_gateway.dispatch.dispatcher import Dispatcher, OverloadedError
from panels_gateway.journal.journal import Journal, JournalError
from panels_gateway.kernel.residents import Residents
from panels_gateway.kernel.suspension import Suspension, is_sealed
from panels_gateway.kernel.turn import Turn
from panels_gateway.panels.trigger import Resumption, Trigger
from panels_shared.limits import MIB
from panels_shared.outcome import Reason

_log = logging.getLogger("panels.gateway.suspensions")

#: Handlers that are being resumed at a time, and the bytes of their images; the images of others need not be
#: in memory.
MAX_RESUMING: Final = 64
MAX_RESUMING_BYTES: Final = 32 * MIB
#: When a resumption that met a full queue is tried again, in seconds.
RETRY_S: Final = 0.1


class Fail(Protocol):
    """Ends a suspension whose handler cannot go on."""

    def __call__(self, suspension: Suspension, reason: Reason, message: str) -> None:
        """With this failure as the answer to its trigger."""


class Resuming:
    """See the module's docstring. ``key`` is what images were sealed with."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        residents: Residents,
        turn: Turn,
        journal: Journal,
        fail: Fail,
        *,
        key: bytes,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random_bits: Callable[[int], int],
    ) -> None:
        self._dispatcher = dispatcher
        self._residents = residents
        self._turn = turn
        self._journal = journal
        self._fail = fail
        self._key = key
        self._clock = clock
        self._wall_clock = wall_clock
        self._random_bits = random_bits
        self._ready: list[tuple[int, int, Suspension]] = []
        self._order = count()
        #: The bytes of each that is being resumed, by the numbers of panel and suspension.
        self._active: dict[tuple[int, int], int] = {}
        self._active_bytes = 0
        self._beginning = False
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> int:
        """Handlers that can go on and stand in the queue."""
        return len(self._ready)

    @property
    def active(self) -> int:
        """Handlers that are being resumed."""
        return len(self._active)

    def close(self) -> None:
        """The gateway stops: no handler goes on any more. The answers are recorded, so the next gateway has
        them go on.
        """
        self._closed = True

    def want(self, suspension: Suspension) -> None:
        """Has the handler go on with the answers that there are, unless it runs or is about to."""
        if self._closed:
            return
        if suspension.over or suspension.running or suspension.wanted or not suspension.answers:
            return
        resident = self._residents.of(suspension.origin.panel)
        if resident is None or resident.ending or resident.holder not in (None, suspension):
            return  # it is resumed when the panel is released
        suspension.wanted = True
        heapq.heappush(self._ready, (suspension.record.deadline_ms, next(self._order), suspension))
        self._begin_more()

    def came_back(self, trigger: Trigger) -> None:
        """A resumption has been run, or will not be: another one may begin. Called once for each that was
        offered.
        """
        assert trigger.resume is not None
        self._ended((trigger.panel.number, trigger.resume.suspension))

    def take_back(self, suspension: Suspension | None, trigger: Trigger) -> None:
        """A resumption was not run, because its panel's lane went away: the handler goes on waiting, and is
        resumed again. ``suspension`` is None where it is over.
        """
        if suspension is not None:
            suspension.undo()
        self.came_back(trigger)
        if suspension is not None:
            self.want(suspension)

    def _begin_more(self) -> None:
        if self._beginning:
            # the loop below sees what ends within it; nesting would be as deep as there are suspensions
            return
        self._beginning = True
        try:
            while self._ready and len(self._active) < MAX_RESUMING and not self._closed:
                _, _, suspension = self._ready[0]
                size = suspension.image_bytes
                if suspension.over:
                    heapq.heappop(self._ready)
                    continue
                if self._active and self._active_bytes + size > MAX_RESUMING_BYTES:
                    break
                heapq.heappop(self._ready)
                self._active[_name(suspension)] = size
                self._active_bytes += size
                self._begin(suspension)
        finally:
            self._beginning = False

    def _begin(self, suspension: Suspension) -> None:
        if suspension.record.image:
            self._offer(suspension, suspension.record.image)
        else:
            task = asyncio.create_task(self._read(suspension))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _ended(self, name: tuple[int, int]) -> None:
        self._active_bytes -= self._active.pop(name)
        self._begin_more()

    async def _read(self, suspension: Suspension) -> None:
        record = suspension.record
        try:
            found = await self._journal.waiting(record.panel, record.suspension)
        except JournalError as exc:
            _log.error("suspension %s cannot be read: %s", suspension.name, exc)
            found = None
        if suspension.over:
            self._ended(_name(suspension))
            return
        if found is None or not is_sealed(self._key, record, found.parked.image):
            if found is not None:
                _log.warning(
                    "the handler that waits as %s cannot go on: its image was not sealed with this "
                    "directory's seal.key",
                    suspension.name,
                )
            self._fail(
                suspension, Reason.RESUME_FAILED, "what the handler was when it began to wait is damaged"
            )
            self._ended(_name(suspension))
            return
        self._offer(suspension, found.parked.image)
        self._turn.request_seal()

    def _offer(self, suspension: Suspension, image: bytes) -> None:
        if suspension.over or self._closed:
            self._ended(_name(suspension))
            return
        origin = suspension.origin
        panel = origin.panel
        resident = self._residents.of(panel)
        if resident is None or resident.holder not in (None, suspension):
            # an exclusive handler has begun to wait meanwhile; its end resumes this one
            suspension.wanted = False
            self._ended(_name(suspension))
            return
        tool = panel.tools.get(suspension.record.tool)
        if tool is None or tool.digest != suspension.record.digest:
            self._fail(suspension, Reason.RESUME_FAILED, "the handler was replaced while it waited")
            self._ended(_name(suspension))
            return
        answers = tuple(suspension.answers[number] for number in sorted(suspension.answers))
        trigger = msgspec.structs.replace(
            origin,
            tool=tool,
            args=b"",
            now_ms=float(int(self._wall_clock() * 1000)),
            seed=self._random_bits(64),
            submitted_s=self._clock(),
            key=None,
            expected_seq=None,
            resume=Resumption(suspension.number, image, answers),
            trace=origin.trace.below(self._random_bits(64)) if origin.trace is not None else None,
        )
        try:
            self._dispatcher.offer(trigger, self._clock())
        except OverloadedError:
            loop = asyncio.get_running_loop()
            loop.call_later(RETRY_S, self._again, suspension, image)
            return
        suspension.wanted = False
        suspension.begin()

    def _again(self, suspension: Suspension, image: bytes) -> None:
        self._offer(suspension, image)
        self._turn.request_seal()


def _name(suspension: Suspension) -> tuple[int, int]:
    return suspension.record.panel, suspension.record.suspension
