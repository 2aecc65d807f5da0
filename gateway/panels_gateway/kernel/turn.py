"""A turn of the loop: what happened in it becomes one batch of the journal, and leaves when the batch is
durable.

    commit, record ─▶ records ──seal──▶ journal.append ──▶ durable ──release──▶ clients
    commit, send, after ─▶ departures ─────────── wait ──────────────────────────▶┘

Everything that leaves for a client leaves through here, in the order in which it arose: broadcasts, answers,
CONNECTED, states that somebody reads over HTTP, closing handshakes. So nobody hears of anything that a crash
could still take back, and nobody hears of it twice or out of order.

Interleavings. A turn is *open* while the loop runs callbacks; ``seal`` ends it. Where the journal is durable
as soon as it has appended (modes ``process`` and ``none``), a sealed turn leaves within ``seal``. Where it is
not (``power``), sealed turns wait in order, later turns go on being opened and sealed behind them, and a turn
that recorded nothing waits all the same when the one before it does: it may show what that one did.

Queue: sealed turns. Unit: turns. Bound: the journal's own bound on what it has not yet written, above which
triggers are refused (``Intake``). Nothing is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from panels_gateway.broadcast.hub import Departure, Hub, Subscriber
from panels_gateway.journal.journal import Journal
from panels_gateway.journal.records import Batch, Changed, Created, Ran, Record
from panels_shared.limits import MIB
from panels_shared.outcome import Completed

#: Records in one batch; more of a turn, and a record that may be large, begin another one.
MAX_BATCH_RECORDS: Final = 512
LARGE_BYTES: Final = MIB


class _Sealed(NamedTuple):
    position: int
    departures: list[Departure]
    afterwards: list[Callable[[], None]]


class Turn:
    """See the module's docstring. One object serves all turns, one after the other.

    ``request_seal`` is set by whoever drives the loop: it must have ``seal`` called once, soon, at the end of
    the loop's turn. ``position`` is that of the last batch appended; the open turn's will be one more.
    """

    __slots__ = (
        "_afterwards",
        "_fence",
        "_journal",
        "_records",
        "_sealed",
        "hub",
        "position",
        "request_seal",
    )

    def __init__(self, hub: Hub, journal: Journal, *, position: int, fence: int) -> None:
        self.hub = hub
        self.position = position
        self.request_seal: Callable[[], None] = _nothing
        self._journal = journal
        self._fence = fence
        self._records: list[Record] = []
        self._afterwards: list[Callable[[], None]] = []
        self._sealed: deque[_Sealed] = deque()
        journal.on_durable = self.release

    def record(self, record: Record) -> int:
        """Adds ``record`` to the open turn's batch; the position that the batch will have."""
        records = self._records
        if records and (len(records) >= MAX_BATCH_RECORDS or _is_large(record)):
            self._append()
            records = self._records
        records.append(record)
        return self.position + 1

    def after(self, action: Callable[[], None]) -> None:
        """Has ``action`` called when all that was done up to now is durable, behind the frames of the turn.
        It may not raise.
        """
        self._afterwards.append(action)
        self.request_seal()

    async def read(self) -> None:
        """Returns when all that was done up to now is durable: who reads a state and then awaits this may
        show it.
        """
        # a turn that recorded something and sent nobody anything is not among the sealed ones
        if not self._records and not self._sealed and self._journal.durable >= self.position:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle() -> None:
            if not settled.done():
                settled.set_result(None)

        self.after(settle)
        await settled

    def close(self, subscriber: Subscriber, close: Callable[[], None]) -> None:
        """Has ``close`` called once ``subscriber`` was sent what is queued for it."""
        self.after(close)

    def seal(self) -> None:
        """Ends the open turn: appends its records as one batch, and lets it leave, now or when the batch is
        durable.

        Raises ``JournalError``, after which the process must end: nothing of this turn has left it.
        """
        self._append()
        departures = self.hub.seal()
        # always another list: one that is empty now would be shared with the next turn, whose actions would
        # leave with this one
        afterwards, self._afterwards = self._afterwards, []
        if self._sealed or self._journal.durable < self.position:
            if departures or afterwards:
                self._sealed.append(_Sealed(self.position, departures, afterwards))
            return
        _depart(departures, afterwards)

    def _append(self) -> None:
        records = self._records
        if records:
            self._records = []
            self._journal.append(Batch(self.position + 1, self._fence, records))
            self.position += 1

    def release(self, position: int) -> None:
        """From the journal: every batch up to ``position`` is durable, and the turns up to there may
        leave.
        """
        sealed = self._sealed
        while sealed and sealed[0].position <= position:
            _, departures, afterwards = sealed.popleft()
            _depart(departures, afterwards)

    @property
    def waiting(self) -> int:
        """Sealed turns that are not durable yet."""
        return len(self._sealed)


def _is_large(record: Record) -> bool:
    if type(record) is Ran:
        outcome = record.outcome
        if type(outcome) is not Completed:
            return len(record.args) > LARGE_BYTES
        size = len(record.args) + len(outcome.mutations) + len(outcome.return_value)
        return size + len(outcome.view_commands) > LARGE_BYTES
    if isinstance(record, Changed):
        return len(record.mutations) > LARGE_BYTES
    return isinstance(record, Created)


def _depart(departures: list[Departure], afterwards: list[Callable[[], None]]) -> None:
    for departure in departures:
        departure.subscriber.deliver(departure.frames, departure.items)
    for action in afterwards:
        action()


def _nothing() -> None:
    return
