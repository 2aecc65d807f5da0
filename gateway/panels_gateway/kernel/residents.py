"""The panels that are in memory, each with its room, its lane and what the journal cannot give back yet.

    journal ──open──▶ resident ──put_away──▶ journal
    making ──enter──▶ resident ──remove───▶ deleted

A gateway may hold many more panels than fit into memory. One that is asked for is loaded from the journal,
and those that nobody has used for the longest time are put away when the states in memory pass
``ResidentLimits.bytes``. A panel stays while anything of it is under way: a client that watches, a trigger
that is queued or runs, a commit that is not folded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from panels_gateway.broadcast.hub import Hub, Room
from panels_gateway.broadcast.presence import Presence
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.journal.journal import Journal, JournalError, StoredPanel, Waiting
from panels_gateway.journal.records import (
    Changed,
    Created,
    Defined,
    Fired,
    Key,
    Parked,
    Ran,
    Record,
    Returned,
    Unparked,
)
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.images import Image
from panels_gateway.kernel.listeners import Listeners
from panels_gateway.kernel.ordered import Ordered
from panels_gateway.kernel.suspension import Suspension
from panels_gateway.observe.handler_log import HandlerLog
from panels_gateway.panels import stored
from panels_gateway.panels.answers import AnswerLimits, Answers
from panels_gateway.panels.breaker import Breaker
from panels_gateway.panels.definition import PanelDefinition, ToolDefinition
from panels_gateway.panels.panel import Panel, StateLimits
from panels_gateway.panels.trigger import Trigger
from panels_shared.errors import Code, RequestError
from panels_shared.limits import MIB
from panels_shared.messages import PanelKey, Tool, ToolKey

_log = logging.getLogger("panels.gateway.residents")

#: What a resident counts beside its state, in bytes: objects of its own, its lane, its room.
RESIDENT_BYTES: Final = 4_096
#: What an answered idempotency key counts, in bytes, its answer not included.
KEY_BYTES: Final = 512
#: Panels put away in one go, so that the loop is not held up.
PUT_AWAY_AT_ONCE: Final = 16
#: Panels whose stored rows are damaged that are remembered; a longer list says nothing more.
MAX_DAMAGED: Final = 1_000
#: Idempotency keys that are taken over in one step of the loop when a panel is loaded.
KEYS_AT_ONCE: Final = 2_048
#: Entries that are let go in one step of the loop once they are folded.
FOLDED_AT_ONCE: Final = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentLimits:
    """Bounds of what is in memory. ``bytes`` of all states is a goal: a panel in use stays even above it.

    ``state`` bounds one panel's state and ``answers`` what it remembers of idempotency keys.
    """

    bytes: int = 512 * MIB
    state: StateLimits = field(default_factory=StateLimits)
    answers: AnswerLimits = field(default_factory=AnswerLimits)


class Resident:
    """One panel in memory.

    ``tail`` holds the records of triggers and changes that the journal cannot give back yet, the oldest
    first, and ``unfolded`` counts all records of that kind, definitions too. ``waiting`` has its suspensions.
    ``listeners`` are its tools that run by themselves, None for none, ``fired`` their last due times,
    ``launched`` those of the runs that were begun here, ``next_runs`` the next ones, and ``firing`` how many
    runs of each have not been answered. ``holder`` is the suspension of an exclusive tool, and ``held`` the
    triggers that stand behind it. ``holds`` counts those who look at the panel and will await something
    before they are done with it: each adds one, without awaiting since it got the resident, and takes it off
    again. ``breakers`` are those of tools that failed lately, by name and caller. ``image`` is its state as
    somebody was sent it last, None for none, and ``imaging`` is set once the next one has been encoded, None
    while none is. ``presence`` is who watches it, None while nobody does. ``ending`` says that it is being
    deleted: what is submitted from then on is refused.
    """

    __slots__ = (
        "answers",
        "breakers",
        "ending",
        "fired",
        "firing",
        "held",
        "holder",
        "holds",
        "image",
        "imaging",
        "launched",
        "listeners",
        "next_runs",
        "panel",
        "presence",
        "room",
        "tail",
        "unfolded",
        "waiting",
        "weight",
    )

    def __init__(self, panel: Panel, room: Room, answers: Answers) -> None:
        self.panel = panel
        self.room = room
        self.answers = answers
        self.tail: deque[Ran | Changed] = deque()
        self.unfolded = 0
        self.waiting: dict[int, Suspension] = {}
        self.holder: Suspension | None = None
        self.breakers: dict[str, dict[str | None, Breaker]] = {}
        self.held: deque[Trigger] = deque()
        self.listeners: Listeners | None = None
        self.fired: dict[str, int] = {}
        self.launched: dict[str, int] = {}
        self.firing: dict[str, int] = {}
        self.next_runs: dict[str, int] = {}
        self.holds = 0
        self.image: Image | None = None
        self.imaging: asyncio.Event | None = None
        self.presence: Presence | None = None
        self.ending = False
        self.weight = 0

    @property
    def in_use(self) -> bool:
        """Whether anything but its lane keeps it in memory."""
        return (
            self.holds > 0
            or self.unfolded > 0
            or bool(self.waiting)
            or bool(self.next_runs)
            or len(self.room) > 0
            or self.answers.running > 0
        )


class _Unfolded(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A record that is not folded, None for a panel's deletion. Nothing that a resident holds points back
    here.
    """

    position: int
    resident: Resident
    record: Record | None


