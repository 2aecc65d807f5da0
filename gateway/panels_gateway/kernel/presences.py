"""Tells those who listen who watches a panel, and its handlers.

A change is told ``DELAY_S`` after it, together with all others that came meanwhile, so that a crowd that
comes or goes at once is told in few messages. Clients are told where the panel's definition has ``presence``,
and handlers where the tool has the capability ``presence:read``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.presence import Presence

if TYPE_CHECKING:
    from panels_gateway.broadcast.hub import Subscriber
    from panels_gateway.kernel.making import Watcher
    from panels_gateway.kernel.residents import Resident, Residents
    from panels_gateway.kernel.turn import Turn

#: How long a change waits for others, in seconds.
DELAY_S: Final = 0.1


class Presences:
    """See the module's docstring."""

    def __init__(self, residents: Residents, turn: Turn) -> None:
        self._residents = residents
        self._turn = turn
        #: as whom clients arrived: a token that holds no more changes who they are
        self._subjects: dict[Watcher, str | None] = {}
        self._due: set[Resident] = set()

    def arrived(self, watcher: Watcher, resident: Resident) -> None:
        """A client is in the panel's room."""
        subject = self._subjects[watcher] = watcher.principal.subject
        if resident.presence is None:
            resident.presence = Presence()
        resident.presence.arrived(subject)
        self._changed(resident)

    def left(self, watcher: Watcher, resident: Resident | None) -> None:
        """A client is gone; ``resident`` None if its panel is."""
        subject = self._subjects.pop(watcher, None)
        if resident is None or resident.presence is None:
            return
        resident.presence.left(subject)
        self._changed(resident)
        if not resident.presence.clients:
            resident.presence = None

    def tell(self, subscriber: Subscriber, resident: Resident) -> None:
        """Tells a client that begins to listen who is there, itself among them."""
        if subscriber.topics.interest.presence and resident.panel.definition.presence:
            presence = resident.presence or Presence()
            resident.room.send(subscriber, text_frame(presence.whole()))
            self._turn.request_seal()

    def _changed(self, resident: Resident) -> None:
        if resident.room.listening and resident not in self._due:
            self._due.add(resident)
            asyncio.get_running_loop().call_later(DELAY_S, self._tell, resident)

    def _tell(self, resident: Resident) -> None:
        self._due.discard(resident)
        room, presence = resident.room, resident.presence
        if presence is None or not resident.panel.definition.presence:
            return
        if self._residents.of(resident.panel) is not resident or not room.listening:
            return
        change = presence.change()
        if change is None:
            return
        frame = text_frame(change)
        for subscriber in room.listening:
            room.send(subscriber, frame)
        self._turn.request_seal()
