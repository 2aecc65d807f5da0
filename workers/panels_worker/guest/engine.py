"""The one engine of a process, and the only place that sets wasmtime's flags.

The compile child, the JavaScript snapshot and the sandbox all use these flags: a module serialized under
others is refused by wasmtime. One engine per process is a rule, not a habit: type indices of two engines must
never meet, and one epoch counter then stands for one job at a time.
"""

from __future__ import annotations

from typing import Final

from wasmtime import Config, Engine

from panels_shared.limits import KIB, MAX_WASM_STACK_BYTES, MIB
from panels_worker.guest.capi import use_pool

#: How often the ticker thread increments the epoch, in milliseconds: the grain of every deadline.
EPOCH_TICK_MS: Final = 5

#: Security limits on what a module may declare.
MAX_TABLE_ELEMENTS: Final = 16_384
MAX_INSTANCE_BYTES: Final = 8 * MIB

#: Addresses reserved for each memory of a guest; more than any limit allows.
_RESERVED_BYTES: Final = 4 * 1024 * MIB
#: Places for an instance. One job runs at a time: the others keep the images of the modules that ran of late.
_SLOTS: Final = 16
#: So much of a memory or table is kept and written over between two instances, instead of given back page by
#: page and faulted in again: the whole of QuickJS, a page or two of most modules. What lies above is given
#: back.
_KEEP_MEMORY_BYTES: Final = 2 * MIB
_KEEP_TABLE_BYTES: Final = 16 * KIB

_OFF: Final = (
    "wasm_threads",
    "wasm_memory64",
    "wasm_gc",
    "wasm_exceptions",
    "wasm_function_references",
    "wasm_tail_call",
    "wasm_multi_memory",
    "wasm_relaxed_simd",
    "wasm_simd",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "wasm_stack_switching",
    "wasm_component_model",
    "gc_support",
    "shared_memory",
)


def make_engine() -> Engine:
    """An engine with fuel, epochs, a bounded stack, and every feature off that we do not support."""
    config = Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    config.max_wasm_stack = MAX_WASM_STACK_BYTES
    config.parallel_compilation = False  # threads would outlive a seccomp filter and a memory limit
    config.cranelift_opt_level = "speed"
    config.signals_based_traps = True
    # simd first: relaxed simd cannot be on without it
    for name in _OFF:
        setattr(config, name, False)
    config.memory_init_cow = True
    # the base address of a memory never moves: capi relies on it
    config.memory_may_move = False
    config.memory_reservation = _RESERVED_BYTES
    config.memory_guard_size = 64 * KIB
    # see docs/decisions/0006-pooled-instances.md
    use_pool(
        config,
        total_core_instances=_SLOTS,
        total_memories=_SLOTS,
        total_tables=_SLOTS,
        total_stacks=1,
        max_memories_per_module=1,
        max_tables_per_module=1,
        max_memory_size=_RESERVED_BYTES,
        max_core_instance_size=MAX_INSTANCE_BYTES,
        table_elements=MAX_TABLE_ELEMENTS,
        linear_memory_keep_resident=_KEEP_MEMORY_BYTES,
        table_keep_resident=_KEEP_TABLE_BYTES,
    )
    return Engine(config)


def ticks(deadline_ms: int) -> int:
    """The epoch deadline for ``deadline_ms``: never earlier, at most one tick later."""
    return -(-deadline_ms // EPOCH_TICK_MS) + 1
