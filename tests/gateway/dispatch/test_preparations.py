"""Which handlers are to be compiled, who is asked, and what waits for it."""

from __future__ import annotations

from panels_gateway.dispatch.catalog import HandlerCatalog, Preparation
from panels_gateway.dispatch.compile_queue import CompileLimits
from panels_gateway.dispatch.fleet import Fleet, Pool
from panels_gateway.dispatch.preparations import (
    NO_POOL_S,
    OVER_BUDGET,
    PATIENCE_S,
    PREPARE_S,
    Preparations,
    Unblocked,
    key_of,
)
from panels_shared import messages as m
from panels_shared.liveness import Liveness
from panels_shared.messages import PoolId, Refusal
from tests.gateway.dispatch import builders as b
from tests.support.world import Source

DIGEST = b.SOURCE.digest
ASKED = m.Prepare(DIGEST, "wat", "handle", b.SOURCE.source)
SECOND = PoolId(b"second")


class Desk:
    """Preparations, and what they work on; one handler is in use."""

    def __init__(self, *, pools: int = 1) -> None:
        self.fleet = Fleet()
        self.catalog = HandlerCatalog()
        self.catalog.acquire([b.SOURCE])
        self.preparations = Preparations(self.fleet, self.catalog)
        self.pools = [b.pool(self.fleet, pool_id) for pool_id in (b.POOL, SECOND)[:pools]]

    def answer(
        self, refusal: Refusal | None = None, pool: PoolId = b.POOL, now: float = 1.0
    ) -> Unblocked | None:
        return self.preparations.prepared(pool, m.Prepared(DIGEST, refusal), now)


def test_handler_is_ready_once_a_pool_has_prepared_it() -> None:
    desk = Desk(pools=2)
    assert desk.preparations.prepare(b.SOURCE, 0.0) is Preparation.PENDING
    assert desk.preparations.prepare(b.SOURCE, 0.5) is Preparation.PENDING
    assert [pool.outbox for pool in desk.pools] == [[ASKED], []]
    assert desk.answer() == Unblocked((), DIGEST, None)
    assert desk.pools[0].liveness.last_heard_s == 1.0
    assert desk.preparations.take_prepared() == [(DIGEST, None)]
    assert desk.preparations.take_prepared() == []
    assert desk.preparations.prepare(b.SOURCE, 2.0) is Preparation.READY


def test_pool_with_the_least_to_prepare_is_asked() -> None:
    desk = Desk(pools=2)
    desk.preparations.prepare(b.SOURCE, 0.0)
    desk.preparations.prepare(Source(b"\2" * 32), 0.0)
    assert [len(pool.outbox) for pool in desk.pools] == [1, 1]


def test_answer_of_a_pool_that_was_not_asked_changes_nothing() -> None:
    desk = Desk(pools=2)
    desk.preparations.prepare(b.SOURCE, 0.0)
    assert desk.answer(pool=SECOND) is None
    assert desk.answer(pool=PoolId(b"nobody")) is None
    assert desk.preparations.take_prepared() == []
    assert not desk.pools[1].prepared


def test_refusal_of_the_handler_is_remembered_and_one_of_the_pool_is_not() -> None:
    for code, remembered in (("syntax", True), ("unavailable", False), ("internal", False)):
        desk = Desk()
        refusal = Refusal(code, "no")
        desk.preparations.prepare(b.SOURCE, 0.0)
        desk.answer(refusal)
        assert desk.preparations.take_prepared() == [(DIGEST, refusal)]
        expected = refusal if remembered else Preparation.PENDING
        assert desk.preparations.prepare(b.SOURCE, 2.0) == expected


def test_lane_waits_once_for_a_handler_that_is_asked_for_once() -> None:
    desk = Desk()
    (pool,) = desk.pools
    lane, other = b.lane(desk.fleet, 1), b.lane(desk.fleet, 2)
    for waiting in (lane, lane, other):
        desk.preparations.block(waiting, pool, DIGEST, 0.0)
    assert pool.outbox == [ASKED]
    assert desk.answer() == Unblocked((lane, other), DIGEST, None)
    assert desk.preparations.take_prepared() == []  # nobody makes a panel


def test_lane_that_leaves_waits_for_nothing() -> None:
    desk = Desk()
    lane = b.lane(desk.fleet)
    desk.preparations.block(lane, desk.pools[0], DIGEST, 0.0)
    desk.preparations.unblock(lane)
    refusal = Refusal("syntax", "no")
    assert desk.answer(refusal) == Unblocked((), DIGEST, refusal)


