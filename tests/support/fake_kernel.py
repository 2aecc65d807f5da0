"""A kernel without workers, for tests of the gateway's edges: panels are made at once,
triggers answered by a function.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from panels_gateway.broadcast.hub import Hub, Room
from panels_gateway.observe.stages import Stages
from panels_gateway.panels.panel import Panel
from panels_shared.errors import Code, RequestError
from panels_shared.messages import PanelKey
from panels_shared.outcome import Reason

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal
    from panels_gateway.clients.connection import Connection
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.panels.definition import PanelDefinition

Answer = Callable[[str, bytes, "str | None"], Awaitable[bytes]]


async def completed(tool: str, args: bytes, request_id: str | None) -> bytes:
    """A RESULT that returns the args."""
    return b'{"type":"RESULT","result":{"status":"completed","returnValue":%b}}' % args


class FakeKernel:
    """What app, http, upgrade and metrics use of ``Kernel``."""

    def __init__(self) -> None:
        self.panels: dict[str, Panel] = {}
        self.ready = True
        self.closing = False
        self.unanswered = 0
        self.hub = Hub()
        self.stages = Stages()
        self.opened: list[Connection] = []
        self.lost: list[Connection] = []
        self.answer: Answer = completed
        self.refusal: RequestError | None = None
        self.dispatcher = SimpleNamespace(stats=lambda: {"jobs": 3, "in_flight": 2})
        self.counters = SimpleNamespace(
            triggers=5,
            completed=4,
            failed=dict.fromkeys(Reason, 0),
            refused_commits=0,
            overloaded=0,
            connections=0,
            connections_total=0,
        )
        self._rooms: dict[PanelKey, Room] = {}
        self._next = 0

    def as_kernel(self) -> Kernel:
        """This, as the type that is asked for."""
        return cast("Kernel", cast("Any", self))

    def add(self, panel_id: str, **state: bytes) -> Panel:
        """A panel without tools."""
        definition: Any = SimpleNamespace(kind="test", title=None, tools=(), metadata=b"{}")
        return self._make(panel_id, definition, state)

    def _make(self, panel_id: str, definition: PanelDefinition, state: dict[str, bytes]) -> Panel:
        self._next += 1
        key = PanelKey(self._next)
        panel = Panel(key=key, id=panel_id, definition=definition, tools={}, created_ms=1, state=state)
        self.panels[panel_id] = panel
        self._rooms[key] = Room(self.hub)
        return panel

    async def create_panel(self, definition: PanelDefinition) -> Panel:
        if self.refusal is not None:
            raise self.refusal
        if definition.id in self.panels:
            raise RequestError(Code.PANEL_EXISTS, "a panel of that id exists")
        return self._make(definition.id, definition, dict(definition.initial_state or {}))

    async def replace_panel(self, panel_id: str, definition: PanelDefinition) -> Panel:
        if self.refusal is not None:
            raise self.refusal
        panel = self.panels[panel_id]
        panel.definition = definition
        if definition.initial_state is not None:
            panel.replace_state(definition.initial_state)
        return panel

    def delete_panel(self, panel_id: str) -> None:
        del self.panels[panel_id]

    async def trigger(
        self, panel: Panel, tool: str, args: bytes, principal: Principal, request_id: str | None
    ) -> bytes:
        if not principal.may_trigger(panel.id, tool):
            raise RequestError(Code.FORBIDDEN, "the token does not allow that")
        return await self.answer(tool, args, request_id)

    def room(self, panel: Panel) -> Room:
        return self._rooms[panel.key]

    def clock(self) -> float:
        return 0.0

    def request_flush(self) -> None:
        self.hub.flush()

    def connection_opened(self, connection: Connection) -> None:
        self.opened.append(connection)

    def connection_lost(self, connection: Connection) -> None:
        self.lost.append(connection)
