"""Panels that a handler keeps to itself: while one of an exclusive tool waits, everything else of its panel
stands behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from panels_gateway.dispatch.dispatcher import Dispatcher, OverloadedError
from panels_gateway.kernel.answering import Answering
from panels_gateway.kernel.residents import Resident
from panels_gateway.kernel.resuming import Resuming
from panels_gateway.kernel.suspension import Suspension
from panels_gateway.panels.trigger import Refused, Trigger
from panels_shared.errors import Code


class Exclusive:
    """See the module's docstring. ``Resident.holder`` is the handler, ``Resident.held`` what stands behind
    it, which counts in the dispatcher's bounds as if it were queued there.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        answering: Answering,
        resuming: Resuming,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._answering = answering
        self._resuming = resuming
        self._clock = clock
        #: the panels whose ``holder`` is set
        self._holding: dict[Resident, None] = {}

    def hold(self, suspension: Suspension, resident: Resident) -> None:
        """Keeps everything else of the panel waiting, where the handler's tool is exclusive."""
        if resident.holder is None and any(
            tool.exclusive and tool.name == suspension.record.tool for tool in resident.panel.definition.tools
        ):
            resident.holder = suspension
            self._holding[resident] = None
            withdrawn = self._dispatcher.withdraw(resident.panel)
            for trigger in withdrawn:
                if trigger.resume is None:
                    self._dispatcher.reserve(trigger)  # there is room: all have just been withdrawn
                    resident.held.append(trigger)
            for trigger in withdrawn:
                if trigger.resume is not None:
                    waiting = resident.waiting.get(trigger.resume.suspension)
                    self._resuming.take_back(waiting, trigger)

    def release(self, resident: Resident) -> None:
        """The handler is over: what stood behind it is run, by the tools that the panel has now."""
        resident.holder = None
        self._holding.pop(resident, None)
        held, resident.held = resident.held, deque()
        refused: list[tuple[Trigger, Refused]] = []
        for trigger in held:
            self._dispatcher.unreserve(trigger)
            tool = resident.panel.tools.get(trigger.tool.name)
            if tool is None:
                message = f"the panel was replaced and has no tool {trigger.tool.name!r}"
                refused.append((trigger, Refused(Code.TOOL_NOT_FOUND, message)))
            else:
                try:
                    self._dispatcher.offer(trigger.with_tool(tool), self._clock())
                except OverloadedError as exc:
                    details = {"retryAfterMs": exc.retry_after_ms, "scope": exc.scope}
                    message = f"the queue of the {exc.scope} is full; try again later"
                    refused.append((trigger, Refused(Code.OVERLOADED, message, details)))
        # last: a client that is answered sends its next trigger, which must not overtake what it sent before
        for trigger, why in refused:
            self._answering.refuse(trigger, why)
        for suspension in list(resident.waiting.values()):
            self._resuming.want(suspension)

    @property
    def count(self) -> int:
        """Triggers that stand behind handlers."""
        return sum(len(resident.held) for resident in self._holding)

    def refuse_held(self, refused: Refused, *, before_s: float) -> None:
        """Answers what stands behind handlers and was submitted before ``before_s``, in monotonic seconds."""
        for resident in list(self._holding):
            held = resident.held
            while held and held[0].submitted_s < before_s:
                trigger = held.popleft()
                self._dispatcher.unreserve(trigger)
                self._answering.refuse(trigger, refused)

    def abandon(self, resident: Resident) -> list[Trigger]:
        """The panel is deleted: what stood behind a handler, which is the caller's to answer."""
        held, resident.held = resident.held, deque()
        resident.holder = None
        self._holding.pop(resident, None)
        for trigger in held:
            self._dispatcher.unreserve(trigger)
        return list(held)