def test_handler_that_nobody_uses_is_not_asked_for() -> None:
    desk = Desk()
    desk.catalog.release([b.SOURCE])
    desk.preparations.block(b.lane(desk.fleet), desk.pools[0], DIGEST, 0.0)
    assert desk.pools[0].outbox == []


def test_pool_that_connects_is_asked_for_what_is_wanted() -> None:
    desk = Desk(pools=0)
    assert desk.preparations.prepare(b.SOURCE, 0.0) is Preparation.PENDING
    pool = b.pool(desk.fleet)
    desk.preparations.pool_connected(1.0)
    desk.preparations.pool_connected(2.0)
    assert pool.outbox == [ASKED]


def test_work_of_a_lost_pool_is_asked_of_another_and_its_lanes_are_free() -> None:
    desk = Desk(pools=2)
    first, second = desk.pools
    lane, other = b.lane(desk.fleet, 1), b.lane(desk.fleet, 2)
    desk.preparations.prepare(b.SOURCE, 0.0)
    desk.preparations.block(lane, first, DIGEST, 0.0)
    desk.preparations.block(other, second, b"unknown", 0.0)
    del desk.fleet.pools[first.id]
    assert desk.preparations.pool_lost(first, 1.0) == [lane]
    assert second.outbox == [ASKED]


def test_handler_that_no_pool_comes_for_is_given_up() -> None:
    desk = Desk(pools=0)
    desk.preparations.prepare(b.SOURCE, 0.0)
    assert desk.preparations.expire(NO_POOL_S) == []
    assert desk.preparations.take_prepared() == []
    desk.preparations.expire(NO_POOL_S + 0.1)
    ((digest, refusal),) = desk.preparations.take_prepared()
    assert digest == DIGEST
    assert refusal is not None
    assert refusal.code == "unavailable"


def test_preparation_that_takes_too_long_is_given_up_and_its_lanes_are_free() -> None:
    desk = Desk()
    (pool,) = desk.pools
    lane = b.lane(desk.fleet)
    desk.preparations.prepare(b.SOURCE, 0.0)
    desk.preparations.block(lane, pool, DIGEST, 0.0)
    assert desk.preparations.expire(PREPARE_S) == []
    assert desk.preparations.expire(PREPARE_S + 0.1) == [lane]
    ((_, refusal),) = desk.preparations.take_prepared()
    assert refusal is not None
    assert refusal.code == "unavailable"
    assert desk.answer() is None  # too late
    desk.preparations.block(lane, pool, DIGEST, 20.0)
    assert pool.outbox == [ASKED, ASKED]


# -- slots and turns ---------------------------------------------------------------------------------


def makers(*, seconds: float = 1_000.0) -> Desk:
    """Preparations of handlers that no panel uses yet."""
    desk = Desk()
    desk.preparations = Preparations(desk.fleet, HandlerCatalog(), CompileLimits(seconds=seconds))
    return desk


def want(desk: Desk, subject: str, number: int, now: float = 0.0) -> bytes:
    source = Source(bytes([number]) * 32)
    found = desk.preparations.prepare(source, now, subject=subject)
    assert found is Preparation.PENDING
    return source.digest


def finish(desk: Desk, digest: bytes, now: float, *, cpu_ms: int = 0, refusal: Refusal | None = None) -> None:
    assert desk.preparations.prepared(b.POOL, m.Prepared(digest, refusal, cpu_ms), now) is not None


def asked(desk: Desk) -> list[bytes]:
    outbox = desk.pools[0].outbox
    return [message.digest for message in outbox if isinstance(message, m.Prepare)]


def test_pool_is_asked_for_as_many_as_it_has_slots_and_subjects_take_turns() -> None:
    desk = makers()
    digests = [want(desk, "ann", number) for number in range(10, 15)]
    other = want(desk, "bob", 20)
    assert asked(desk) == digests[:2]
    finish(desk, digests[0], 5.0, cpu_ms=5_000)
    assert asked(desk) == [*digests[:2], other]


def test_handler_that_a_panel_uses_does_not_wait_behind_the_queue() -> None:
    desk = Desk()
    for number in range(10, 15):
        want(desk, "ann", number)
    assert want(desk, "bob", 1) == DIGEST  # some panel uses it
    assert asked(desk)[-1] == DIGEST


