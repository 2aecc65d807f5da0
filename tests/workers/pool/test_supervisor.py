"""The supervisor, by example and against random lives of processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from panels_shared.messages import WorkerId
from panels_shared.restart import RestartPolicy
from panels_worker.pool.supervisor import (
    Announce,
    Finish,
    Instruction,
    Kill,
    Spawn,
    Stage,
    Supervisor,
    Terminate,
)
from panels_worker.settings import Bounds
from panels_worker.status import Exit, Report, State

BOUNDS = Bounds(
    max_rss_bytes=1000,
    max_jobs=10,
    max_age_s=100,
    max_busy_s=5,
    silence_s=15,
    handover_s=10,
    grace_s=3,
    boot_tries=3,
    crash_tries=4,
)
READY = Report(State.READY, 1, 0)


def worker(number: int) -> WorkerId:
    return WorkerId(number.to_bytes(16, "big"))


def ids() -> Iterator[WorkerId]:
    return (worker(number) for number in count(1))


def new_supervisor(processes: int = 1) -> Supervisor:
    return Supervisor(processes, ids().__next__, lambda: 0.0, BOUNDS, RestartPolicy(initial_s=0.1))


def test_supervisor_starts_as_many_processes_as_it_has_slots() -> None:
    assert new_supervisor(2).start(0.0) == [Spawn(worker(1)), Spawn(worker(2))]


def test_supervisor_announces_and_replaces_at_once_a_process_that_was_stable() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 1.0)
    assert supervisor.exited(worker(1), -9, 9.0) == [Announce(worker(1)), Spawn(worker(2))]


def test_supervisor_backs_off_when_a_process_dies_young() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    assert supervisor.exited(worker(1), -9, 0.2) == [Announce(worker(1))]
    assert supervisor.tick(0.29) == []
    assert supervisor.tick(0.31) == [Spawn(worker(2))]


def test_supervisor_ends_the_pool_when_nothing_can_start() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.exited(worker(1), Exit.BOOT, 1.0)
    supervisor.exited(worker(2), Exit.BOOT, 5.0)
    assert supervisor.exited(worker(3), Exit.BOOT, 9.0)[-1] == Finish(Exit.BOOT)


def test_supervisor_goes_on_after_boot_failures_once_a_process_was_ready() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 0.5)
    for number in range(1, 20):
        todo = supervisor.exited(worker(number), Exit.BOOT, number * 10.0)
        assert Finish(Exit.BOOT) not in todo


def test_supervisor_retires_a_large_process_when_its_successor_is_ready() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 0.5)
    assert supervisor.reported(worker(1), READY, 1001, 1.0) == [Spawn(worker(2))]
    assert supervisor.reported(worker(1), READY, 1002, 1.5) == []
    assert supervisor.reported(worker(2), READY, 10, 2.0) == [Terminate(worker(1))]
    assert supervisor.exited(worker(1), 0, 2.5) == [Announce(worker(1))]
    assert supervisor.workers == [worker(2)]


def test_supervisor_retires_a_process_that_has_run_enough_jobs() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    assert supervisor.reported(worker(1), Report(State.READY, 11, 0), 0, 1.0) == [Spawn(worker(2))]


def test_supervisor_retires_one_process_at_a_time() -> None:
    supervisor = new_supervisor(2)
    supervisor.start(0.0)
    assert supervisor.reported(worker(1), READY, 2000, 1.0) == [Spawn(worker(3))]
    assert supervisor.reported(worker(2), READY, 2000, 1.0) == []


def test_supervisor_drains_a_large_process_whose_successor_never_comes() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 2000, 1.0)
    assert supervisor.tick(11.0) == [Terminate(worker(1))]


def test_supervisor_kills_a_process_that_does_not_drain_in_time() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    assert supervisor.stop(1.0) == [Terminate(worker(1))]
    assert [type(step) for step in supervisor.tick(4.0)] == [Kill]
    assert supervisor.exited(worker(1), -9, 4.1) == [Announce(worker(1)), Finish(0)]


def test_supervisor_kills_a_process_that_is_silent() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 1.0)
    assert supervisor.tick(15.9) == []
    assert [type(step) for step in supervisor.tick(16.0)] == [Kill]


def test_supervisor_kills_a_process_whose_job_runs_for_ever() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    assert [type(s) for s in supervisor.reported(worker(1), Report(State.READY, 1, 5001), 0, 9.0)] == [Kill]


def test_supervisor_kills_all_when_told_twice_to_stop() -> None:
    supervisor = new_supervisor(2)
    supervisor.start(0.0)
    supervisor.stop(1.0)
    assert [type(step) for step in supervisor.stop(1.1)] == [Kill, Kill]


def test_supervisor_replaces_all_processes_one_by_one_when_asked_to() -> None:
    supervisor = new_supervisor(2)
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 0.5)
    supervisor.reported(worker(2), READY, 0, 0.5)
    assert supervisor.replace(1.0) == [Spawn(worker(3))]
    assert supervisor.replace(1.1) == []
    assert supervisor.reported(worker(3), READY, 0, 2.0) == [Terminate(worker(1))]
    # the next one's turn comes when the one before has ended
    assert supervisor.tick(2.5) == []
    assert supervisor.exited(worker(1), 0, 3.0) == [Announce(worker(1)), Spawn(worker(4))]
    assert supervisor.reported(worker(4), READY, 0, 4.0) == [Terminate(worker(2))]
    # worker 3 was there when it was asked the second time
    assert supervisor.exited(worker(2), 0, 5.0) == [Announce(worker(2)), Spawn(worker(5))]
    assert supervisor.reported(worker(5), READY, 0, 6.0) == [Terminate(worker(3))]
    assert supervisor.exited(worker(3), 0, 7.0) == [Announce(worker(3))]
    assert supervisor.workers == [worker(4), worker(5)]


def test_supervisor_keeps_what_it_replaces_until_a_successor_is_ready() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 0.5)
    assert supervisor.replace(1.0) == [Spawn(worker(2))]
    assert supervisor.exited(worker(2), 1, 1.5) == [Announce(worker(2))]
    supervisor.reported(worker(1), READY, 0, 9.0)
    assert supervisor.tick(11.5) == [Spawn(worker(3))]
    assert supervisor.tick(21.5) == []
    assert supervisor.ready == 1
    assert supervisor.reported(worker(3), READY, 0, 22.0) == [Terminate(worker(1))]


def test_supervisor_drains_a_large_process_without_a_successor_only_while_all_others_serve() -> None:
    supervisor = new_supervisor(2)
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 2000, 1.0)
    supervisor.reported(worker(1), READY, 2000, 10.0)
    assert Terminate(worker(1)) not in supervisor.tick(11.0)
    supervisor.reported(worker(2), READY, 0, 12.0)
    supervisor.reported(worker(1), READY, 2000, 20.0)
    assert Terminate(worker(1)) in supervisor.tick(21.0)


def test_supervisor_replaces_what_is_old_one_after_another() -> None:
    chances = iter([0.0, 1.0, 0.0, 0.0])
    supervisor = Supervisor(2, ids().__next__, chances.__next__, BOUNDS)
    supervisor.start(0.0)
    for now_s in range(0, 80, 10):
        supervisor.reported(worker(1), READY, 0, now_s)
        supervisor.reported(worker(2), READY, 0, now_s)
    assert supervisor.tick(79.9) == []
    assert supervisor.deadline_s == 80.0
    assert supervisor.tick(80.0) == [Spawn(worker(3))]  # of the second, whose life is shorter by a fifth
    assert supervisor.reported(worker(3), READY, 0, 81.0) == [Terminate(worker(2))]
    assert supervisor.exited(worker(2), 0, 82.0) == [Announce(worker(2))]
    supervisor.reported(worker(1), READY, 0, 90.0)
    supervisor.reported(worker(3), READY, 0, 90.0)
    assert supervisor.tick(99.9) == []
    assert supervisor.tick(100.0) == [Spawn(worker(4))]


def test_supervisor_ends_the_pool_when_processes_end_again_and_again_unready() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    for number in range(1, BOUNDS.crash_tries):
        supervisor.exited(worker(number), -11, number * 10.0)
        supervisor.tick(number * 10.0 + 5)
    assert supervisor.exited(worker(4), -11, 50.0) == [Announce(worker(4)), Finish(Exit.CRASH_LOOP)]


def test_supervisor_never_ends_the_pool_for_processes_that_were_ready() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    for number in range(1, 30):
        supervisor.reported(worker(number), READY, 0, number * 10.0)
        todo = supervisor.exited(worker(number), -11, number * 10.0) + supervisor.tick(number * 10.0 + 5)
        assert todo == [Announce(worker(number)), Spawn(worker(number + 1))]


def test_supervisor_never_ends_the_pool_for_processes_that_lost_their_gateway() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    for number in range(1, 30):
        todo = supervisor.exited(worker(number), Exit.LOST, number * 10.0)
        todo += supervisor.tick(number * 10.0 + 5)
        assert todo == [Announce(worker(number)), Spawn(worker(number + 1))]


def test_supervisor_goes_on_while_old_processes_serve_and_new_ones_cannot_start() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 0.5)
    supervisor.replace(1.0)
    for number in range(2, 40):
        supervisor.reported(worker(1), READY, 0, number * 10.0)
        todo = supervisor.exited(worker(number), 1, number * 10.0) + supervisor.tick(number * 10.0 + 5)
        assert todo == [Announce(worker(number)), Spawn(worker(number + 1))]
    assert supervisor.ready == 1


class SupervisorMachine(RuleBasedStateMachine):
    """A pool whose processes report, grow, hang and die at random."""

    @initialize(processes=st.integers(1, 3))
    def start(self, processes: int) -> None:
        self.now_s = 0.0
        self.alive: set[WorkerId] = set()
        self.told: set[WorkerId] = set()
        self.announced: list[WorkerId] = []
        self.died: list[WorkerId] = []
        self.finished = False
        self.supervisor = new_supervisor(processes)
        self.do(self.supervisor.start(0.0))

    def do(self, todo: list[Instruction]) -> None:
        for step in todo:
            assert not self.finished
            if isinstance(step, Spawn):
                assert not self.supervisor.stopping
                self.alive.add(step.worker)
            elif isinstance(step, Announce):
                self.announced.append(step.worker)
            elif isinstance(step, Finish):
                self.finished = True
            else:
                assert step.worker in self.alive
                self.told.add(step.worker)
                if isinstance(step, Terminate) and not self.supervisor.stopping:
                    self.check_handover(step.worker)

    def check_handover(self, worker: WorkerId) -> None:
        """Nobody drains before a successor is ready, but one that is too large while all others serve. So the
        supervisor never leaves fewer than all but one ready, whatever dies beside that.
        """
        slots = self.supervisor._slots
        going = self.supervisor._children[worker]
        successor = going.slot.current
        if successor is None or successor.stage is not Stage.READY:
            assert going.too_large
            assert self.supervisor.ready == len(slots) - 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), state=st.sampled_from(State), jobs=st.integers(0, 12), rss=st.integers(0, 1200))
    def report(self, data: st.DataObject, state: State, jobs: int, rss: int) -> None:
        who = data.draw(st.sampled_from(sorted(self.alive)))
        self.do(self.supervisor.reported(who, Report(state, jobs, 0), rss, self.now_s))

    # once it has finished, its owner kills and buries what is left
    @precondition(lambda self: self.alive and not self.finished)
    @rule(data=st.data(), code=st.sampled_from([0, -9, -11, 1, Exit.LOST]))
    def die(self, data: st.DataObject, code: int) -> None:
        who = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.remove(who)
        self.died.append(who)
        self.do(self.supervisor.exited(who, code, self.now_s))
        self.do(self.supervisor.exited(who, code, self.now_s))

    @rule(pause_s=st.floats(0, 20))
    def wait(self, pause_s: float) -> None:
        self.now_s += pause_s
        self.do(self.supervisor.tick(self.now_s))
        deadline_s = self.supervisor.deadline_s
        assert deadline_s is None or deadline_s > self.now_s

    @rule()
    def replace(self) -> None:
        self.do(self.supervisor.replace(self.now_s))

    @rule()
    def all_are_ready(self) -> None:
        for who in sorted(self.alive):
            self.do(self.supervisor.reported(who, READY, 0, self.now_s))

    @rule()
    def stop(self) -> None:
        if not self.finished:
            self.do(self.supervisor.stop(self.now_s))

    @invariant()
    def keeps_its_promises(self) -> None:
        if not hasattr(self, "supervisor"):
            return
        assert self.announced == self.died
        assert set(self.supervisor.workers) == self.alive
        if self.supervisor.stopping:
            assert self.told >= self.alive
            assert self.finished or self.alive
        else:
            slots = self.supervisor._slots
            assert all((slot.current is None) == (slot.start_s is not None) for slot in slots)
            # every process too many is one that is on its way out
            assert len(self.alive) <= len(slots) + 1 + len(self.told)
            retiring = [c for c in self.supervisor._children.values() if c.stage is Stage.RETIRING]
            assert len(retiring) <= 1


TestSupervisor = SupervisorMachine.TestCase
TestSupervisor.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_supervisor_kills_what_the_gateway_says_hangs_and_starts_another() -> None:
    supervisor = new_supervisor()
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 1.0)
    (kill,) = supervisor.hangs(worker(1))
    assert isinstance(kill, Kill)
    assert kill.worker == worker(1)
    assert supervisor.hangs(worker(1)) == [], "it is told once"
    assert supervisor.hangs(worker(9)) == [], "nobody knows it"
    assert supervisor.exited(worker(1), -9, 9.0) == [Announce(worker(1)), Spawn(worker(2))]
    assert (supervisor.started, supervisor.killed, supervisor.crashed) == (2, 1, 0)


def test_supervisor_counts_starts_and_what_ends_without_having_been_told_to() -> None:
    supervisor = new_supervisor(2)
    supervisor.start(0.0)
    supervisor.reported(worker(1), READY, 0, 1.0)
    supervisor.exited(worker(1), -11, 9.0)
    supervisor.exited(worker(2), Exit.LOST, 9.0)
    assert (supervisor.started, supervisor.crashed, supervisor.killed) == (4, 1, 0)
