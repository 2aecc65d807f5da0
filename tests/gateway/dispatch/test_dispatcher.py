"""The dispatcher against a trivial serial model, with workers that die, hang, come back and lie. See
``tests.support.world``."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from panels_gateway.dispatch.catalog import Preparation
from panels_gateway.dispatch.dispatcher import MAX_MISSES, Dispatcher
from panels_gateway.dispatch.limits import OverloadedError
from panels_gateway.dispatch.members import MAX_INTERRUPTIONS
from panels_gateway.dispatch.placement import SETTLE_S
from panels_gateway.dispatch.watch import GRACE_S, MAX_ATTEMPTS, REVOKED_S
from panels_shared import messages as m
from panels_shared.messages import WorkerId
from panels_shared.outcome import Completed, Failed
from tests.support.world import Process, Room, World

KINDS = ("fold", "fold", "fold", "read", "fail", "grow", "shrink", "long")
some = st.integers(0, 10**6)


#: Most panels and pools have none.
LABELS = st.sampled_from(["", "", "gpu"])


class Dispatching(RuleBasedStateMachine):
    """Events in any order; after each the books agree, each commit agrees with the model, and at the end
    all is answered."""

    world: World

    @initialize(
        window=st.sampled_from([1, 2, 4, 16]),
        panels=st.integers(1, 4),
        workers=st.integers(1, 3),
        labelled=st.booleans(),
    )
    def begin(self, window: int, panels: int, workers: int, labelled: bool) -> None:
        self.world = World(window=window)
        for _ in range(panels):
            self.world.add_panel()
        pool = self.world.start_pool()
        for _ in range(workers):
            self.world.deliver(self.world.start_process(pool))
        if labelled:
            self.world.add_panel("gpu")
            self.world.deliver(self.world.start_process(self.world.start_pool("gpu")))

    def room(self, number: int) -> Room:
        return self.world.rooms[number % len(self.world.rooms)]

    def process(self, number: int) -> Process | None:
        processes = self.world.processes
        return processes[number % len(processes)] if processes else None

    @precondition(lambda self: self.world.rooms)
    @rule(number=some, tool=st.integers(0, 2), kind=st.sampled_from(KINDS), count=st.integers(1, 8))
    def submit(self, number: int, tool: int, kind: str, count: int) -> None:
        for _ in range(count):
            self.world.submit(self.room(number), tool, kind)

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(number=some, count=st.integers(1, 12))
    def run(self, number: int, count: int) -> None:
        if (process := self.process(number)) is not None:
            for _ in range(count):
                self.world.run(process)

    @rule(number=some, count=st.integers(1, 12))
    def deliver(self, number: int, count: int) -> None:
        if (process := self.process(number)) is not None:
            for _ in range(count):
                self.world.deliver(process)

    @rule()
    def everything_moves_on(self) -> None:
        self.world.round()

    @rule(number=some, refuse=st.integers(0, 9))
    def pool_answers(self, number: int, refuse: int) -> None:
        pools = sorted(self.world.pools)
        if pools:
            refusal = m.Refusal("unavailable", "no disk") if refuse == 0 else None
            self.world.prepare(pools[number % len(pools)], refusal=refusal)

    @rule(seconds=st.sampled_from([0.001, 0.03, 0.12, 0.6, SETTLE_S + 0.1, 3.0, 7.0, REVOKED_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.world.sleep(seconds)

    @rule(number=some, reported=st.booleans())
    def kill(self, number: int, reported: bool) -> None:
        if (process := self.process(number)) is not None:
            self.world.kill(process, reported=reported)

    @rule(late=st.booleans())
    def confirm_late_or_at_once(self, late: bool) -> None:
        """A journal confirms later than it takes a commit, and whatever happens in between must not
        matter."""
        self.world.late = late
        if not late:
            self.world.settle_late()

    @rule()
    def confirm_what_is_durable(self) -> None:
        self.world.settle_late()

    @rule()
    def kill_all(self) -> None:
        for process in self.world.processes:
            self.world.kill(process, reported=True)

    @rule()
    def news_of_a_death(self) -> None:
        self.world.report_exit()

    @rule(number=some)
    def hang_or_revive(self, number: int) -> None:
        if (process := self.process(number)) is not None:
            process.hung = not process.hung

    @rule(number=some)
    def hello_again(self, number: int) -> None:
        if (process := self.process(number)) is not None and process.able:
            process.join()

    @rule(number=some)
    def leave(self, number: int) -> None:
        """SIGTERM: it answers what it was sent."""
        if (process := self.process(number)) is not None and process.able and process.joined:
            process.outbox.append(m.Goodbye(draining=True))

    @rule(number=some)
    def forget_artifact(self, number: int) -> None:
        """The file in the cache is gone; the pool can make it again."""
        if (process := self.process(number)) is not None:
            process.sandbox._programs.clear()
            process.loader.programs.pop(self.world.sources[number % 3].digest, None)
            self.world.lost_artifacts = True

    @rule(number=some, forged=some)
    def lie(self, number: int, forged: int) -> None:
        if (process := self.process(number)) is not None:
            self.world.forge(process, forged)

    @precondition(lambda self: self.world.rooms)
    @rule(number=some, whole=st.booleans())
    def change_from_outside(self, number: int, whole: bool) -> None:
        self.world.change_from_outside(self.room(number), whole=whole)

    @precondition(lambda self: len(self.world.rooms) < 5)
    @rule(label=LABELS)
    def add_panel(self, label: str) -> None:
        self.world.add_panel(label)

    @precondition(lambda self: self.world.rooms)
    @rule(number=some, chance=st.integers(0, 3))
    def remove_panel(self, number: int, chance: int) -> None:
        if chance == 0:
            self.world.remove_panel(self.room(number))

    @precondition(lambda self: len(self.world.processes) < 9)
    @rule(number=some)
    def start_process(self, number: int) -> None:
        pools = sorted(self.world.pools)
        if pools:
            self.world.start_process(pools[number % len(pools)])

    @precondition(lambda self: len(self.world.pools) < 3)
    @rule(label=LABELS)
    def start_pool(self, label: str) -> None:
        self.world.start_pool(label)

    @precondition(lambda self: self.world.pools)
    @rule(number=some, chance=st.integers(0, 3))
    def stop_pool(self, number: int, chance: int) -> None:
        if chance == 0:
            pools = sorted(self.world.pools)
            self.world.stop_pool(pools[number % len(pools)])

    @invariant()
    def books_agree(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check()
            self.world.check_all_answered()


Dispatching.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestDispatching = pytest.mark.timeout(180)(Dispatching.TestCase)


def random_life(seed: int, steps: int) -> World:
    """A long life: much goes well, so that windows fill, panels move and epochs follow each other, and
    some does not."""
    rng = random.Random(seed)
    world = World(window=rng.choice([1, 3, 8, 64]))
    for _ in range(6):
        world.add_panel()
    pool = world.start_pool()
    for _ in range(3):
        world.deliver(world.start_process(pool))
    for _ in range(steps):
        room = rng.choice(world.rooms)
        for _ in range(rng.choice([1, 1, 2, 12])):
            world.submit(room, rng.randrange(3), rng.choice(KINDS))
        world.flush()
        for pool in world.pools:
            world.prepare(pool)
        for process in world.processes:
            for _ in range(rng.randrange(8)):
                world.run(process)
            for _ in range(rng.randrange(8)):
                world.deliver(process)
        event = rng.random()
        process = rng.choice(world.processes)
        if event < 0.02:
            world.kill(process, reported=rng.random() < 0.7)
        elif event < 0.04:
            process.hung = not process.hung
        elif event < 0.05 and process.able and process.joined:
            process.outbox.append(m.Goodbye(draining=True))
        elif event < 0.09:
            world.change_from_outside(room, whole=rng.random() < 0.5)
        elif event < 0.10:
            world.remove_panel(room)
            world.add_panel()
        elif event < 0.13:
            world.forge(process, rng.randrange(100))
        elif event < 0.2:
            world.report_exit()
        world.sleep(rng.choice([0.0005, 0.0005, 0.002, 0.02, 0.12, 0.5]))
        world.check()
        world.processes = [each for each in world.processes if each.alive or each.outbox]
        while sum(each.able and not each.fenced for each in world.processes) < 3:
            world.start_process(next(iter(world.pools)))
    world.settle()
    world.check()
    world.check_all_answered()
    return world


@pytest.mark.parametrize("seed", range(12))
def test_long_life_of_six_panels_is_serial(seed: int) -> None:
    world = random_life(seed, 250)
    assert world.commits > 200


def test_long_lives_reach_what_they_are_to_test() -> None:
    """A test that never meets an epoch's end, a move or a stale result shows nothing."""
    reached: Counter[str] = Counter()
    for seed in range(100, 106):
        reached.update(random_life(seed, 150).dispatcher.stats())
    rare = ("stale", "forged", "missing", "epochs", "snapshots", "deltas", "workers_lost", "moves")
    assert all(reached[name] > 2 for name in rare), reached


