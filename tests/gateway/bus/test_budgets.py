"""What a peer may cost, and when it has cost too much."""

from __future__ import annotations

from panels_gateway.bus.budgets import MAX_PEERS, Budgets
from panels_shared.rate import RateLimit

LIMIT = RateLimit(per_s=10.0, burst=20)


def test_peer_in_debt_is_not_read_until_it_has_accrued() -> None:
    budgets = Budgets(LIMIT)
    assert budgets.has_room(b"p", 0.0)
    budgets.charge(b"p", 40, 0.0)
    assert not budgets.has_room(b"p", 1.9)
    assert budgets.has_room(b"p", 2.0)


def test_peers_do_not_pay_for_each_other() -> None:
    budgets = Budgets(LIMIT)
    budgets.charge(b"p", 1_000, 0.0)
    assert budgets.has_room(b"q", 0.0)


def test_peers_that_are_counted_are_bounded() -> None:
    budgets = Budgets(LIMIT)
    for number in range(MAX_PEERS + 10):
        budgets.charge(b"%d" % number, 1, 0.0)
    assert len(budgets._buckets) == MAX_PEERS
    assert b"0" not in budgets._buckets
