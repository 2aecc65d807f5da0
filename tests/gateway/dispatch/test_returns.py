"""Peers that come too often."""

from __future__ import annotations

from panels_gateway.dispatch.returns import COMINGS, MAX_PEERS, Returns
from panels_shared.messages import WorkerId

PEER = WorkerId(b"p")


def test_peer_that_comes_in_a_loop_is_refused_until_it_kept_away() -> None:
    returns = Returns()
    assert [returns.admit(PEER, 0.0) for _ in range(COMINGS.burst + 2)] == [True] * COMINGS.burst + [
        False
    ] * 2
    assert returns.refused == 2
    assert returns.admit(WorkerId(b"q"), 0.0)
    assert returns.admit(PEER, 1 / COMINGS.per_s)


def test_peers_that_are_counted_are_bounded() -> None:
    returns = Returns()
    for number in range(MAX_PEERS + 10):
        returns.admit(WorkerId(b"%d" % number), 0.0)
    assert len(returns._buckets) == MAX_PEERS
