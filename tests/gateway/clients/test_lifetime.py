"""When a client is warned and when it ends, on clocks that the test moves."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.clients.lifetime import MAX_SLEEP_S, Lifetime


class Loop:
    """Timers on a clock of their own. ``wall_s`` is another one; it goes as fast, unless it is set."""

    def __init__(self, wall_s: float = 1_000.0) -> None:
        self.now_s = 0.0
        self.wall_s = wall_s
        self.calls = 0
        self._timers: list[tuple[float, int, Handle]] = []
        self._numbers = itertools.count()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Handle:
        assert 0 < delay_s <= MAX_SLEEP_S
        handle = Handle(action)
        heapq.heappush(self._timers, (self.now_s + delay_s, next(self._numbers), handle))
        return handle

    @property
    def armed(self) -> int:
        return sum(handle.action is not None for _, _, handle in self._timers)

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._timers and self._timers[0][0] <= until_s:
            at_s, _, handle = heapq.heappop(self._timers)
            self.wall_s += at_s - self.now_s
            self.now_s = at_s
            if handle.action is not None:
                self.calls += 1
                handle.action()
        self.wall_s += until_s - self.now_s
        self.now_s = until_s


class Handle:
    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Life:
    """A lifetime, and when what came of it by the wall clock."""

    def __init__(self, loop: Loop, left_s: float | None, warning_s: float = 60.0) -> None:
        self.warned: list[float] = []
        self.ended: list[float] = []
        self.lifetime = Lifetime(
            None if left_s is None else loop.wall_s + left_s,
            warning_s=warning_s,
            clock=lambda: loop.wall_s,
            call_later=loop.call_later,
            warn=lambda expires_at: self.warned.append(loop.wall_s),
            end=lambda: self.ended.append(loop.wall_s),
        )


def test_client_is_warned_and_ends_at_its_times() -> None:
    loop = Loop()
    life = Life(loop, 3_600)
    loop.run(3_539)
    assert life.warned == []
    loop.run(60.9)
    assert (life.warned, life.ended) == ([1_000 + 3_540], [])
    loop.run(10_000)
    assert life.ended == [1_000 + 3_600]
    assert loop.armed == 0


def test_client_without_much_time_is_not_warned() -> None:
    loop = Loop()
    short, silent, forever = Life(loop, 60), Life(loop, 600, warning_s=0), Life(loop, None)
    loop.run(1_000)
    assert short.warned == silent.warned == forever.warned == forever.ended == []
    assert (short.ended, silent.ended) == ([1_060], [1_600])


def test_token_that_has_expired_ends_at_once() -> None:
    life = Life(Loop(), -3)
    assert life.ended == [1_000]


def test_renewal_counts_from_anew() -> None:
    loop = Loop()
    life = Life(loop, 100)
    loop.run(50)
    life.lifetime.renew(1_000 + 500)
    loop.run(440)
    assert (life.warned, life.ended) == ([1_040, 1_440], [])
    life.lifetime.renew(None)
    loop.run(1_000)
    assert life.ended == []
    assert loop.armed == 0


def test_nothing_comes_after_stop() -> None:
    loop = Loop()
    life = Life(loop, 100)
    life.lifetime.stop()
    life.lifetime.stop()
    loop.run(1_000)
    assert (life.warned, life.ended, loop.armed) == ([], [], 0)


def test_idle_client_costs_a_call_a_minute() -> None:
    loop = Loop()
    Life(loop, 86_400)
    loop.run(3_600)
    assert loop.calls == 60


@given(
    left_s=st.floats(0.01, 10_000),
    jumps=st.lists(st.tuples(st.floats(0, 500), st.floats(-2_000, 2_000)), max_size=6),
)
def test_end_comes_never_early_and_after_a_jump_within_a_minute(
    left_s: float, jumps: list[tuple[float, float]]
) -> None:
    loop = Loop()
    expires_at = loop.wall_s + left_s
    life = Life(loop, left_s)
    passed_at_s: float | None = None
    for run_s, jump_s in jumps:
        loop.run(run_s)
        loop.wall_s += jump_s
        if life.ended:
            break
        if loop.wall_s >= expires_at:
            loop.run(MAX_SLEEP_S)
            assert life.ended
            passed_at_s = loop.now_s
            break
    if not life.ended:
        loop.run(expires_at - loop.wall_s + 1.0)
        assert life.ended
        assert passed_at_s is None
    assert len(life.ended) == 1
    assert life.ended[0] >= expires_at
    assert loop.armed == 0
