"""Rounds: subjects measured in turn, so that a slow moment of the machine meets all of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, process_time


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs: medians over the rounds, in microseconds of wall clock and of this process's CPU.

    ``spread`` is how far rounds are apart: the slowest wall clock divided by the fastest.
    """

    wall_us: float
    cpu_us: float
    spread: float

    @property
    def per_s(self) -> float:
        """Calls per second of wall clock."""
        return 1e6 / self.wall_us


#: Does its work so many times.
Subject = Callable[[int], None]


def measure(
    subjects: Mapping[str, Subject],
    *,
    rounds: int = 5,
    round_s: float = 0.3,
    cpu_clocks: Mapping[str, Callable[[], float]] | None = None,
) -> dict[str, Cost]:
    """Runs every subject for about ``round_s`` in each of ``rounds`` rounds, one after the
    other; their costs by name.

    ``cpu_clocks``: what reads the CPU seconds of a subject that works in another process.
    """
    clocks = cpu_clocks or {}
    counts = {name: _calibrated(subject, round_s) for name, subject in subjects.items()}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            gc.collect()
            cpu_clock = clocks.get(name, process_time)
            cpu, wall = cpu_clock(), perf_counter()
            subject(counts[name])
            samples[name].append(((perf_counter() - wall) / counts[name], (cpu_clock() - cpu) / counts[name]))
    return {name: _cost(found) for name, found in samples.items()}


def _calibrated(subject: Subject, round_s: float) -> int:
    """How many calls take about ``round_s``; warms the subject up on the way."""
    count = 1
    while True:
        began = perf_counter()
        subject(count)
        elapsed = perf_counter() - began
        if elapsed >= round_s / 8:
            return max(1, round(count * round_s / elapsed))
        count *= 4 if elapsed < round_s / 40 else 2


def _cost(samples: list[tuple[float, float]]) -> Cost:
    walls = [wall for wall, _ in samples]
    return Cost(
        statistics.median(walls) * 1e6,
        statistics.median(cpu for _, cpu in samples) * 1e6,
        max(walls) / min(walls),
    )