# -- single rules ------------------------------------------------------------------------------------


def small_world(*, workers: int = 1, panels: int = 1, window: int = 4) -> World:
    """A world where every handler is prepared and nothing waits."""
    world = World(window=window)
    for _ in range(panels):
        world.add_panel()
    pool = world.start_pool()
    for _ in range(workers):
        world.deliver(world.start_process(pool))
    for room in world.rooms:
        for tool in range(3):
            world.submit(room, tool, "fold")
    world.round()
    world.check_all_answered()
    return world


def test_jobs_fill_the_window_and_no_more() -> None:
    world = small_world(window=3)
    for _ in range(10):
        world.submit(world.rooms[0], 0, "fold")
    world.flush()
    jobs = [message for message in world.processes[0].inbox if isinstance(message, m.Job)]
    assert [job.index for job in jobs] == [3, 4, 5]
    world.round()
    world.check_all_answered()


def test_panel_stays_where_its_replica_is_and_its_state_is_not_sent_again() -> None:
    world = small_world(workers=2)
    before = world.dispatcher.stats()
    for _ in range(20):
        world.submit(world.rooms[0], 0, "grow")
        world.round()
    after = world.dispatcher.stats()
    assert after["snapshots"] == before["snapshots"]
    assert after["deltas"] <= before["deltas"] + 20  # a refused commit begins one


