"""Nothing leaves before its batch is durable, and everything leaves in the order in which it arose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.hub import Hub, Room
from panels_gateway.broadcast.outbox import Commit
from panels_gateway.broadcast.topics import Topics
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Batch, Changed, Created, Ran
from panels_gateway.kernel import turn as turns
from panels_gateway.kernel.turn import Turn
from panels_shared.outcome import Completed, Usage
from tests.gateway.builders import payloads

pytestmark = pytest.mark.anyio


class Listener:
    """A subscriber that notes what it is sent in a list that it shares with others."""

    def __init__(self, heard: list[str]) -> None:
        self.topics = Topics()
        self.subject: str | None = None
        self.private: list[tuple[int, bytes]] = []
        self.position = 0
        self._heard = heard

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        self._heard += [payload.decode() for payload in payloads(frames)]


class Recorder(MemoryJournal):
    """Keeps the batches as they were appended, and folds nothing."""

    def __init__(self, *, hold: bool) -> None:
        super().__init__(hold=hold)
        self.batches: list[Batch] = []
        self.failure: JournalError | None = None

    def append(self, batch: Batch) -> None:
        if self.failure is not None:
            raise self.failure
        super().append(batch)
        self.batches.append(batch)

    def _schedule(self) -> None:
        return


class World:
    """A turn, its journal, and one client."""

    def __init__(self, *, hold: bool = True) -> None:
        self.journal = Recorder(hold=hold)
        self.turn = Turn(Hub(), self.journal, position=0, fence=1)
        self.requests = 0
        self.turn.request_seal = self._requested
        self.heard: list[str] = []
        self.room = Room(self.turn.hub)
        self.client = Listener(self.heard)
        self.room.join(self.client)

    def _requested(self) -> None:
        self.requests += 1

    def send(self, word: str) -> None:
        self.room.send(self.client, text_frame(word.encode()))

    def note(self, word: str) -> Callable[[], None]:
        return lambda: self.heard.append(word)

    def record(self, record: Changed | None = None) -> int:
        return self.turn.record(record or changed())


def changed(mutations: bytes = b"[]") -> Changed:
    return Changed(1, 1, 0, "test", "", mutations)


def ran(args: bytes = b"null", mutations: bytes = b"[]") -> Ran:
    outcome = Completed(Usage(), mutations=mutations)
    return Ran(1, 1, 0, "t", b"d", args, b"{}", 0.0, 0, outcome, 0, 0)


def test_turn_leaves_within_seal_where_the_journal_is_durable_at_once() -> None:
    world = World(hold=False)
    world.record()
    world.send("patch")
    world.turn.after(world.note("after"))
    assert world.heard == []
    world.turn.seal()
    assert world.heard == ["patch", "after"]
    assert world.turn.waiting == 0


def test_turn_keeps_everything_until_its_batch_is_durable() -> None:
    world = World()
    world.record()
    world.send("patch")
    world.turn.after(world.note("after"))
    world.turn.close(world.client, world.note("close"))
    world.turn.seal()
    assert (world.heard, world.turn.waiting) == ([], 1)
    world.journal.release(1)
    assert (world.heard, world.turn.waiting) == (["patch", "after", "close"], 0)


def test_turn_that_recorded_nothing_waits_behind_one_that_did() -> None:
    world = World()
    world.record()
    world.turn.seal()
    world.send("shows what the first did")
    world.turn.seal()
    assert world.heard == []
    world.journal.release(1)
    assert world.heard == ["shows what the first did"]


def test_turn_that_recorded_nothing_leaves_at_once_where_nothing_waits() -> None:
    world = World()
    world.send("pong")
    world.turn.seal()
    assert world.heard == ["pong"]
    assert world.journal.batches == []


def test_turns_leave_in_order_and_only_as_far_as_is_durable() -> None:
    world = World()
    for word in ("one", "two", "three"):
        world.record()
        world.send(word)
        world.turn.seal()
    world.journal.release(2)
    assert world.heard == ["one", "two"]
    world.journal.release(3)
    assert world.heard == ["one", "two", "three"]


def test_turn_that_fails_to_append_lets_nothing_leave() -> None:
    world = World(hold=False)
    world.journal.closed = True
    world.record()
    world.send("never")
    world.turn.after(world.note("never"))
    with pytest.raises(JournalError):
        world.turn.seal()
    assert world.heard == []


def test_turn_tells_the_position_that_its_batch_will_have() -> None:
    world = World()
    assert [world.record(), world.record()] == [1, 1]
    world.turn.seal()
    assert world.record() == 2
    world.turn.seal()
    world.turn.seal()
    assert [(batch.position, batch.fence, len(batch.records)) for batch in world.journal.batches] == [
        (1, 1, 2),
        (2, 1, 1),
    ]


def test_turn_of_many_records_is_divided_between_operations_and_leaves_with_its_last_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "MAX_BATCH_RECORDS", 3)
    world = World()
    positions = []
    for count in (1, 4, 2, 1):
        world.turn.divide()
        positions += [world.record() for _ in range(count)]
    assert positions == [1, 1, 1, 1, 1, 2, 2, 2], "what one operation records stays together"
    world.send("all")
    world.turn.seal()
    assert [len(batch.records) for batch in world.journal.batches] == [5, 3]
    world.journal.release(1)
    assert world.heard == []
    world.journal.release(2)
    assert world.heard == ["all"]


@pytest.mark.parametrize(
    "large",
    [
        changed(b" " * turns.MAX_BATCH_BYTES),
        ran(args=b" " * turns.MAX_BATCH_BYTES),
        ran(mutations=b" " * turns.MAX_BATCH_BYTES),
        Created(1, "p", "e", 0, b"{}", {"k": b" " * turns.MAX_BATCH_BYTES}),
    ],
    ids=["change", "args", "mutations", "panel"],
)
def test_operation_behind_a_large_one_begins_a_batch(large: Changed | Ran | Created) -> None:
    world = World()
    world.turn.record(ran())
    world.turn.record(large)
    world.turn.divide()
    world.turn.record(ran())
    world.turn.seal()
    assert [len(batch.records) for batch in world.journal.batches] == [2, 1]


def test_nothing_leaves_when_dividing_failed() -> None:
    world = World()
    world.record()
    world.send("never")
    world.journal.failure = JournalError("full")
    for _ in range(2):
        with pytest.raises(JournalError):
            world.turn.seal()
    assert world.heard == []


async def test_read_returns_at_once_where_all_is_durable() -> None:
    world = World()
    await world.turn.read()
    assert world.requests == 0


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("heard", [False, True])
async def test_read_waits_for_what_was_done_before(sealed: bool, heard: bool) -> None:
    """Also where nobody was to be sent anything of it, so that the turn itself does not wait."""
    world = World()
    world.record()
    if heard:
        world.send("patch")
    if sealed:
        world.turn.seal()
    reading = asyncio.create_task(world.turn.read())
    await asyncio.sleep(0)
    assert world.requests == 1
    world.turn.seal()
    assert not reading.done()
    world.journal.release(1)
    await reading


async def test_read_that_was_given_up_harms_nobody() -> None:
    world = World()
    world.record()
    reading = asyncio.create_task(world.turn.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    world.turn.seal()
    world.journal.release(1)
    assert world.turn.waiting == 0


def test_action_of_a_later_turn_does_not_leave_with_an_earlier_one() -> None:
    """The turn before had none, and the two shared the empty list."""
    world = World()
    world.record()
    world.send("one")
    world.turn.seal()
    world.record()
    world.turn.after(world.note("two"))
    world.journal.release(1)
    assert world.heard == ["one"]


steps = st.lists(st.sampled_from(["record", "send", "after", "seal", "release"]), max_size=40)


@given(steps)
def test_turn_never_shows_what_is_not_durable_and_loses_nothing(run: list[str]) -> None:
    world = World()
    expected: list[tuple[int, str]] = []  # what was queued, with the position that must be durable first
    frames: list[tuple[int, str]] = []
    actions: list[tuple[int, str]] = []
    for number, step in enumerate(run):
        if step == "record":
            world.record()
        elif step == "send":
            frames.append((0, f"{number}"))
            world.send(f"{number}")
        elif step == "after":
            actions.append((0, f"{number}"))
            world.turn.after(world.note(f"{number}"))
        elif step == "seal":
            world.turn.seal()
            expected += [(world.turn.position, word) for _, word in [*frames, *actions]]
            frames, actions = [], []
        elif world.journal.durable < world.journal.position:
            world.journal.release(world.journal.durable + 1)
        durable = world.journal.durable
        assert world.heard == [word for position, word in expected if position <= durable]
