"""Takes tokens back, and gives them back: recorded before anybody is told, and in effect at once.

    POST /revocations ──▶ revoke ──▶ Revoked in this turn's batch ──▶ durable ──▶ 201, and sockets are closed
                             └─────▶ list: from here on these tokens are refused

A crash before the batch is durable undoes it all: nobody was told, and nobody who was refused in between was
told why. Sockets of the tokens' bearers can do nothing from here on (``Connection.dismiss``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from panels_gateway.access.revocations import MAX_REVOCATIONS, Revocation, Revocations
from panels_gateway.journal.journal import Journal
from panels_gateway.journal.records import Revoked, Unrevoked
from panels_gateway.kernel.turn import Turn
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.kernel.making import Watcher


class Revoking:
    """See the module's docstring. ``watchers`` are all clients that are connected."""

    def __init__(
        self,
        turn: Turn,
        journal: Journal,
        watchers: Iterable[Watcher],
        *,
        wall_clock: Callable[[], float],
    ) -> None:
        self.revocations = Revocations()
        self._turn = turn
        self._journal = journal
        self._watchers = watchers
        self._wall_clock = wall_clock

    async def restore(self) -> None:
        """Reads what was recorded before this process began. Raises ``JournalError``."""
        now_ms = int(self._wall_clock() * 1_000)
        self.revocations.restore(
            _revocation(record) for record in await self._journal.revocations() if record.expires_ms > now_ms
        )

    def revoke(self, wanted: Revocation) -> tuple[Revocation, bool]:
        """Refuses the tokens that ``wanted`` concerns, and closes the sockets of their bearers.

        Returns what is in effect now, and whether there was none of that name before. It may be shown once
        the turn is durable. Raises ``RequestError`` OVERLOADED.
        """
        now = self._wall_clock()
        self.revocations.drop_ended(now)
        known = self.revocations.find(wanted.name)
        if known is None and len(self.revocations) >= MAX_REVOCATIONS:
            raise RequestError(
                Code.OVERLOADED,
                f"expected at most {MAX_REVOCATIONS} revocations at a time; remove some, or change the keys",
                {"retryAfterMs": 60_000, "scope": "revocations"},
            )
        # the record has milliseconds: a restart must not make it weaker
        made = _revocation(_record(known.merged(wanted) if known is not None else wanted))
        if made != known:
            self._turn.record(_record(made))
            self._turn.request_seal()
            self.revocations.add(made)
        for watcher in [watcher for watcher in self._watchers if made.concerns(watcher.principal)]:
            watcher.dismiss("the token was revoked")
        return made, known is None

    def unrevoke(self, name: str) -> None:
        """Refuses them no more. Raises ``RequestError`` NOT_FOUND."""
        self.revocations.drop_ended(self._wall_clock())
        if self.revocations.find(name) is None:
            raise RequestError(Code.NOT_FOUND, "there is no revocation of that id")
        self._turn.record(Unrevoked(name))
        self._turn.request_seal()
        self.revocations.remove(name)


def _record(revocation: Revocation) -> Revoked:
    # rounded up, so that it refuses what it refused
    return Revoked(
        revocation.name,
        int(revocation.revoked_at * 1_000),
        math.ceil(revocation.expires_at * 1_000),
        revocation.token_id,
        revocation.subject,
        None if revocation.before is None else math.ceil(revocation.before * 1_000),
    )


def _revocation(record: Revoked) -> Revocation:
    return Revocation(
        token_id=record.token_id,
        subject=record.subject,
        before=None if record.before_ms is None else record.before_ms / 1_000,
        revoked_at=record.at_ms / 1_000,
        expires_at=record.expires_ms / 1_000,
    )
