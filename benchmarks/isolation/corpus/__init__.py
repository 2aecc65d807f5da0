"""The attacks, a module for each family or two."""

from __future__ import annotations

from benchmarks.isolation.attack import Attack
from benchmarks.isolation.corpus import (
    floods,
    growth,
    loops,
    modules,
    pointers,
    scripts,
    snooping,
    traps,
    wasi,
)


def corpus() -> list[Attack]:
    """All attacks that handlers make, in the order in which they run."""
    found: list[Attack] = []
    for family in (loops, growth, floods, pointers, traps, modules, scripts, wasi, snooping):
        found += family.attacks()
    return found
