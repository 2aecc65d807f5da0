"""What a pool and its sandboxes say about themselves, added up for ``/health``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSummary:
    """One pool that is admitted.

    ``layers`` counts its sandboxes by layer of confinement that is in force, ``missing`` by layer that is
    not, with the reason. ``versions`` is what the pool is made of. Each has a bounded number of entries.
    There are no ids in it, and no secrets.
    """

    sandboxes: int
    versions: Mapping[str, str]
    layers: Mapping[str, int]
    missing: Mapping[str, int]