def test_change_from_outside_is_sent_as_a_delta() -> None:
    world = small_world()
    before = world.dispatcher.stats()
    world.change_from_outside(world.rooms[0], whole=False)
    world.submit(world.rooms[0], 0, "fold")
    world.flush()
    deltas = [message for message in world.processes[0].inbox if isinstance(message, m.Delta)]
    assert [list(delta.changes) for delta in deltas] == [["hash"]]
    world.round()
    assert world.dispatcher.stats()["snapshots"] == before["snapshots"]


def test_results_of_an_ended_epoch_are_stale_and_the_jobs_run_again() -> None:
    world = small_world()
    process = world.processes[0]
    for _ in range(3):
        world.submit(world.rooms[0], 0, "fold")
    world.flush()
    while process.inbox:
        world.run(process)  # their results are on their way when the state changes
    world.change_from_outside(world.rooms[0], whole=True)
    stale = world.dispatcher.stats()["stale"]
    world.round()
    world.check_all_answered()
    assert world.dispatcher.stats()["stale"] == stale + 3


def test_one_panel_with_a_thousand_jobs_does_not_delay_another() -> None:
    world = World(window=64, queue_per_panel=1_000)
    flood, single = world.add_panel(), world.add_panel()
    pool = world.start_pool()
    world.deliver(world.start_process(pool))
    for room in world.rooms:
        world.submit(room, 0, "fold")
    world.round()
    for _ in range(50):
        world.submit(flood, 0, "fold")
    world.submit(single, 0, "fold")
    world.flush()
    jobs = [message for message in world.processes[0].inbox if isinstance(message, m.Job)]
    panels = [job.panel for job in jobs]
    assert panels.index(single.panel.key) <= 2
    world.round()
    world.check_all_answered()


