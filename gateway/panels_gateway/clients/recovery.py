"""What a client that was away is sent: everything that it has missed, or the state as it is now. Pure but for
``read``.

A client resumes with the epoch and the version that it has (``?epoch=…&since=…``). It is sent what it has
missed where history reaches back so far and costs no more bytes than the state; it gets the whole state
otherwise, and is told which of the two it is. Nothing is kept for a client that is away.

History is read before the upgrade is accepted, which takes a while; what was committed meanwhile is in the
resident's tail and is added in ``complete``, in the step in which the client joins its room. So nothing falls
between the two.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from panels_gateway.broadcast.hub import commit_frames
from panels_gateway.broadcast.topics import Topics, parse_topics
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.records import Changed, Ran
from panels_gateway.kernel.history import Histories, events_of, mutations_of, record_bytes
from panels_gateway.kernel.images import Image
from panels_gateway.kernel.residents import Resident
from panels_gateway.observe.tracing import MAX_CHARS
from panels_gateway.panels.panel import Panel
from panels_shared.errors import Code, RequestError
from panels_shared.limits import KIB, MIB

_log = logging.getLogger("panels.gateway.clients")

#: What is missed is sent, and not the state, up to this many bytes even where the state is smaller: events
#: are in it too.
RECOVERY_FLOOR_BYTES: Final = 256 * KIB
#: And never more than this.
MAX_RECOVERY_BYTES: Final = 4 * MIB
#: Commits that are encoded in one step of the loop, and bytes of frames after which a step ends.
COMMITS_AT_ONCE: Final = 128
BLOCK_BYTES: Final = 64 * KIB
#: Characters of an epoch, digits of a version; security limits.
MAX_EPOCH_CHARS: Final = 64
MAX_SINCE_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What the query of an upgrade asks for. ``since`` None: to start over with the whole state, which the
    client says when it had a state that it cannot use any more (``since=none``). ``topics`` None: the default
    ones. ``traceparent`` is what triggers without one of their own hang from; it is not checked.
    """

    resumes: bool = False
    epoch: str = ""
    since: int | None = None
    topics: Topics | None = None
    traceparent: str | None = None


def parse(query: bytes) -> Asked:
    """What ``query``, the raw query string of an upgrade, asks for. Raises ``RequestError``
    INVALID_REQUEST.
    """
    fields: dict[str, str] = {}
    for part in query.decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        if name in ("epoch", "since", "topics", "traceparent"):
            if name in fields:
                raise _invalid(name, "expected it once, got it twice")
            fields[name] = value
    topics = parse_topics(fields["topics"]) if "topics" in fields else None
    parent = fields["traceparent"][:MAX_CHARS] if "traceparent" in fields else None
    if "since" not in fields:
        return Asked(topics=topics, traceparent=parent)
    epoch, since = unquote_plus(fields.get("epoch", "")), unquote_plus(fields["since"])
    if len(epoch) > MAX_EPOCH_CHARS:
        raise _invalid("epoch", f"expected at most {MAX_EPOCH_CHARS} characters, got {len(epoch)}")
    if since == "none":
        return Asked(True, epoch, None, topics, parent)
    if not (since.isascii() and since.isdigit()) or len(since) > MAX_SINCE_DIGITS:
        raise _invalid("since", "expected the seq that you have, as a number of digits, or none")
    return Asked(True, epoch, int(since), topics, parent)


def _invalid(path: str, problem: str) -> RequestError:
    return RequestError(Code.INVALID_REQUEST, f"{path}: {problem}", {"path": path})


class Recovery:
    """What was read for a client that resumes. ``since`` None: nothing can be made of what it has.

    ``position`` is the last version that the client will have been told of, once it has the frames of
    ``complete``.
    """

    __slots__ = ("_blocks", "_commits", "_encoded", "_limit_bytes", "_resident", "_since", "position")

    def __init__(
        self, resident: Resident, since: int | None, commits: list[Ran | Changed], limit_bytes: int
    ) -> None:
        self._resident = resident
        self._since = since
        self._commits = commits
        self._limit_bytes = limit_bytes
        self._blocks: list[bytes] = []
        self._encoded = 0
        self.position = since or 0

    async def prepare(self, topics: Topics, subject: str | None) -> None:
        """Encodes what was read, in steps of the loop, so that ``complete`` has little left to do."""
        while self._encoded < len(self._commits):
            self._encode(topics, subject, COMMITS_AT_ONCE)
            await asyncio.sleep(0)

    def _encode(self, topics: Topics, subject: str | None, count: int) -> None:
        """Encodes the next ``count`` commits as one block of frames."""
        frames: list[bytes] = []
        size = 0
        for record in self._commits[self._encoded : self._encoded + count]:
            self._encoded += 1
            frame = commit_frames(
                topics, record.seq, self.position, mutations_of(record), events_of(record), subject
            )
            if frame:
                frames.append(frame)
                self.position = record.seq
                size += len(frame)
                if size > BLOCK_BYTES:
                    break
        if frames:
            self._blocks.append(b"".join(frames))

    @property
    def is_possible(self) -> bool:
        """Whether anything can be made of what the client has, as far as is known before ``complete``."""
        return self._since is not None

    def complete(self, panel: Panel, topics: Topics, subject: str | None) -> list[bytes] | None:
        """The frames of everything since, in blocks, for a client of ``subject`` with these topics; None
        where it must have the whole state instead.
        """
        since = self._since
        if since is None:
            return None
        commits = self._commits
        last = commits[-1].seq if commits else since
        commits += [record for record in self._resident.tail if record.seq > last]
        # one that was made and folded since history was read is in neither: then there are fewer than there
        # were versions
        if len(commits) != panel.seq - since:
            return None
        if sum(map(record_bytes, commits)) > self._limit_bytes:
            return None
        while self._encoded < len(commits):
            self._encode(topics, subject, COMMITS_AT_ONCE)
        return self._blocks


def since_image(resident: Resident, image: Image) -> Recovery:
    """What a client misses that is sent the state as it was at an earlier version: it is in the tail, or it
    cannot be made out.
    """
    return Recovery(resident, image.seq, [], RECOVERY_FLOOR_BYTES)


async def read(
    asked: Asked, resident: Resident, histories: Histories, subject: str | None
) -> Recovery | None:
    """What the journal has for a client of ``subject`` that resumes; None for one that does not."""
    if not asked.resumes:
        return None
    panel = resident.panel
    limit_bytes = min(MAX_RECOVERY_BYTES, max(RECOVERY_FLOOR_BYTES, panel.state_bytes))
    if asked.since is None or asked.epoch != panel.epoch or asked.since > panel.seq:
        return Recovery(resident, None, [], limit_bytes)
    try:
        page = await histories.since(resident, asked.since, limit_bytes=limit_bytes)
    except JournalError as exc:
        # the state is in memory and sound: the client gets all of it
        _log.error("panel %r: its history cannot be read: %s", panel.id, exc)
        page = None
    if page is None or not page.complete:
        return Recovery(resident, None, [], limit_bytes)
    found = Recovery(resident, asked.since, page.commits, limit_bytes)
    await found.prepare(asked.topics if asked.topics is not None else Topics(), subject)
    return found