class Residents:
    """See the module's docstring. ``get`` and ``of`` are O(1); iteration is in the order of last use, the
    oldest first.
    """

    def __init__(
        self,
        hub: Hub,
        dispatcher: Dispatcher,
        journal: Journal,
        counters: Counters,
        handler_log: HandlerLog,
        limits: ResidentLimits,
    ) -> None:
        self._handler_log = handler_log
        self.limits = limits
        self._hub = hub
        self._dispatcher = dispatcher
        self._journal = journal
        self._counters = counters
        self._by_id: OrderedDict[str, Resident] = OrderedDict()
        self._by_key: dict[PanelKey, Resident] = {}
        self._loading: dict[str, asyncio.Task[Resident | None]] = {}
        self._unfolded: deque[_Unfolded] = deque()
        self._folded = 0
        self._folding: asyncio.Handle | None = None
        #: Panels whose making is not folded, by id: the journal does not list them yet.
        self.fresh: Ordered[Resident] = Ordered()
        #: Panels whose deletion is not folded: the journal would still give them back. By number, since
        #: several of the same id may have come and gone.
        self._deleted: set[int] = set()
        self._deletions_forgotten = 0
        #: Called with a panel that was loaded, and its suspensions.
        self.on_loaded: Callable[[Resident, list[Waiting]], None] = _ignore
        #: Ids of panels that were asked for and whose stored rows cannot be read.
        self.damaged: set[str] = set()
        self._next_key = 0
        self._next_tool = 0
        self._bytes = 0
        journal.on_folded = self.folded

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._by_id.values())

    @property
    def state_bytes(self) -> int:
        """About how much memory the states in memory take, kept up to date as panels come, go and are
        used.
        """
        return self._bytes

    def get(self, panel_id: str) -> Resident | None:
        """The panel of that id where it is in memory, now the last used."""
        resident = self._by_id.get(panel_id)
        if resident is not None:
            self._by_id.move_to_end(panel_id)
        return resident

    def peek(self, panel_id: str) -> Resident | None:
        """The panel of that id where it is in memory; looking does not count as using it."""
        return self._by_id.get(panel_id)

    def of(self, panel: Panel) -> Resident | None:
        """The panel's resident; None where it was deleted or put away."""
        return self._by_key.get(panel.key)

    # -- coming --------------------------------------------------------------------------------------

    async def open(self, panel_id: str) -> Resident | None:
        """The panel of that id, loaded from the journal where it must be; None where there is none.

        It is in memory when this returns. Who awaits anything before being done with it adds to its
        ``holds``.

        Raises ``RequestError`` INTERNAL where what is stored cannot be read.
        """
        # what was loaded may be put away again before everybody who waited for it goes on
        while (resident := self.get(panel_id)) is None:
            task = self._loading.get(panel_id)
            if task is None:
                task = self._loading[panel_id] = asyncio.create_task(self._load(panel_id))
            # one caller that gives up must not take the panel from the others
            if await asyncio.shield(task) is None:
                return None
        return resident

    async def _load(self, panel_id: str) -> Resident | None:
        try:
            return await self._read(panel_id)
        finally:
            del self._loading[panel_id]

    async def _read(self, panel_id: str) -> Resident | None:
        while True:
            forgotten = self._deletions_forgotten
            try:
                found = await self._journal.load(panel_id)
            except JournalError as exc:
                raise self._unreadable(panel_id, exc) from None
            answers = await self._answers(found.answers if found is not None else [])
            # a deletion that was folded meanwhile is remembered no more, and may not be in what was read
            if forgotten == self._deletions_forgotten:
                break
        resident = self.get(panel_id)  # made meanwhile
        if resident is not None or found is None or self.is_deleted(found.panel):
            return resident
        try:
            panel = self._restore(found)
        except (msgspec.DecodeError, KeyError, ValueError) as exc:
            raise self._unreadable(panel_id, exc) from None
        self.damaged.discard(panel_id)
        resident = self.enter(panel, answers)
        resident.fired.update(found.fired)
        self.on_loaded(resident, found.waiting)
        self._counters.loaded += 1
        return resident

    def _unreadable(self, panel_id: str, error: Exception) -> RequestError:
        """What is said to whoever asks for a panel whose stored rows are damaged. The log is told why."""
        if len(self.damaged) < MAX_DAMAGED:
            self.damaged.add(panel_id)
        _log.error("panel %r cannot be loaded from the journal: %s", panel_id, error)
        return RequestError(
            Code.INTERNAL, f"the panel {panel_id!r} is stored but cannot be read; the server's log says why"
        )

    async def _answers(self, keys: list[tuple[Key, int]]) -> Answers:
        """What the journal remembers of idempotency keys, taken over in steps."""
        answers = Answers(self.limits.answers)
        for first in range(0, len(keys), KEYS_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            answers.restore(keys[first : first + KEYS_AT_ONCE])
        return answers

    def _restore(self, found: StoredPanel) -> Panel:
        definition = stored.decode(found.id, found.definition, found.sources)
        return Panel(
            key=self.next_key(),
            number=found.panel,
            id=found.id,
            definition=definition,
            tools=self.tools(definition),
            created_ms=found.created_ms,
            limits=self.limits.state,
            state=found.state,
            seq=found.seq,
            epoch=self.epoch(found.epoch),
        )

    def next_key(self) -> PanelKey:
        """A number that no stay of any panel in memory has had."""
        self._next_key += 1
        return PanelKey(self._next_key)

    def epoch(self, base: str) -> str:
        """The epoch that clients see: another one whenever the journal may have lost something."""
        return f"{base}.{self._journal.incarnation}"

    def tools(self, definition: PanelDefinition) -> dict[str, Tool]:
        """The definition's tools as workers know them, by name, each under a number of its own."""
        return {tool.name: self._tool(tool) for tool in definition.tools}

    def _tool(self, tool: ToolDefinition) -> Tool:
        self._next_tool += 1
        limits = tool.limits
        return Tool(
            tool=ToolKey(self._next_tool),
            digest=tool.handler.digest,
            language=tool.handler.language,
            entry=tool.handler.entry,
            name=tool.name,
            limits=(
                limits.fuel,
                limits.deadline_ms,
                limits.memory_bytes,
                limits.host_calls,
                limits.output_bytes,
                limits.events,
                limits.log_bytes,
            ),
            capabilities=tool.capabilities,
        )

    def enter(self, panel: Panel, answers: Answers | None = None) -> Resident:
        """Takes in a panel whose id nobody here has: gives it a room and a lane."""
        resident = Resident(
            panel, Room(self._hub, panel.seq), Answers(self.limits.answers) if answers is None else answers
        )
        self._by_id[panel.id] = resident
        self._by_key[panel.key] = resident
        self._weigh(resident)
        self.attach(panel)
        resident.holds += 1  # whoever wants it gets it, however little there may be in memory
        self._put_away_spare()
        resident.holds -= 1
        return resident

    def attach(self, panel: Panel) -> None:
        """Begins to dispatch for the panel, with the tools that it has now."""
        handlers = [tool.handler for tool in panel.definition.tools]
        self._dispatcher.add_panel(panel, list(panel.tools.values()), handlers, label=panel.definition.label)

    # -- going ---------------------------------------------------------------------------------------

    def detach(self, panel: Panel) -> list[Trigger]:
        """Ends dispatching for the panel; its triggers that have not been answered, which are the caller's to
        answer.
        """
        return self._dispatcher.remove_panel(panel)

    def remove(self, resident: Resident) -> None:
        """Forgets a panel that was detached."""
        panel = resident.panel
        del self._by_id[panel.id]
        del self._by_key[panel.key]
        self._bytes -= resident.weight
        resident.weight = 0
        self._handler_log.forget(panel.key)

    def _put_away_spare(self) -> None:
        if self._bytes <= self.limits.bytes:
            return
        spare: list[Resident] = []
        for looked_at, resident in enumerate(self._by_id.values()):
            if len(spare) >= PUT_AWAY_AT_ONCE or looked_at >= 16 * PUT_AWAY_AT_ONCE:
                break
            if not resident.in_use and not self._dispatcher.busy(resident.panel):
                spare.append(resident)
        for resident in spare:
            if self._bytes <= self.limits.bytes:
                break
            self.detach(resident.panel)
            self.remove(resident)
            self._counters.put_away += 1

    def _weigh(self, resident: Resident) -> None:
        weight = RESIDENT_BYTES + resident.panel.state_bytes + KEY_BYTES * len(resident.answers)
        self._bytes += weight - resident.weight
        resident.weight = weight

    # -- the journal ---------------------------------------------------------------------------------

    def recorded(
        self,
        resident: Resident,
        record: Ran | Changed | Created | Defined | Parked | Unparked | Returned | Fired,
        position: int,
    ) -> None:
        """``record``, which is the panel's, is in the batch at ``position``: the panel stays in memory until
        that is folded.
        """
        resident.unfolded += 1
        if type(record) is Ran or type(record) is Changed:
            resident.tail.append(record)
        elif type(record) is Created:
            self.fresh.put(record.id, resident)
        self._unfolded.append(_Unfolded(position, resident, record))

    def deleted(self, resident: Resident, position: int) -> None:
        """The panel's deletion was recorded in the batch at ``position``."""
        self.fresh.discard(resident.panel.id)
        resident.unfolded += 1
        self._deleted.add(resident.panel.number)
        self._unfolded.append(_Unfolded(position, resident, None))

    def is_deleted(self, number: int) -> bool:
        """Whether what the journal says of the panel of this number is out of date: it was deleted."""
        return number in self._deleted

    def folded(self, position: int) -> None:
        """From the journal: it can give back everything up to ``position``.

        What is let go for that is let go in steps; until then, memory has what the journal has too.
        """
        self._folded = position
        if self._folding is None:
            self._let_go()

    def _let_go(self) -> None:
        self._folding = None
        unfolded, position = self._unfolded, self._folded
        touched: dict[Resident, None] = {}
        for _ in range(FOLDED_AT_ONCE):
            if not unfolded or unfolded[0].position > position:
                break
            entry = unfolded.popleft()
            resident, record = entry.resident, entry.record
            resident.unfolded -= 1
            if type(record) is Ran:
                resident.tail.popleft()
                if record.key is not None:
                    resident.answers.stored(record)
            elif type(record) is Changed:
                resident.tail.popleft()
            elif type(record) is Parked:
                if (suspension := resident.waiting.get(record.suspension)) is not None:
                    suspension.stored(record)
            elif type(record) is Created and self.fresh.get(record.id) is resident:
                self.fresh.discard(record.id)
            touched[resident] = None
        for resident in touched:
            panel = resident.panel
            if self._by_key.get(panel.key) is resident:
                self._weigh(resident)
            elif not resident.unfolded:
                self._deleted.discard(panel.number)
                self._deletions_forgotten += 1
        self._put_away_spare()
        if unfolded and unfolded[0].position <= position:
            self._folding = asyncio.get_running_loop().call_soon(self._let_go)


def _ignore(resident: Resident, waiting: list[Waiting]) -> None:
    return