def test_new_worker_gets_its_share_and_panels_do_not_oscillate() -> None:
    world = small_world(panels=6)
    world.start_process(next(iter(world.pools)))
    for _ in range(300):
        for room in world.rooms:
            for _ in range(4):
                world.submit(room, 0, "fold")
        world.flush()
        world.sleep(0.011)
        world.round()
        world.check()
    assert 1 <= world.dispatcher.stats()["moves"] <= 6
    counts = Counter(world.dispatcher._fleet.lanes[room.panel.key].worker for room in world.rooms)
    assert sorted(counts.values()) == [3, 3]


def test_machine_that_stands_still_does_not_make_panels_wander() -> None:
    world = small_world(workers=2, panels=6)
    before = world.dispatcher.stats()["moves"]
    for _ in range(10):
        for room in world.rooms:
            for _ in range(4):
                world.submit(room, 0, "fold")
        world.flush()
        world.sleep(0.3)
        world.round()
    assert world.dispatcher.stats()["moves"] - before <= 6


def test_panels_leave_a_worker_that_is_stalled_by_a_long_job() -> None:
    world = small_world(workers=2, panels=2)
    first, second = world.rooms
    lanes = world.dispatcher._fleet.lanes
    world.dispatcher._mover.move(lanes[second.panel.key], lanes[first.panel.key].worker, world.now)
    world.round()
    stalled = lanes[first.panel.key].worker
    assert stalled is not None
    process = next(each for each in world.processes if each.id == stalled.id)
    world.submit(first, 0, "fold")
    world.flush()
    process.hung = True
    world.submit(second, 0, "fold")
    world.flush()
    world.sleep(0.05)
    world.round()
    assert not second.waiting
    assert first.waiting
    process.hung = False
    world.round()
    world.check_all_answered()


def test_job_that_killed_two_workers_is_answered_and_the_next_one_runs() -> None:
    world = small_world()
    room = world.rooms[0]
    world.submit(room, 0, "fold")
    world.submit(room, 0, "read")
    for _ in range(2):
        world.round() if not room.waiting else world.flush()
        for process in world.processes:
            world.kill(process, reported=True)
        world.report_exit()
        world.deliver(world.start_process(next(iter(world.pools))))
        world.sleep(0.001)
    world.round()
    answers = [trigger.answer for trigger in world.triggers[-2:]]
    assert answers[0] == "WORKER_LOST"
    assert isinstance(answers[1], Completed)


def test_all_workers_dying_at_once_is_no_jobs_fault() -> None:
    world = small_world(workers=3, panels=3)
    for room in world.rooms:
        for _ in range(4):
            world.submit(room, 0, "fold")
    world.flush()
    for process in world.processes:
        world.kill(process, reported=True)
    while world.exits:
        world.report_exit()
        world.flush()
    for _ in range(3):
        world.start_process(next(iter(world.pools)))
    world.settle()
    assert not [trigger for trigger in world.triggers if not isinstance(trigger.answer, Completed)]


def test_hung_worker_is_given_up_after_its_jobs_deadline() -> None:
    world = small_world(workers=2)
    room = world.rooms[0]
    worker = world.dispatcher._fleet.lanes[room.panel.key].worker
    assert worker is not None
    process = next(each for each in world.processes if each.id == worker.id)
    world.submit(room, 0, "fold")
    world.flush()
    process.hung = True
    world.sleep(5.5)
    assert room.waiting
    world.sleep(1.0)
    world.round()
    assert not room.waiting


