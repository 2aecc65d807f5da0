"""What a guest's memory holds beyond a fresh instance's: taken once per handler, copied into every job's
instance.

The whole heap of the guest lies in its linear memory, by offset, and its stack is empty between calls, so
these pages are all there is. A fresh instance has the prelude in it already (``image``): what is copied is
the handler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from panels_worker.guest.capi import write_bytes
from panels_worker.javascript.guest import GuestRun
from panels_worker.javascript.sections import WASM_PAGE_BYTES

PAGE_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``size`` of the memory in bytes, and of a fresh instance's, and runs of pages as (offset, bytes)."""

    size: int
    fresh_size: int
    runs: tuple[tuple[int, bytes], ...]


def take_snapshot(run: GuestRun, fresh: bytes) -> Snapshot:
    """What differs between ``run`` and a fresh instance, whose memory is ``fresh``."""
    size = run.store.memory_bytes(run.memory)
    memory = run.read(0, size)
    before = fresh
    zero = bytes(PAGE_BYTES)
    runs: list[tuple[int, bytes]] = []
    start = -1
    for at in range(0, size + PAGE_BYTES, PAGE_BYTES):
        page = memory[at : at + PAGE_BYTES]
        same = at >= size or page == (before[at : at + PAGE_BYTES] if at < len(before) else zero)
        if same and start >= 0:
            runs.append((start, memory[start:at]))
            start = -1
        elif not same and start < 0:
            start = at
    return Snapshot(size, len(before), tuple(runs))


def restore(run: GuestRun, snapshot: Snapshot) -> bool:
    """Makes a fresh instance what it was when the snapshot was taken; False when that does not fit into its
    memory.
    """
    if snapshot.size > snapshot.fresh_size:
        pages = (snapshot.size - snapshot.fresh_size) // WASM_PAGE_BYTES
        if not run.store.grow_memory(run.memory, pages):
            return False
    base = run.base
    for at, data in snapshot.runs:
        write_bytes(base + at, data, len(data))
    return True
