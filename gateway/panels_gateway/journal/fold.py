"""The net effect of a run of batches, panel by panel. Pure: no clock, no I/O.

A run is coalesced before anything is written: a key set a thousand times is written once, and a panel made
and deleted inside a run is not written at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from panels_gateway.journal import chunks
from panels_gateway.journal.chunks import Commit
from panels_gateway.journal.journal import CorruptError, FencedError, PositionError
from panels_gateway.journal.records import (
    Batch,
    Changed,
    Created,
    Defined,
    Deleted,
    Fired,
    Parked,
    Ran,
    Record,
    Returned,
    Revoked,
    Source,
    Unparked,
    Unrevoked,
)
from panels_shared.limits import KIB, MIB
from panels_shared.outcome import Completed, Suspended

#: A chunk has at most so many commits, and more than so many bytes only if it has one commit.
CHUNK_COMMITS: Final = 1_000
CHUNK_BYTES: Final = 512 * KIB


#: About how many records and bytes a transaction folds; a single batch may have more.
RUN_RECORDS: Final = 8_192
RUN_BYTES: Final = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept of each panel, counted from the newest backwards.

    History goes in whole chunks, the oldest first. At least ``commits`` commits are kept, as far as
    ``history_bytes`` (records and undo) and ``age_ms`` allow; answers likewise, one by one. Age is by the
    wall clock: when it jumps back things are kept for longer, within the other bounds, and nothing goes
    before what is older by version.
    """

    commits: int = 10_000
    history_bytes: int = 16 * MIB
    age_ms: int = 7 * 86_400_000
    answers: int = 65_536
    answer_bytes: int = 64 * MIB
    answer_ttl_ms: int = 86_400_000


@dataclass(slots=True)
class PanelRun:
    """The net effect of a run on one panel.

    ``born``: the run made it. ``deleted``: the run deleted it.

    ``answered`` has the last answer for each (subject, key), in the order in which they were given.
    ``parked`` has the last record of each suspension, None for one that is over, and ``returned`` the answers
    to (suspension, call) since then; ``fired`` the last due time of each tool.
    """

    created: Created | None = None
    defined: Defined | None = None
    deleted: bool = False
    commits: list[Commit] = field(default_factory=list[Commit])
    answered: dict[tuple[str, str], Ran] = field(default_factory=dict[tuple[str, str], Ran])
    parked: dict[int, Parked | None] = field(default_factory=dict[int, "Parked | None"])
    returned: dict[tuple[int, int], Returned] = field(default_factory=dict[tuple[int, int], Returned])
    fired: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def born(self) -> bool:
        return self.created is not None


@dataclass(slots=True)
class Run:
    """A run of batches, coalesced. ``position`` and ``fence`` are those after it. ``revoked`` has the last
    record of each revocation, None for one that was taken back.
    """

    position: int
    fence: int
    batches: int = 0
    panels: dict[int, PanelRun] = field(default_factory=dict[int, PanelRun])
    sources: dict[bytes, Source] = field(default_factory=dict[bytes, Source])
    revoked: dict[str, Revoked | None] = field(default_factory=dict[str, "Revoked | None"])


def coalesce(batches: Iterable[Batch], *, position: int, fence: int) -> Run:
    """Coalesces ``batches``, passing over those up to ``position``.

    Raises ``PositionError`` for a gap, ``FencedError`` for a batch of a writer that had been fenced off, and
    ``CorruptError`` for records that cannot follow one another.
    """
    run = Run(position, fence)
    panels = run.panels
    for batch in batches:
        if batch.position <= position:
            continue
        if batch.position != run.position + 1:
            raise PositionError(f"expected batch {run.position + 1}, got {batch.position}")
        if batch.fence < run.fence:
            raise FencedError(
                f"expected a fence of at least {run.fence} at batch {batch.position}, got {batch.fence}"
            )
        run.position = batch.position
        run.fence = batch.fence
        run.batches += 1
        for record in batch.records:
            if type(record) is Ran:
                panel = panels.get(record.panel)
                if panel is None or panel.deleted:
                    panel = _panel_of(run, record.panel)
                if record.seq:
                    panel.commits.append(record)
                if (key := record.key) is not None:
                    name = key.subject, key.key
                    panel.answered.pop(name, None)  # so that it moves to the end
                    panel.answered[name] = record
            else:
                _take(run, record)
    return run


