"""A turn of the loop: it becomes one batch of the journal, and leaves when the batch is durable.

    commit, record ─▶ records ──seal──▶ journal.append ──▶ durable ──release──▶ clients
    commit, send, after ─▶ departures ─────────── wait ──────────────────────────▶┘

Everything that leaves for a client leaves through here, in the order in which it arose: broadcasts, answers,
CONNECTED, states that somebody reads over HTTP, closing handshakes. So nobody hears of anything that a crash
could still take back, or hears of it twice or out of order.

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

#: The most records in one batch. More records of a turn, and records that may be large, begin another batch.
MAX_BATCH_RECORDS: Final = 512
LARGE_BYTES: Final = MIB


class _Sealed(NamedTuple):
    position: int
    departures: list[Departure]
    afterwards: list[Callable[[], None]]


class Turn:
    """See the module's docstring. One object serves all turns, one after the other.

    ``request_seal`` is set by the driver of the loop. It asks for one call of ``seal`` at the end of the
    loop's turn, however often it is called. ``position`` is that of the last batch appended; the open turn's
    batch gets the next one.
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
        """Adds ``record`` to the open turn's batch. Returns the position that the batch will have."""
        records = self._records
        if len(records) >= MAX_BATCH_RECORDS or (records and _is_large(record)):
            self._append()
        self._records.append(record)
        return self.position + 1

    def after(self, action: Callable[[], None]) -> None:
        """Calls ``action`` when everything done so far is durable, after the turn's frames have left.

        ``action`` may not raise.
        """
        self._afterwards.append(action)
        self.request_seal()

    async def read(self) -> None:
        """Returns when everything done so far is durable.

        A caller that reads a state and then awaits this may show it.
        """
        if not self._records and not self._sealed:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settle() -> None:
            if not settled.done():
                settled.set_result(None)

        self.after(settle)
        await settled

    def close(self, subscriber: Subscriber, close: Callable[[], None]) -> None:
        """Calls ``close`` once ``subscriber`` has been sent what is queued for it."""
        self.after(close)

    def seal(self) -> None:
        """Ends the open turn: appends its records as one batch, and lets it leave when that is durable.

        Raises ``JournalError``, after which the process must end: nothing of this turn has left it.
        """
        self._append()
        departures = self.hub.seal()
        afterwards = self._afterwards
        if afterwards:
            self._afterwards = []
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
        """Lets the turns leave whose batches are durable, which are those up to ``position``.

        The journal calls it.
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
        size = len(record.args)
        if type(outcome) is Completed:
            size += len(outcome.mutations) + len(outcome.return_value) + len(outcome.view_commands)
        return size > LARGE_BYTES
    if isinstance(record, Changed):
        return len(record.mutations) > LARGE_BYTES
    return isinstance(record, Created)


def _depart(departures: list[Departure], afterwards: list[Callable[[], None]]) -> None:
    for subscriber, frames, items in departures:
        subscriber.deliver(frames, items)
    for action in afterwards:
        action()


def _nothing() -> None:
    return
