"""How panels are made, replaced, reverted, forked and deleted. Each is recorded in the turn that does it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from panels_gateway.journal.journal import Journal
from panels_gateway.journal.records import NEVER, Created, Defined, Deleted, Fired
from panels_gateway.kernel.answering import Answering
from panels_gateway.kernel.commits import Commits
from panels_gateway.kernel.history import Histories
from panels_gateway.kernel.intake import Intake
from panels_gateway.kernel.preparer import Preparer
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.suspensions import Suspensions
from panels_gateway.kernel.timers import Timers
from panels_gateway.kernel.turn import Turn
from panels_gateway.panels import stored
from panels_gateway.panels.definition import Cron, Interval, PanelDefinition
from panels_gateway.panels.panel import Panel
from panels_gateway.panels.trigger import Refused, Trigger
from panels_shared.errors import CloseCode, Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal

#: Bytes of randomness in a panel's epoch: two panels of one id never share one.
EPOCH_BYTES: Final = 6


class Watcher(Protocol):
    """A client of a panel, as far as the panel's end concerns it."""

    @property
    def panel(self) -> Panel:
        """What it watches."""
        ...

    @property
    def principal(self) -> Principal:
        """Who it is."""
        ...

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes it behind everything that it was sent."""
        ...

    def dismiss(self, reason: str) -> None:
        """Its token holds no more: does nothing for it any more, and closes it."""
        ...


class Making:
    """See the module's docstring. ``panels`` counts the panels there are, in memory or not; ``maximum``
    bounds them.
    """

    def __init__(
        self,
        residents: Residents,
        journal: Journal,
        turn: Turn,
        commits: Commits,
        intake: Intake,
        answering: Answering,
        preparer: Preparer,
        histories: Histories,
        suspensions: Suspensions,
        timers: Timers,
        *,
        maximum: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self.panels = journal.panels
        self.maximum = maximum
        self.watchers: dict[Watcher, None] = {}
        self._next_number = journal.last_panel + 1
        self._residents = residents
        self._turn = turn
        self._commits = commits
        self._intake = intake
        self._answering = answering
        self._preparer = preparer
        self._histories = histories
        self._suspensions = suspensions
        self._timers = timers
        self._wall_clock = wall_clock
        self._reserved: set[str] = set()

    async def create(self, definition: PanelDefinition, *, subject: str = "") -> Resident:
        """Makes a panel once all its handlers are compiled, in the turn of ``subject``.

        Raises ``RequestError``: PANEL_EXISTS, TOO_MANY_PANELS, INVALID_HANDLER, UNAVAILABLE, QUOTA_EXCEEDED,
        OVERLOADED (the journal).
        """
        self._reserve(definition.id)
        try:
            if await self._residents.open(definition.id) is not None:
                raise _exists(definition.id)
            await self._preparer.prepare(definition, subject=subject)
        finally:
            self._reserved.discard(definition.id)
        return self._make(definition, dict(definition.initial_state or {}))

    async def fork(self, source: Resident, panel_id: str, seq: int | None) -> Resident:
        """Makes a panel with the definition of ``source`` and its state at version ``seq``, None for now. Its
        history begins anew, at version 0.

        Raises ``RequestError``: PANEL_EXISTS, TOO_MANY_PANELS, HISTORY_GONE, INVALID_REQUEST (a version yet
        to come), OVERLOADED (the journal).
        """
        self._reserve(panel_id)
        try:
            if await self._residents.open(panel_id) is not None:
                raise _exists(panel_id)
            state = await self._histories.state_at(source, source.panel.seq if seq is None else seq)
            self._still_here(source)
        finally:
            self._reserved.discard(panel_id)
        old = source.panel.definition
        definition = PanelDefinition(
            id=panel_id,
            kind=old.kind,
            title=old.title,
            tools=old.tools,
            capabilities=old.capabilities,
            metadata=old.metadata,
            quota=old.quota,
            pool=old.pool,
            presence=old.presence,
            modules=old.modules,
        )
        return self._make(definition, dict(state))

    def _reserve(self, panel_id: str) -> None:
        self._intake.require_room()
        if self._residents.get(panel_id) is not None or panel_id in self._reserved:
            raise _exists(panel_id)
        if self.panels + len(self._reserved) >= self.maximum:
            raise RequestError(
                Code.TOO_MANY_PANELS,
                f"the gateway holds its maximum of {self.maximum} panels; delete one first",
                {"retryAfterMs": 1_000},
            )
        self._reserved.add(panel_id)

    def _make(self, definition: PanelDefinition, state: dict[str, bytes]) -> Resident:
        residents, turn = self._residents, self._turn
        turn.divide()
        epoch = secrets.token_urlsafe(EPOCH_BYTES)
        panel = Panel(
            key=residents.next_key(),
            number=self._next_number,
            id=definition.id,
            definition=definition,
            tools=residents.tools(definition),
            created_ms=int(self._wall_clock() * 1000),
            limits=residents.limits.state,
            state=state,
            epoch=residents.epoch(epoch),
        )
        self._next_number += 1
        self.panels += 1
        digests = self._record_sources(definition)
        created = Created(
            panel.number,
            panel.id,
            epoch,
            panel.created_ms,
            stored.encode(definition),
            dict(state),
            digests=digests,
        )
        position = turn.record(created)
        resident = residents.enter(panel)
        residents.recorded(resident, created, position)
        self._begin_timers(resident)
        turn.request_seal()
        return resident

    async def replace(
        self, resident: Resident, definition: PanelDefinition, principal: Principal
    ) -> Resident:
        """Gives the panel this definition: its tools are replaced, and its state too where the definition has
        an ``initialState`` (as one version, broadcast as a PATCH). Watchers stay. Triggers not yet run are
        run by the new tools.

        Raises ``RequestError``: PANEL_NOT_FOUND, INVALID_HANDLER, UNAVAILABLE, QUOTA_EXCEEDED, OVERLOADED
        (the journal).
        """
        panel = resident.panel
        self._intake.require_room()
        await self._preparer.prepare(definition, subject=principal.subject or "")
        self._still_here(resident)  # it may have been deleted while the handlers were compiled
        self._turn.divide()
        unanswered = self._residents.detach(panel)
        before, panel.definition = panel.definition, definition
        panel.tools = self._residents.tools(definition)
        self._residents.attach(panel)
        digests = self._record_sources(definition)
        at_ms = int(self._wall_clock() * 1000)
        defined = Defined(panel.number, at_ms, stored.encode(definition), digests)
        self._residents.recorded(resident, defined, self._turn.record(defined))
        self._begin_timers(resident, before)
        if definition.initial_state is not None:
            self._commits.change(
                resident, dict(definition.initial_state), cause="replace", subject=principal.subject
            )
        self._suspensions.replaced(resident)
        self._run_again(unanswered, resident)
        self._turn.request_seal()
        return resident

    def _begin_timers(self, resident: Resident, before: PanelDefinition | None = None) -> None:
        """Tools that run at times begin to be due now, those that ran at the same times in ``before`` go
        on.
        """
        now_ms = int(self._wall_clock() * 1000)
        known = {tool.name: tool.trigger for tool in before.tools} if before is not None else {}
        for tool in resident.panel.definition.tools:
            if isinstance(tool.trigger, Interval | Cron) and known.get(tool.name) != tool.trigger:
                resident.fired[tool.name] = now_ms
                resident.launched.pop(tool.name, None)
                self._record_fired(resident, tool.name, now_ms)
        timed = {
            tool.name for tool in resident.panel.definition.tools if isinstance(tool.trigger, Interval | Cron)
        }
        for name in resident.fired.keys() - timed:
            del resident.fired[name]
            resident.launched.pop(name, None)
            self._record_fired(resident, name, NEVER)
        self._timers.attach(resident)

    def _record_fired(self, resident: Resident, tool: str, due_ms: int) -> None:
        record = Fired(resident.panel.number, tool, due_ms)
        self._residents.recorded(resident, record, self._turn.record(record))

    def _record_sources(self, definition: PanelDefinition) -> tuple[bytes, ...]:
        sources = stored.sources(definition)
        for source in sources:
            self._turn.record(source)
        return tuple(source.digest for source in sources)

    def _run_again(self, triggers: list[Trigger], resident: Resident) -> None:
        gone: list[Trigger] = []
        for trigger in triggers:
            if trigger.resume is not None:
                self._suspensions.take_back(trigger, resident)
                continue
            tool = trigger.panel.tools.get(trigger.tool.name)
            if tool is None:
                gone.append(trigger)
            else:
                self._intake.resubmit(trigger.with_tool(tool))
        # last: a client that is answered sends its next trigger, which must not overtake what it sent before
        for trigger in gone:
            message = f"the panel was replaced and has no tool {trigger.tool.name!r}"
            self._answering.refuse(trigger, Refused(Code.TOOL_NOT_FOUND, message))

    async def revert(self, resident: Resident, seq: int, principal: Principal) -> int:
        """Makes the state of version ``seq`` the panel's state, as a new commit; the version that it made.

        Raises ``RequestError``: PANEL_NOT_FOUND, HISTORY_GONE, INVALID_REQUEST (a version yet to come),
        OVERLOADED (the journal).
        """
        self._intake.require_room()
        state = await self._histories.state_at(resident, seq)
        self._still_here(resident)
        self._turn.divide()
        made = self._commits.change(resident, dict(state), cause="revert", subject=principal.subject)
        self._turn.request_seal()
        return made

    def delete(self, resident: Resident) -> None:
        """Removes the panel: what waits is answered PANEL_NOT_FOUND and its clients are closed with 4404.

        Raises ``RequestError``: PANEL_NOT_FOUND.
        """
        self._still_here(resident)
        panel = resident.panel
        resident.ending = True
        self._turn.divide()
        refused = Refused(Code.PANEL_NOT_FOUND, f"the panel {panel.id!r} was deleted")
        self._suspensions.drop(resident, refused)
        for trigger in self._residents.detach(panel):
            if trigger.resume is not None:
                self._suspensions.came_back(trigger)
            else:
                self._answering.refuse(trigger, refused)
        self._timers.detach(resident)
        # behind the end of its suspensions: nothing may be recorded of a panel that is deleted
        position = self._turn.record(Deleted(panel.number, int(self._wall_clock() * 1000)))
        self._residents.remove(resident)
        self._residents.deleted(resident, position)
        self.panels -= 1
        for watcher in [watcher for watcher in self.watchers if watcher.panel is panel]:
            watcher.close(CloseCode.PANEL_DELETED, "the panel was deleted")
        self._turn.request_seal()

    def _still_here(self, resident: Resident) -> None:
        if self._residents.of(resident.panel) is not resident:
            raise RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {resident.panel.id!r} any more")


def _exists(panel_id: str) -> RequestError:
    return RequestError(
        Code.PANEL_EXISTS, f"a panel {panel_id!r} exists; choose another id, or PUT to replace it"
    )
