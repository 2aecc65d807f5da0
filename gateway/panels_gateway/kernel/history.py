"""A panel's past: its commits, and its states at earlier versions.

The journal gives back what it has folded; the resident's ``tail`` holds the rest. Folding goes on while
somebody reads, so that a reader takes from the journal first and then, without awaiting, what of the tail is
newer: nothing falls between the two, and what is in both is taken once.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from panels_gateway.broadcast.events import Event, decode_event
from panels_gateway.journal.journal import Journal, LateError
from panels_gateway.journal.records import Changed, Ran
from panels_gateway.kernel.residents import Resident
from panels_gateway.kernel.turn import Turn
from panels_shared.errors import Code, RequestError
from panels_shared.outcome import Failed

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Page:
    """Commits in order and without a gap. If ``complete``, they reach up to now."""

    commits: list[Ran | Changed]
    complete: bool


class Histories:
    """Reads history.

    Every method awaits, so the panel may have changed, or be deleted, when it returns: the caller checks.
    """

    def __init__(self, journal: Journal, turn: Turn) -> None:
        self._journal = journal
        self._turn = turn

    async def since(
        self, resident: Resident, seq: int, *, limit_bytes: int, limit: int | None = None
    ) -> Page | None:
        """The commits after version ``seq``, about ``limit_bytes`` of them at the most, and not many more
        than ``limit``.

        None if history does not reach back so far, or if there is no version ``seq`` yet.
        """
        panel = resident.panel
        if not 0 <= seq <= panel.seq:
            return None
        commits: list[Ran | Changed] = []
        size = 0
        while True:
            at = commits[-1].seq if commits else seq
            tail = _newer(resident, at)
            if at == panel.seq or (tail and tail[0].seq == at + 1):
                break
            found = await self._journal.history(
                panel.number, since=at, limit_bytes=limit_bytes - size, limit=limit
            )
            if found is None or not found.commits:
                return None if not commits else Page(commits, complete=False)
            commits += found.commits
            size += sum(map(record_bytes, found.commits))
            if size >= limit_bytes or (limit is not None and len(commits) >= limit):
                return Page(commits, complete=commits[-1].seq == panel.seq)
        for record in tail:
            size += record_bytes(record)
            if size > limit_bytes and commits:
                return Page(commits, complete=False)
            commits.append(record)
        return Page(commits, complete=True)

    async def state_at(self, resident: Resident, seq: int) -> dict[str, bytes]:
        """The state as it was at version ``seq``. Raises ``RequestError``: INVALID_REQUEST, HISTORY_GONE,
        OVERLOADED.
        """
        panel = resident.panel
        if not 0 <= seq <= panel.seq:
            raise RequestError(
                Code.INVALID_REQUEST, f"seq: expected 0 to {panel.seq}, got {seq}", {"path": "seq"}
            )
        if seq == panel.seq:
            return dict(panel.state)
        await self._turn.read()  # the journal does not know of commits of the open turn
        state = await _in_time(self._journal.state_at(panel.number, seq))
        if state is None:
            raise RequestError(
                Code.HISTORY_GONE,
                f"version {seq} of panel {panel.id!r} is older than its history reaches back",
            )
        return state

    async def of_key(self, resident: Resident, key: str, *, limit: int) -> list[Ran | Changed]:
        """The commits that changed ``key``, as far as history reaches back, the newest first.

        Raises ``RequestError`` OVERLOADED.
        """
        await self._turn.read()
        return await _in_time(self._journal.key_history(resident.panel.number, key, limit=limit))


async def _in_time(reading: Awaitable[_T]) -> _T:
    """What is read, or OVERLOADED where the journal is too far behind to be read."""
    try:
        return await reading
    except LateError:
        message = "the journal is behind, and this cannot be read before it has caught up; try again later"
        details = {"retryAfterMs": 1_000, "scope": "journal"}
        raise RequestError(Code.OVERLOADED, message, details) from None


def _newer(resident: Resident, seq: int) -> list[Ran | Changed]:
    """The commits of the tail after version ``seq``."""
    return [record for record in resident.tail if record.seq > seq]


def mutations_of(record: Ran | Changed) -> bytes:
    """The commit's mutations as a JSON array."""
    if isinstance(record, Changed):
        return record.mutations
    return record.outcome.mutations if not isinstance(record.outcome, Failed) else b"[]"


def events_of(record: Ran | Changed) -> list[Event]:
    """The commit's events, whomever they are for."""
    if isinstance(record, Changed) or isinstance(record.outcome, Failed):
        return []
    events: list[Event] = []
    for fragment in record.outcome.events:
        event = decode_event(fragment)
        events.append((event.name, fragment, event.to))
    return events


def is_addressed(record: Ran | Changed) -> bool:
    """Whether an event of the commit is for one subject only. It may say so of one that is not."""
    if isinstance(record, Changed) or isinstance(record.outcome, Failed):
        return False
    return any(b'"to"' in fragment for fragment in record.outcome.events)


def record_bytes(record: Ran | Changed) -> int:
    """About what the commit costs to send: its mutations and events, as JSON."""
    if isinstance(record, Changed):
        return len(record.mutations) + 64
    if isinstance(record.outcome, Failed):
        return 64
    return len(record.outcome.mutations) + sum(len(event) + 64 for event in record.outcome.events) + 64
