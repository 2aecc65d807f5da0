"""What a guest's memory holds beyond a fresh instance's: taken once per handler, copied into every job's instance.

The whole heap of the guest lies in its linear memory, by offset, so these pages and the stack pointer are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from panels_worker.capi import populate, read_bytes, write_bytes
from panels_worker.javascript.guest import GuestRun

PAGE_BYTES: Final = 4_096
WASM_PAGE_BYTES: Final = 65_536
_POPULATE_BYTES: Final = 4 * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``size`` of the memory in bytes, the value of ``__stack_pointer``, and runs of pages as (offset, bytes)."""

    size: int
    stack_pointer: int
    fresh_size: int
    fresh_stack_pointer: int
    runs: tuple[tuple[int, bytes], ...]

    @property
    def page_count(self) -> int:
        """How many pages are copied for a job."""
        return sum(len(data) for _, data in self.runs) // PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Image:
    """All of a fresh instance's memory."""

    memory: bytes
    stack_pointer: int


def take_image(run: GuestRun) -> Image:
    """What ``run`` looks like; called on an instance in which nothing has run."""
    size = run.store.memory_bytes(run.memory)
    return Image(read_bytes(run.base, size), run.store.get_global_i32(run.export(b"__stack_pointer")))


def take_snapshot(run: GuestRun, fresh: Image) -> Snapshot:
    """What differs between ``run`` and a fresh instance."""
    size = run.store.memory_bytes(run.memory)
    memory = read_bytes(run.base, size)
    before = fresh.memory
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
    return Snapshot(
        size,
        run.store.get_global_i32(run.export(b"__stack_pointer")),
        len(before),
        fresh.stack_pointer,
        tuple(runs),
    )


def restore(run: GuestRun, snapshot: Snapshot) -> bool:
    """Makes a fresh instance what it was when the snapshot was taken; False when that does not fit into its memory."""
    if snapshot.size > snapshot.fresh_size:
        pages = (snapshot.size - snapshot.fresh_size) // WASM_PAGE_BYTES
        if not run.store.grow_memory(run.memory, pages):
            return False
        run.size = snapshot.size
    base = run.base
    for at, data in snapshot.runs:
        if len(data) > _POPULATE_BYTES:
            # all faults of the run in one call; where the kernel cannot, they come one by one
            populate(base + at, len(data))
        write_bytes(base + at, data, len(data))
    if snapshot.stack_pointer != snapshot.fresh_stack_pointer:
        run.store.set_global_i32(run.export(b"__stack_pointer"), snapshot.stack_pointer)
    return True
