"""Which handlers are to be compiled, who is asked, and what waits for it."""

from __future__ import annotations

from panels_gateway.dispatch.catalog import HandlerCatalog, Preparation
from panels_gateway.dispatch.fleet import Fleet
from panels_gateway.dispatch.preparations import NO_POOL_S, PREPARE_S, Preparations, Unblocked
from panels_shared import messages as m
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
