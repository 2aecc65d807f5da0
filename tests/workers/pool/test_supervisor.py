"""The supervisor, by example and against random lives of processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from panels_shared.messages import WorkerId
from panels_shared.restart import RestartPolicy
from panels_worker.pool.supervisor import Announce, Finish, Instruction, Kill, Spawn, Supervisor, Terminate
from panels_worker.settings import Bounds
from panels_worker.status import Exit, Report, State

BOUNDS = Bounds(
    max_rss_bytes=1000, max_jobs=10, max_busy_s=5, silence_s=15, handover_s=10, grace_s=3, boot_tries=3
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

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), state=st.sampled_from(State), jobs=st.integers(0, 12), rss=st.integers(0, 1200))
    def report(self, data: st.DataObject, state: State, jobs: int, rss: int) -> None:
        who = data.draw(st.sampled_from(sorted(self.alive)))
        self.do(self.supervisor.reported(who, Report(state, jobs, 0), rss, self.now_s))

    @precondition(lambda self: self.alive)
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


TestSupervisor = SupervisorMachine.TestCase
TestSupervisor.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