def test_failed_job_changes_nothing_and_the_epoch_goes_on() -> None:
    world = small_world(window=8)
    epochs = world.dispatcher.stats()["epochs"]
    for kind in ("fold", "fail", "fold", "fail", "read"):
        world.submit(world.rooms[0], 0, kind)
    world.round()
    kinds = [type(trigger.answer) for trigger in world.triggers[-5:]]
    assert kinds == [Completed, Failed, Completed, Failed, Completed]
    assert world.dispatcher.stats()["epochs"] == epochs


def test_full_queue_says_when_to_come_again() -> None:
    world = World(queue_per_panel=5)
    room = world.add_panel()
    for _ in range(5):
        assert world.submit(room, 0, "fold")
    trigger = world.triggers[-1].trigger
    with pytest.raises(OverloadedError, match="queue of the panel") as caught:
        world.dispatcher.offer(trigger, world.now)
    assert 10 <= caught.value.retry_after_ms <= 10_000
    world.settle()
    world.check_all_answered()


def test_handler_is_asked_of_one_pool_and_again_of_another_when_that_is_gone() -> None:
    world = World()
    handler = world.sources[0]
    assert world.dispatcher.preparations.prepare(handler, world.now) is Preparation.PENDING
    first = world.start_pool()
    second = world.start_pool()
    world.flush()
    assert (len(world.pools[first]), len(world.pools[second])) == (1, 0)
    world.stop_pool(first)
    world.flush()
    assert len(world.pools[second]) == 1
    world.dispatcher.prepared(second, m.Prepared(handler.digest, None), world.now)
    assert world.dispatcher.preparations.take_prepared() == [(handler.digest, None)]
    assert world.dispatcher.preparations.prepare(handler, world.now) is Preparation.READY


def test_refusal_is_remembered_and_a_transient_one_is_not() -> None:
    world = World()
    pool = world.start_pool()
    for source, code in zip(world.sources[:2], ("malformed", "unavailable"), strict=True):
        world.dispatcher.preparations.prepare(source, world.now)
        world.dispatcher.prepared(pool, m.Prepared(source.digest, m.Refusal(code, "no")), world.now)
    first, second = world.sources[:2]
    assert world.dispatcher.preparations.prepare(first, world.now) == m.Refusal("malformed", "no")
    assert world.dispatcher.preparations.prepare(second, world.now) is Preparation.PENDING


def test_handler_that_nobody_prepares_is_refused_after_a_while() -> None:
    world = World()
    world.dispatcher.preparations.prepare(world.sources[0], world.now)
    world.now += 11
    world.dispatcher.tick(world.now)
    ((digest, refusal),) = world.dispatcher.preparations.take_prepared()
    assert digest == world.sources[0].digest
    assert refusal is not None
    assert refusal.code == "unavailable"


# -- confirm and refuse ------------------------------------------------------------------------------


def told_forgettable(process: Process) -> list[int]:
    """What each job that waits for ``process`` says may be forgotten."""
    return [message.committed for message in process.inbox if isinstance(message, m.Job)]


def test_nothing_is_forgettable_before_confirm() -> None:
    world = small_world(window=8)
    (room,), (process,) = world.rooms, world.processes
    world.change_from_outside(room, whole=False)  # begins an epoch
    world.late = True
    for _ in range(3):
        world.submit(room, 0, "fold")
        world.round()
    world.submit(room, 0, "fold")
    world.flush()
    assert told_forgettable(process) == [-1]
    world.settle_late()
    world.submit(room, 0, "fold")
    world.flush()
    assert told_forgettable(process) == [-1, 2]
    world.settle()
    world.check_all_answered()


def test_confirm_after_the_end_of_the_epoch_moves_the_position_it_left() -> None:
    world = small_world(window=8)
    (room,), (process,) = world.rooms, world.processes
    world.change_from_outside(room, whole=False)
    world.late = True
    for _ in range(2):
        world.submit(room, 0, "fold")
    world.round()
    world.change_from_outside(room, whole=False)
    ((_, position),) = world.dispatcher._fleet.lanes[room.panel.key].positions.items()
    assert position.index == -1
    world.settle_late()
    world.submit(room, 0, "fold")
    world.flush()
    (delta,) = [message for message in process.inbox if isinstance(message, m.Delta)]
    assert (delta.base_epoch, delta.base_index) == (position.epoch, 1)
    world.settle()
    world.check_all_answered()