def test_slot_is_taken_back_from_a_subject_that_has_several_while_another_waits() -> None:
    desk = makers()
    first, second, third = (want(desk, "ann", number) for number in (10, 11, 12))
    desk.preparations.expire(PATIENCE_S + 1)
    assert m.Abandon(second) not in desk.pools[0].outbox
    other = want(desk, "bob", 20, now=PATIENCE_S + 1)
    for _ in range(2):
        desk.preparations.expire(PATIENCE_S + 1)
    assert desk.pools[0].outbox.count(m.Abandon(second)) == 1
    assert m.Abandon(first) not in desk.pools[0].outbox
    finish(desk, second, 3.0, cpu_ms=2_000, refusal=Refusal("abandoned", ""))
    assert asked(desk) == [first, second, other]
    assert desk.preparations.take_prepared() == []
    finish(desk, other, 4.0)
    finish(desk, first, 4.0)
    assert sorted(asked(desk)[3:]) == sorted([second, third])  # it is compiled after all


def test_abandoned_handler_leaves_the_queue_or_its_slot() -> None:
    desk = makers()
    running, _, waiting = (want(desk, "ann", number) for number in (10, 11, 12))
    desk.preparations.abandon(waiting, 0.0)
    desk.preparations.abandon(running, 0.0)
    desk.preparations.abandon(running, 0.0)
    assert desk.pools[0].outbox.count(m.Abandon(running)) == 1
    finish(desk, running, 1.0, refusal=Refusal("abandoned", ""))
    assert len(asked(desk)) == 2
    assert want(desk, "ann", 10, now=1.0) == running  # that was not remembered
    assert len(asked(desk)) == 3


def test_subject_that_has_used_up_its_budget_is_refused_and_what_it_has_waiting_too() -> None:
    desk = makers(seconds=4.0)
    first, _, third = (want(desk, "ann", number) for number in (10, 11, 12))
    # a pool is not believed more than the time that has passed
    finish(desk, first, 1.0, cpu_ms=600_000)
    assert desk.preparations.retry_after_s("ann", 1.0) == 0.0
    finish(desk, third, 6.0, cpu_ms=600_000)
    source = Source(bytes([30]) * 32)
    refused = desk.preparations.prepare(source, 6.0, subject="ann")
    assert isinstance(refused, Refusal)
    assert refused.code == OVER_BUDGET
    assert desk.preparations.retry_after_s("ann", 6.0) > 0
    assert desk.preparations.prepare(source, 6.0, subject="bob") is Preparation.PENDING


def test_queue_of_a_subject_ends_with_its_budget() -> None:
    desk = makers(seconds=4.0)
    digests = [want(desk, "ann", number) for number in range(10, 14)]
    shared = want(desk, "ann", 14)
    assert want(desk, "bob", 14) == shared
    finish(desk, digests[0], 5.0, cpu_ms=5_000)
    ended = dict(desk.preparations.take_prepared())
    assert ended[digests[0]] is None
    over = [digest for digest, refusal in ended.items() if refusal is not None]
    assert over
    assert shared not in over  # bob may have it compiled


def test_handler_is_compiled_by_pools_with_the_label_only() -> None:
    desk = makers()
    source = Source(bytes([40]) * 32)
    assert desk.preparations.prepare(source, 0.0, label="gpu") is Preparation.PENDING
    assert desk.preparations.prepare(source, 0.0) is Preparation.PENDING
    gpu = desk.fleet.pools[SECOND] = Pool(SECOND, Liveness(0.0), frozenset(("gpu",)))
    desk.preparations.pool_connected(1.0)
    assert [len(pool.outbox) for pool in (desk.pools[0], gpu)] == [1, 1]
    desk.preparations.prepared(SECOND, m.Prepared(source.digest, None), 2.0)
    assert desk.preparations.take_prepared() == [(key_of(source.digest, "gpu"), None)]
    assert desk.preparations.prepare(source, 2.0, label="gpu") is Preparation.READY
    assert desk.preparations.prepare(source, 2.0) is Preparation.PENDING


def test_label_that_no_pool_has_is_named() -> None:
    desk = makers()
    desk.preparations.prepare(Source(bytes([40]) * 32), 0.0, label="gpu")
    desk.preparations.expire(NO_POOL_S + 0.1)
    ((_, refusal),) = desk.preparations.take_prepared()
    assert refusal is not None
    assert "label 'gpu'" in refusal.message
