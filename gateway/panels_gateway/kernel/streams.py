"""A panel's stream: what it says between a position and now, in pages of messages.

    beginning ──▶ the state as it is now, as a snapshot ──▶ commits, page by page ──▶ now

Nothing is kept for a reader: a page is made of the panel's history, as far as that reaches back, whenever
somebody asks for one. A page shows what is durable only. Small pages that were made last are kept, since all
who read live ask for the same one at the same time, and so are snapshots while they are being sent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from panels_gateway.broadcast.changes import commit_messages, snapshot_messages
from panels_gateway.broadcast.offsets import Offset, Start
from panels_gateway.kernel.history import events_of, is_addressed, mutations_of, record_bytes
from panels_gateway.kernel.images import BYTES_AT_ONCE, LARGE_BYTES, PART_BYTES, Image, Part, cut
from panels_shared.errors import Code, RequestError
from panels_shared.limits import MIB

if TYPE_CHECKING:
    from panels_gateway.broadcast.topics import Interest, Topics
    from panels_gateway.journal.records import Changed, Ran
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.kernel.residents import Resident
    from panels_shared.messages import PanelKey

#: Commits in one page, and about how many bytes of them as the journal has them; at least one commit.
MAX_COMMITS: Final = 1_000
MAX_PAGE_BYTES: Final = MIB
#: Messages that are encoded in one step of the loop.
MESSAGES_AT_ONCE: Final = 1_024
#: Small pages that are kept for the next one who asks for the same.
MAX_RECENT: Final = 64
#: About what a message has besides its key and its value, in bytes.
MESSAGE_BYTES: Final = 96

#: A JSON array of messages.
Body = bytes | Image
EMPTY: Final = b"[]"


@dataclass(frozen=True, slots=True)
class Span:
    """What lies between two positions. ``commits`` None: the whole state of ``end``'s version, as ``state``
    has it. ``complete`` says that nothing lies behind ``end``.
    """

    start: Start
    end: Offset
    complete: bool
    commits: list[Ran | Changed] | None
    state: dict[str, bytes]

    @property
    def is_addressed(self) -> bool:
        """Whether it has events that are for one subject only, so that not all readers are sent the same."""
        return self.commits is not None and any(map(is_addressed, self.commits))


class Streams:
    """See the module's docstring."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._recent: OrderedDict[tuple[PanelKey, int, Interest], tuple[int, bytes]] = OrderedDict()
        self._snapshots: WeakValueDictionary[tuple[PanelKey, int, Interest], Image] = WeakValueDictionary()

    async def tail(self, resident: Resident) -> Offset:
        """The end of the stream, which may be shown."""
        panel = resident.panel
        end = Offset(panel.epoch, panel.seq)
        await self._kernel.turn.read()
        return end

    async def span(self, resident: Resident, start: Start) -> Span:
        """What the next page behind ``start`` is made of; it may be shown.

        Raises ``RequestError`` HISTORY_GONE where the stream does not have that position (any more), and
        ``JournalError``.
        """
        panel = resident.panel
        if start == "now":
            end = await self.tail(resident)
            return Span(start, end, True, [], {})
        if start == "beginning":
            state = dict(panel.state)
            end = await self.tail(resident)
            return Span(start, end, end.seq == panel.seq, None, state)
        assert isinstance(start, Offset)
        if start.epoch != panel.epoch or start.seq > panel.seq:
            raise _gone("the offset is of another history of this panel, which was made anew or was lost")
        page = await self._kernel.histories.since(
            resident, start.seq, limit_bytes=MAX_PAGE_BYTES, limit=MAX_COMMITS
        )
        if page is None:
            raise _gone("the panel's history does not reach back to the offset")
        commits = _within(page.commits)
        end = Offset(start.epoch, commits[-1].seq if commits else start.seq)
        complete = end.seq == panel.seq
        await self._kernel.turn.read()
        return Span(start, end, complete, commits, {})

    async def body(self, resident: Resident, span: Span, topics: Topics, subject: str | None) -> Body:
        """The messages of ``span`` for readers of ``subject`` with these topics; an ``Image`` where they are
        large, held for the caller.

        Raises ``RequestError`` OVERLOADED.
        """
        payer = subject or ""
        key, interest, end = resident.panel.key, topics.interest, span.end
        if span.commits is None:
            return await self._snapshot((key, end.seq, interest), span, topics, payer)
        if not isinstance(span.start, Offset) or not span.commits:
            return EMPTY
        asked = (key, span.start.seq, interest)
        shared = not span.is_addressed
        known = self._recent.get(asked) if shared else None
        if known is not None and known[0] == end.seq:
            return known[1]
        parts = await _gathered(_messages(span.commits, topics, subject))
        size = sum(map(len, parts))
        if size > LARGE_BYTES:
            return await self._kernel.images.shaped(end.seq, size, lambda: _ready(parts), payer)
        body = b"".join(parts)
        if not shared:
            return body
        self._recent[asked] = (end.seq, body)
        self._recent.move_to_end(asked)
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        return body

    async def _snapshot(
        self, asked: tuple[PanelKey, int, Interest], span: Span, topics: Topics, payer: str
    ) -> Body:
        known = self._snapshots.get(asked)
        if known is not None and known.holders:
            return known.hold()
        state, seq = span.state, span.end.seq
        size = sum(len(key) + len(value) + MESSAGE_BYTES for key, value in state.items())

        async def shape() -> list[Part]:
            return await _gathered(snapshot_messages(topics, seq, state, str(span.end)))

        if size <= LARGE_BYTES:
            return b"".join(await shape())
        image = self._snapshots[asked] = await self._kernel.images.shaped(seq, size, shape, payer)
        return image


def release(body: Body) -> None:
    """Lets go of what ``Streams.body`` returned."""
    if isinstance(body, Image):
        body.release()


def _within(commits: list[Ran | Changed]) -> list[Ran | Changed]:
    """The first of ``commits`` that fit into a page, at least one."""
    size = 0
    for count, record in enumerate(commits[:MAX_COMMITS]):
        size += record_bytes(record)
        if count and size > MAX_PAGE_BYTES:
            return commits[:count]
    return commits[:MAX_COMMITS]


def _messages(commits: list[Ran | Changed], topics: Topics, subject: str | None) -> Iterator[bytes]:
    for record in commits:
        yield from commit_messages(
            topics, record.seq, record.at_ms, mutations_of(record), events_of(record), subject
        )


async def _gathered(messages: Iterator[bytes]) -> list[Part]:
    """``messages`` as one JSON array in parts, encoded in steps of the loop."""
    parts: list[Part] = []
    pending: list[bytes] = [b"["]
    size = stepped = 0
    for number, message in enumerate(messages, 1):
        if number > 1:
            pending.append(b",")
        if len(message) > PART_BYTES:
            parts.append(b"".join(pending))
            pending, size = [], 0
            parts += cut(message)
        else:
            pending.append(message)
            size += len(message)
        stepped += len(message)
        if size >= PART_BYTES:
            parts.append(b"".join(pending))
            pending, size = [], 0
        if number % MESSAGES_AT_ONCE == 0 or stepped >= BYTES_AT_ONCE:
            stepped = 0
            await asyncio.sleep(0)
    pending.append(b"]")
    parts.append(b"".join(pending))
    return parts


async def _ready(parts: list[Part]) -> list[Part]:
    return parts


def _gone(problem: str) -> RequestError:
    return RequestError(Code.HISTORY_GONE, f"{problem}; begin again with offset=-1")