def test_late_confirm_of_an_ended_epoch_does_not_touch_the_next_one() -> None:
    world = small_world(window=8)
    (room,), (process,) = world.rooms, world.processes
    world.late = True
    world.submit(room, 0, "fold")
    world.round()
    world.change_from_outside(room, whole=True)
    world.submit(room, 0, "fold")
    world.flush()  # the next epoch is open
    world.settle_late()
    world.submit(room, 0, "fold")
    world.flush()
    assert told_forgettable(process) == [-1, -1]
    world.settle()
    world.check_all_answered()


def test_refused_run_is_undone_by_its_worker() -> None:
    world = small_world(window=8)
    room = world.rooms[0]
    for number in range(60):
        world.submit(room, 0, "grow" if number % 2 else "fold")
        world.round()
    refused = [asked for asked in world.triggers if isinstance(asked.answer, str)]
    assert refused  # and each result after one was compared with the model's
    world.check_all_answered()


def test_confirming_out_of_order_is_an_error() -> None:
    world = small_world(window=8)
    room = world.rooms[0]
    world.late = True
    for _ in range(2):
        world.submit(room, 0, "fold")
    world.round()
    _, second = world.unsettled
    with pytest.raises(AssertionError, match="in their order"):
        world.dispatcher.confirm(second)


def test_confirm_and_refuse_of_a_removed_panel_do_nothing() -> None:
    world = small_world(window=8)
    room = world.rooms[0]
    world.late = True
    for _ in range(2):
        world.submit(room, 0, "fold")
    world.round()
    first, second = world.unsettled
    world.remove_panel(room)
    world.unsettled.clear()
    before = world.dispatcher.stats()
    world.dispatcher.confirm(first)
    world.dispatcher.refuse(second)
    assert world.dispatcher.stats() == before
    assert world.dispatcher.ready


def test_trigger_whose_tool_cannot_be_loaded_is_given_up() -> None:
    world = small_world()
    (room,), (process,) = world.rooms, world.processes
    world.lost_artifacts = True
    process.sandbox._programs.clear()
    process.loader.programs.clear()
    before = world.dispatcher.stats()["missing"]
    world.submit(room, 0, "fold")
    world.round()
    assert world.triggers[-1].answer == "WORKER_LOST"
    assert world.dispatcher.stats()["missing"] == before + MAX_MISSES + 1


def test_worker_that_introduces_itself_again_or_leaves_is_not_counted_as_lost() -> None:
    """A fresh gateway beside an old pool hears two Hellos of each sandbox."""
    dispatcher = Dispatcher()
    pool, worker = WorkerId(b"p" * 16), WorkerId(b"w" * 16)
    dispatcher.hello(pool, m.Hello("pool", b"", 1, {}), 0.0)
    for now in (0.0, 0.1):
        dispatcher.hello(worker, m.Hello("sandbox", pool, 2, {}), now)
    dispatcher.goodbye(worker, draining=False, now=0.2)
    assert dispatcher.stats()["workers_lost"] == 0
    dispatcher.hello(worker, m.Hello("sandbox", pool, 2, {}), 0.3)
    dispatcher.lost(worker, 0.4)
    assert dispatcher.stats()["workers_lost"] == 1


