"""The few wasmtime C API calls that the sandbox makes directly: their prototypes, and the layouts they rely
on.

wasmtime-py 50 binds the whole C API with ctypes, but its public classes wrap each call in conversions: a call
costs 22 µs and a callback 15 µs, against 4 µs and 0.9 µs here. This module relies on the following, and
``tests/workers/guest/test_capi.py`` checks each point against the installed version:

- the names, argument counts and results of the functions in ``PROTOTYPES``;
- ``wasmtime_val_raw_t`` has 16 bytes, little-endian, with its number at the front;
- ``wasmtime_instance_t`` has 16 bytes, and ``wasmtime_extern_t`` has its kind at offset 0 and its union at
  offset 8;
- the base address of a memory never changes while ``memory_may_move`` is off.

The caller owns every pointer that these functions return: ``take_error`` frees an error, and ``trap_delete``
frees a trap. Nothing here is thread-safe. One thread per process uses stores, and callbacks arrive on that
thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int64, c_size_t, c_uint64, c_void_p, memmove, string_at
from typing import Any, Final

from wasmtime import Config, Engine, _bindings
from wasmtime._ffi import dll as _dll

#: name → (result, arguments)
PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "wasmtime_engine_increment_epoch": (None, (c_void_p,)),
    "wasmtime_store_new": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "wasmtime_store_context": (c_void_p, (c_void_p,)),
    "wasmtime_store_limiter": (None, (c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
    "wasmtime_store_delete": (None, (c_void_p,)),
    "wasmtime_context_set_fuel": (c_void_p, (c_void_p, c_uint64)),
    "wasmtime_context_get_fuel": (c_void_p, (c_void_p, c_void_p)),
    "wasmtime_context_set_epoch_deadline": (None, (c_void_p, c_uint64)),
    "wasmtime_instance_pre_instantiate": (c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p)),
    "wasmtime_instance_export_get": (ctypes.c_bool, (c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)),
    "wasmtime_func_call_unchecked": (c_void_p, (c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)),
    "wasmtime_memory_data": (c_void_p, (c_void_p, c_void_p)),
    "wasmtime_memory_data_size": (c_size_t, (c_void_p, c_void_p)),
    "wasmtime_memory_grow": (c_void_p, (c_void_p, c_void_p, c_uint64, c_void_p)),
    "wasmtime_global_get": (None, (c_void_p, c_void_p, c_void_p)),
    "wasmtime_global_set": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "wasmtime_trap_new": (c_void_p, (c_char_p, c_size_t)),
    "wasmtime_trap_code": (ctypes.c_bool, (c_void_p, c_void_p)),
    "wasm_trap_delete": (None, (c_void_p,)),
    "wasmtime_error_message": (None, (c_void_p, c_void_p)),
    "wasmtime_error_delete": (None, (c_void_p,)),
    "wasm_byte_vec_delete": (None, (c_void_p,)),
    "wasmtime_linker_define_func_unchecked": (
        c_void_p,
        (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
}


def _bind(name: str) -> Any:
    # indexing gives a function object of our own: attributes are shared with wasmtime-py, and so would be
    # argtypes
    function = _dll[name]
    function.restype, function.argtypes = PROTOTYPES[name]
    return function


store_new = _bind("wasmtime_store_new")
store_context = _bind("wasmtime_store_context")
store_limiter = _bind("wasmtime_store_limiter")
store_delete = _bind("wasmtime_store_delete")
set_fuel = _bind("wasmtime_context_set_fuel")
get_fuel = _bind("wasmtime_context_get_fuel")
set_epoch_deadline = _bind("wasmtime_context_set_epoch_deadline")
instantiate = _bind("wasmtime_instance_pre_instantiate")
export_get = _bind("wasmtime_instance_export_get")
call_unchecked = _bind("wasmtime_func_call_unchecked")
memory_data = _bind("wasmtime_memory_data")
memory_data_size = _bind("wasmtime_memory_data_size")
memory_grow = _bind("wasmtime_memory_grow")
global_get = _bind("wasmtime_global_get")
global_set = _bind("wasmtime_global_set")
trap_new = _bind("wasmtime_trap_new")
trap_code = _bind("wasmtime_trap_code")
trap_delete = _bind("wasm_trap_delete")
error_message = _bind("wasmtime_error_message")
error_delete = _bind("wasmtime_error_delete")
byte_vec_delete = _bind("wasm_byte_vec_delete")
define_func_unchecked = _bind("wasmtime_linker_define_func_unchecked")

#: The library once more, for calls that keep the interpreter's lock.
_locked = ctypes.PyDLL(None, handle=_dll._handle)


def epoch_of(engine: Engine) -> Callable[[], object]:
    """What moves the epoch of ``engine`` on, without giving up the interpreter's lock: a thread that gave
    it up for this would have to wait for it again, behind a guest that does nothing but call its host.
    """
    increment, pointer = _locked["wasmtime_engine_increment_epoch"], engine.ptr()
    increment.restype, increment.argtypes = PROTOTYPES["wasmtime_engine_increment_epoch"]
    return lambda: increment(pointer)


#: Setters of the pool's configuration: name → type of the number.
_POOL_SETTERS: Final[dict[str, Any]] = {
    "total_core_instances": ctypes.c_uint32,
    "total_memories": ctypes.c_uint32,
    "total_tables": ctypes.c_uint32,
    "total_stacks": ctypes.c_uint32,
    "max_memories_per_module": ctypes.c_uint32,
    "max_tables_per_module": ctypes.c_uint32,
    "max_memory_size": c_size_t,
    "max_core_instance_size": c_size_t,
    "table_elements": c_size_t,
    "linear_memory_keep_resident": c_size_t,
    "table_keep_resident": c_size_t,
}


def use_pool(config: Config, **numbers: int) -> None:
    """Has the engines of ``config`` take instances from a pool, which wasmtime-py 50 has no method for.

    ``numbers`` are those of ``wasmtime::PoolingAllocationConfig``, by the names of its methods.
    """
    new, delete = (
        _dll["wasmtime_pooling_allocation_config_new"],
        _dll["wasmtime_pooling_allocation_config_delete"],
    )
    choose = _dll["wasmtime_pooling_allocation_strategy_set"]
    new.restype, delete.argtypes, choose.argtypes = c_void_p, (c_void_p,), (c_void_p, c_void_p)
    delete.restype = choose.restype = None
    pool = new()
    for name, number in numbers.items():
        setter = _dll[f"wasmtime_pooling_allocation_config_{name}_set"]
        setter.restype, setter.argtypes = None, (c_void_p, _POOL_SETTERS[name])
        setter(pool, number)
    choose(ctypes.cast(config.ptr(), c_void_p), pool)
    delete(pool)


#: Bytes of a wasmtime_val_raw_t, and how many elements of a typed array one such value spans.
RAW_BYTES: Final = 16
I64_STEP: Final = RAW_BYTES // 8

EXTERN_BYTES: Final = ctypes.sizeof(_bindings.wasmtime_extern_t)
EXTERN_UNION: Final[int] = _bindings.wasmtime_extern_t.of.offset


class _ByteVec(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("data", c_void_p))


def take_error(error: int) -> str:
    """The message of a wasmtime error, which is freed."""
    message = _ByteVec()
    error_message(error, byref(message))
    try:
        return string_at(message.data, message.size).decode(errors="replace")
    finally:
        byte_vec_delete(byref(message))
        error_delete(error)


def window(address: int, size: int) -> Any:
    """Guest memory as something to slice: ``window[start:end]`` is a copy as ``bytes``, for a third of what
    ``string_at`` costs.

    Valid while the memory's store is, and of no use above ``size`` once it has grown.
    """
    kind = _window_kinds.get(size)
    if kind is None:
        kind = _window_kinds[size] = ctypes.c_char * size
    return kind.from_address(address)


#: Bound: a memory is a number of 64 KiB pages, and of at most 4 GiB.
_window_kinds: Final[dict[int, Any]] = {}

write_bytes = memmove
"""``write_bytes(address, data, size)`` into guest memory. The caller has checked the bounds."""
