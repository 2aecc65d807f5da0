"""Durations, counted by size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from panels_gateway.observe.metrics import Family, Sample

#: Upper bounds of the buckets are 2**n microseconds, n up to this: 16 s.
_BUCKETS: Final = 24
_BOUNDS: Final = tuple(f"{2**power / 1e6:g}" for power in range(_BUCKETS + 1))


class Histogram:
    """Counts of durations in buckets of powers of two microseconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (_BUCKETS + 2)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One more duration; below zero (two clocks) counts as zero."""
        seconds = max(0.0, seconds)
        # bit_length of n-1 is the power of two that n is not above
        micros = -int(-seconds * 1e6 // 1)
        self.counts[min(max(micros - 1, 0).bit_length(), _BUCKETS + 1)] += 1
        self.sum_s += seconds

    def add_us(self, micros: int) -> None:
        """The same in whole microseconds, which are not below zero."""
        power = (micros - 1).bit_length() if micros else 0
        self.counts[power if power <= _BUCKETS else -1] += 1
        self.sum_s += micros * 1e-6

    def samples(self, family: Family, label: str = "") -> Iterator[Sample]:
        """Its buckets, cumulative, its sum and its count."""
        total = 0
        for bound, count in zip(_BOUNDS, self.counts, strict=False):  # all but what is above the last
            total += count
            yield Sample(family, total, label, "_bucket", bound)
        total += self.counts[-1]
        yield Sample(family, total, label, "_bucket", "+Inf")
        yield Sample(family, self.sum_s, label, "_sum")
        yield Sample(family, total, label, "_count")