def test_withdraw_takes_back_all_that_was_not_accepted_in_order() -> None:
    world = small_world(window=2)
    room = world.rooms[0]
    for _ in range(4):
        world.submit(room, 0, "fold")
    world.flush()
    dispatcher, panel = world.dispatcher, room.panel
    before = dispatcher.unanswered
    triggers = dispatcher.withdraw(panel)
    assert len(triggers) == before == 4
    assert [trigger.submitted_s for trigger in triggers] == sorted(t.submitted_s for t in triggers)
    assert (dispatcher.unanswered, dispatcher.busy(panel)) == (0, False)
    assert dispatcher.withdraw(panel) == []
    # what is in flight is stale, and what is offered again runs
    for trigger in triggers:
        dispatcher.offer(trigger, world.now)
    world.round()
    world.check_all_answered()


def test_job_that_is_taken_by_a_peer_in_a_loop_is_answered_and_sent_a_bounded_number_of_times() -> None:
    world = small_world()
    process = world.processes[0]
    world.submit(world.rooms[0], 0, "fold")
    asked = world.triggers[-1]
    sent = 0
    while asked.answer is None:
        world.flush()
        sent += sum(isinstance(message, m.Job) for message in process.inbox)
        assert sent <= MAX_INTERRUPTIONS
        process.inbox.clear()
        process.join()
        world.deliver(process)
        world.sleep(0.1)
    assert asked.answer == "WORKER_LOST"
    assert world.dispatcher.stats()["refused"] > 0


def test_job_that_is_kept_for_long_by_peers_that_leave_is_answered_within_its_deadlines() -> None:
    world = small_world()
    process = world.processes[0]
    world.submit(world.rooms[0], 0, "fold")
    asked = world.triggers[-1]
    began = world.now
    deadline_s = asked.trigger.tool.limits[1] / 1_000 + GRACE_S
    while asked.answer is None:
        world.flush()
        process.inbox.clear()
        world.sleep(deadline_s * 0.9)
        process.join()
        world.deliver(process)
    assert world.now - began < (MAX_ATTEMPTS + 1) * deadline_s


def test_result_that_nobody_waits_for_is_counted() -> None:
    world = small_world()
    process = world.processes[0]
    before = world.dispatcher.stats()["stale"]
    assert world.dispatcher.awaits(process.id, 10**6) is None
    world.dispatcher.unread(process.id, 10**6, world.now)
    world.dispatcher.unread(WorkerId(b"nobody"), 1, world.now)
    assert world.dispatcher.stats()["stale"] == before + 2


def test_frames_are_bounded_by_what_their_senders_were_asked() -> None:
    world = small_world()
    process = world.processes[0]
    idle = world.dispatcher.frame_bytes(process.id)
    world.submit(world.rooms[0], 0, "fold")
    world.flush()
    assert world.dispatcher.frame_bytes(process.id) > idle
    assert world.dispatcher.frame_bytes(WorkerId(b"nobody")) == idle
    assert world.dispatcher.frame_bytes(WorkerId(process.pool)) == idle


# -- labels ------------------------------------------------------------------------------------------


def test_panel_with_a_label_waits_for_a_pool_that_has_it() -> None:
    world = small_world()
    room = world.add_panel("gpu")
    world.submit(room, 0, "fold")
    world.round()
    assert len(room.waiting) == 1
    other = world.start_pool("gpu")
    world.start_process(other)
    world.round()
    world.check()
    world.check_all_answered()


def test_labelled_pool_is_dedicated_and_gives_up_its_panels_with_its_labels() -> None:
    world = small_world()
    (room,) = world.rooms
    pool = world.start_pool("gpu")
    world.deliver(world.start_process(pool))
    labelled = world.add_panel("gpu")
    world.kill(world.processes[0], reported=True)
    world.report_exit()
    for each in (room, labelled):
        world.submit(each, 0, "fold")
    world.round()
    assert [len(each.waiting) for each in (room, labelled)] == [1, 0]
    # the same pool, with other labels
    world.submit(labelled, 0, "fold")
    world.labels[pool] = ""
    world.dispatcher.hello(m.WorkerId(pool), m.Hello("pool", b"", 1, {}), world.now)
    world.round()
    world.round()
    world.check()
    assert [len(each.waiting) for each in (room, labelled)] == [0, 1]
