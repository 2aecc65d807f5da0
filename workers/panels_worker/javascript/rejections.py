"""The engine's tracker of promise rejections, which the guest of ``quickjs-rs`` does not install.

QuickJS tells an embedder about each promise that is rejected while nobody handles it, and again when somebody
does (``JS_SetHostPromiseRejectionTracker``). The guest exports no way to ask for that, so the image gets a
function of its own: ``TRACKER``, added to the code and to the function table of the module, and its index and
argument written into the engine's runtime. It keeps the promises in the storage of an array of the prelude
(``run.js``), where the garbage collector finds them like other elements.

What it does not do: beyond ``SLOTS`` promises that wait for a handler at once, further ones are not seen.
"""

from __future__ import annotations

import struct
from typing import Final

from wasmtime import wat2wasm

from panels_worker.guest.run import WasmRun
from panels_worker.javascript import sections
from panels_worker.javascript.assets import GuestChangedError

#: The length of the array in the prelude.
SLOTS: Final = 64
#: Where the tracker counts the promises in the array; behind ``Places``, in memory that no C program uses.
COUNT_AT: Final = 64

#: A value of QuickJS is 64 bits: a tag in the upper half, an address in the lower one; a float is moved by a
#: constant.
_NULL: Final = 2 << 32
_FIRST_TAG: Final = -9
_FLOAT_MOVED: Final = (0x7FF8_0000 - _FIRST_TAG + 1) << 32
_ALL_BITS: Final = (1 << 64) - 1
#: What the prelude fills the array with, so that its storage is found.
_FIRST_NUMBER: Final = 12345.5

#: ``void tracker(JSContext *, JSValueConst promise, JSValueConst reason, bool is_handled, void *opaque)``. A
#: promise that is rejected goes to the first free slot, one that is handled leaves its slot. Each slot counts
#: as one reference, and the count of references is the first word of an object; it cannot fall to zero here,
#: because the caller has one.
TRACKER: Final = f"""
(module
  (memory 1)
  (func (param $context i32) (param $promise i64) (param $reason i64) (param $handled i32) (param $slots i32)
    (local $end i32) (local $wanted i64) (local $change i32)
    (local.set $end (i32.add (local.get $slots) (i32.const {8 * SLOTS})))
    (local.set $wanted (select (local.get $promise) (i64.const {_NULL}) (local.get $handled)))
    (local.set $change (select (i32.const -1) (i32.const 1) (local.get $handled)))
    (loop $next
      (if (i32.ge_u (local.get $slots) (local.get $end)) (then (return)))
      (if (i64.eq (i64.load (local.get $slots)) (local.get $wanted))
        (then
          (i64.store (local.get $slots)
            (select (i64.const {_NULL}) (local.get $promise) (local.get $handled)))
          (i32.store (i32.wrap_i64 (local.get $promise))
            (i32.add (i32.load (i32.wrap_i64 (local.get $promise))) (local.get $change)))
          (i32.store (i32.const {COUNT_AT})
            (i32.add (i32.load (i32.const {COUNT_AT})) (local.get $change)))
          (return)))
      (local.set $slots (i32.add (local.get $slots) (i32.const 8)))
      (br $next))))
"""


def with_tracker(source: bytes) -> tuple[bytes, int]:
    """The guest with the tracker as a function that nobody calls yet, and its index in the function table."""
    return sections.with_function(source, bytes(wat2wasm(TRACKER)))


def install(run: WasmRun, memory: bytes, jobs: int, index: int) -> None:
    """Has the engine call the tracker. ``jobs`` is the address of its list of jobs; the two fields lie before
    it.

    Raises ``GuestChangedError`` where the memory does not look as it should.
    """
    numbers = b"".join(
        struct.pack("<Q", (_bits(_FIRST_NUMBER + at) - _FLOAT_MOVED) & _ALL_BITS) for at in range(SLOTS)
    )
    slots = memory.find(numbers)
    if slots < 0 or memory.find(numbers, slots + 1) >= 0:
        raise GuestChangedError("expected one array of the prelude's numbers in the memory of the guest")
    # hook of promises, its argument, parent promise, tracker, its argument: nothing of it is in use
    if any(memory[jobs - 20 : jobs]):
        raise GuestChangedError("expected a runtime without a tracker of rejections before its list of jobs")
    if any(memory[COUNT_AT : COUNT_AT + 4]):
        raise GuestChangedError("expected a guest that leaves the beginning of its memory alone")
    run.write(jobs - 8, struct.pack("<2i", index, slots))


def find_jobs(before: bytes, after: bytes) -> int:
    """The address of the head of the engine's list of jobs, which has jobs in ``before`` and none in
    ``after``.

    Raises ``GuestChangedError`` where that is not one address.
    """
    found = [
        at
        for at in range(0, min(len(before), len(after)) - 4, 4)
        if after[at : at + 8] == struct.pack("<2I", at, at)
        and before[at : at + 4] != after[at : at + 4]
        and any(before[at : at + 4])
    ]
    if len(found) != 1:
        raise GuestChangedError(f"expected one list of jobs in the memory of the guest, got {len(found)}")
    return found[0]


def _bits(number: float) -> int:
    return int.from_bytes(struct.pack("<d", number), "little")