def grouped(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """``batches`` in groups that fit into memory and make a transaction of a good size,
    taken as they are asked for.
    """
    group: list[Batch] = []
    count = size = 0
    for batch in batches:
        group.append(batch)
        count += len(batch.records)
        for record in batch.records:
            # what nearly all records are is weighed here: a call for each would cost more than coalescing it
            if type(record) is Ran and type(outcome := record.outcome) is Completed:
                size += len(record.args) + len(outcome.mutations) + len(outcome.return_value)
                for event in outcome.events:
                    size += len(event)
            else:
                size += _weight(record)
        if count >= RUN_RECORDS or size >= RUN_BYTES:
            yield group
            group = []
            count = size = 0
    if group:
        yield group


def chunked(commits: Sequence[Commit]) -> Iterator[tuple[Sequence[Commit], bytes]]:
    """``commits`` cut into chunks, each with its encoded records."""
    for start in range(0, len(commits), CHUNK_COMMITS):
        yield from _halved(commits[start : start + CHUNK_COMMITS])


def check_versions(panel: int, seq: int, commits: Sequence[Commit]) -> dict[bytes, int]:
    """The version of the last of ``commits`` that each handler made, by digest.

    Raises ``CorruptError`` unless they are the versions after ``seq``, without a gap.
    """
    expected = seq
    digests: dict[bytes, int] = {}
    for commit in commits:
        expected += 1
        if commit.seq != expected:
            raise CorruptError(f"expected version {expected} of panel {panel}, got {commit.seq}")
        if type(commit) is Ran:
            digests[commit.digest] = expected
    return digests


def _halved(commits: Sequence[Commit]) -> Iterator[tuple[Sequence[Commit], bytes]]:
    encoded = chunks.encode_commits(commits)
    if len(encoded) <= CHUNK_BYTES or len(commits) == 1:
        yield commits, encoded
    else:
        middle = len(commits) // 2
        yield from _halved(commits[:middle])
        yield from _halved(commits[middle:])


def _panel_of(run: Run, number: int) -> PanelRun:
    panel = run.panels.get(number)
    if panel is None:
        panel = run.panels[number] = PanelRun()
    elif panel.deleted:
        raise CorruptError(
            f"expected nothing of panel {number} after its deletion, got a record in batch {run.position}"
        )
    return panel


def _take(run: Run, record: Record) -> None:
    if type(record) is Source:
        run.sources[record.digest] = record
    elif type(record) is Created:
        if record.panel in run.panels:
            raise CorruptError(
                f"expected a new number, got a panel {record.panel} again in batch {run.position}"
            )
        run.panels[record.panel] = PanelRun(created=record)
    elif type(record) is Defined:
        _panel_of(run, record.panel).defined = record
    elif type(record) is Changed:
        _panel_of(run, record.panel).commits.append(record)
    elif type(record) is Deleted:
        panel = _panel_of(run, record.panel)
        panel.deleted = True
        panel.commits.clear()
        panel.answered.clear()
        panel.parked.clear()
        panel.returned.clear()
        panel.fired.clear()
    elif type(record) is Parked:
        panel = _panel_of(run, record.panel)
        panel.parked[record.suspension] = record
        open_calls = {call.call for call in record.calls}
        _drop_returned(panel, record.suspension, keep=open_calls)
    elif type(record) is Unparked:
        panel = _panel_of(run, record.panel)
        panel.parked[record.suspension] = None
        _drop_returned(panel, record.suspension, keep=())
    elif type(record) is Fired:
        _panel_of(run, record.panel).fired[record.tool] = record.due_ms
    elif type(record) is Returned:
        _panel_of(run, record.panel).returned[record.suspension, record.call] = record
    elif type(record) is Revoked:
        run.revoked[record.name] = record
    elif type(record) is Unrevoked:
        run.revoked[record.name] = None


def _drop_returned(panel: PanelRun, suspension: int, *, keep: Collection[int]) -> None:
    for name in [name for name in panel.returned if name[0] == suspension and name[1] not in keep]:
        del panel.returned[name]


def _weight(record: Record) -> int:
    # bytes, roughly: what may be large in a record
    if type(record) is Ran:
        outcome = record.outcome
        if type(outcome) is Suspended:
            return len(record.args) + len(outcome.mutations) + sum(map(len, outcome.events))
        return len(record.args)
    if type(record) is Changed:
        return len(record.mutations)
    if type(record) is Created:
        return len(record.definition) + sum(map(len, record.state.values()))
    if type(record) is Source:
        return len(record.source)
    if type(record) is Parked:
        return len(record.args) + len(record.image) + sum(len(call.args) for call in record.calls)
    if type(record) is Returned:
        return len(record.value)
    return 0
