"""What each peer may cost the gateway beside the results that it was asked for. Pure.

Frames whose results are all wanted are free: the dispatcher's credit bounds them. Everything else takes units
from the peer's bucket, and what comes while the bucket is empty is dropped unread. An honest peer, with its
heartbeats and the answers to runs that were revoked, stays far below.

Bound: ``MAX_PEERS`` buckets, by routing id; above it the one that was used least recently is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from panels_shared.rate import RateLimit, TokenBucket

#: Units a second in the long run, and at once. A unit is about a microsecond of the gateway's loop.
UNITS: Final = RateLimit(per_s=16_384.0, burst=32_768)
#: What a frame costs, and what a message in it that was not wanted costs, in units.
FRAME_UNITS: Final = 4
MESSAGE_UNITS: Final = 1
#: What costs more: a frame that is refused, and a message that is not a result.
REFUSED_UNITS: Final = 256
CONTROL_UNITS: Final = 16
#: Bytes that cost one unit in a frame that was refused: reading them took time too.
BYTES_PER_UNIT: Final = 4_096
#: Peers whose budgets are kept; a security limit.
MAX_PEERS: Final = 2_048


class Budgets:
    """See the module's docstring. Times are monotonic seconds."""

    __slots__ = ("_buckets", "_limit")

    def __init__(self, limit: RateLimit = UNITS) -> None:
        self._limit = limit
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def has_room(self, peer: bytes, now: float) -> bool:
        """Whether anything of ``peer`` is to be read now."""
        bucket = self._buckets.get(peer)
        if bucket is None:
            return True
        bucket.refill(now)
        return bucket.has(0.0)

    def charge(self, peer: bytes, units: int, now: float) -> None:
        """Takes ``units``, which may be more than are left: the peer is in debt then, until they have
        accrued."""
        buckets = self._buckets
        bucket = buckets.get(peer)
        if bucket is None:
            bucket = buckets[peer] = TokenBucket(self._limit, now)
            if len(buckets) > MAX_PEERS:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(peer)
            bucket.refill(now)
        bucket.spend(units)
