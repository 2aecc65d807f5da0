"""Who comes back too often: a peer that says Hello, and leaves or breaks the protocol, in a loop. Pure.

Each Hello voids what the peer had, and its runs go to others. An honest peer comes once, and again after the
gateway was away. One that comes in a loop gets nothing until it has kept away for a while.

Bound: ``MAX_PEERS`` buckets, by routing id; above it the one that was used least recently is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from panels_shared.messages import WorkerId
from panels_shared.rate import RateLimit, TokenBucket

#: How often a peer may come at once, and in the long run. An honest one says Hello every second while nobody
#: answers it.
COMINGS: Final = RateLimit(per_s=0.5, burst=4)
#: Peers whose comings are counted; a security limit.
MAX_PEERS: Final = 2_048


class Returns:
    """See the module's docstring. Times are monotonic seconds. ``refused`` counts."""

    __slots__ = ("_buckets", "refused")

    def __init__(self) -> None:
        self._buckets: OrderedDict[WorkerId, TokenBucket] = OrderedDict()
        self.refused = 0

    def admit(self, peer: WorkerId, now: float) -> bool:
        """Whether ``peer``, which comes, may stay."""
        buckets = self._buckets
        bucket = buckets.get(peer)
        if bucket is None:
            bucket = buckets[peer] = TokenBucket(COMINGS, now)
            if len(buckets) > MAX_PEERS:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(peer)
        if bucket.take(now) > 0:
            self.refused += 1
            return False
        return True
