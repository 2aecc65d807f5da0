"""The few wasmtime C API calls that we make directly, because the public API of wasmtime-py costs five times as much.

wasmtime-py 50 binds the whole C API with ctypes; its public classes wrap each call in conversions that cost 22 µs a call and
15 µs a callback, against 4 and 0.9 µs here. What is relied upon, and tested in ``tests/workers/guest/test_capi.py``:

- the names, argument counts and results of the functions in ``_PROTOTYPES``;
- ``wasmtime_val_raw_t`` has 16 bytes, little-endian, its number at the front;
- ``wasmtime_instance_t`` has 16 bytes, ``wasmtime_extern_t`` its kind at 0 and its union at 8;
- with ``memory_may_move`` off, a memory's base address never changes.

Ownership: a ``Store`` owns everything in it and must be closed; a trap or error pointer that a call returns is freed here.
Not thread-safe: one thread per process uses a Store, and callbacks come back on it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import (
    CFUNCTYPE,
    POINTER,
    addressof,
    byref,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
    c_void_p,
    memmove,
    string_at,
)
from enum import Enum
from typing import Any, Final

from wasmtime import Config, Engine, FuncType, InstancePre, Linker, Module, ValType, _bindings, _ffi
from wasmtime._ffi import dll as _dll

#: name → (result, arguments)
_PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
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
    "wasm_trap_message": (None, (c_void_p, c_void_p)),
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
    # indexing gives a function object of our own: attributes are shared with wasmtime-py, and so would be argtypes
    function = _dll[name]
    function.restype, function.argtypes = _PROTOTYPES[name]
    return function


_store_new = _bind("wasmtime_store_new")
_store_context = _bind("wasmtime_store_context")
_store_limiter = _bind("wasmtime_store_limiter")
_store_delete = _bind("wasmtime_store_delete")
_set_fuel = _bind("wasmtime_context_set_fuel")
_get_fuel = _bind("wasmtime_context_get_fuel")
_set_epoch_deadline = _bind("wasmtime_context_set_epoch_deadline")
_instantiate = _bind("wasmtime_instance_pre_instantiate")
_export_get = _bind("wasmtime_instance_export_get")
_call_unchecked = _bind("wasmtime_func_call_unchecked")
_memory_data = _bind("wasmtime_memory_data")
_memory_data_size = _bind("wasmtime_memory_data_size")
_memory_grow = _bind("wasmtime_memory_grow")
_global_get = _bind("wasmtime_global_get")
_global_set = _bind("wasmtime_global_set")
_trap_new = _bind("wasmtime_trap_new")
_trap_code = _bind("wasmtime_trap_code")
_trap_message = _bind("wasm_trap_message")
_trap_delete = _bind("wasm_trap_delete")
_error_message = _bind("wasmtime_error_message")
_error_delete = _bind("wasmtime_error_delete")
_byte_vec_delete = _bind("wasm_byte_vec_delete")
_define_func_unchecked = _bind("wasmtime_linker_define_func_unchecked")

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


#: Bytes of a wasmtime_val_raw_t, and what that is in the element types used to index one.
RAW_BYTES: Final = 16
I32_STEP: Final = RAW_BYTES // 4
I64_STEP: Final = RAW_BYTES // 8

_EXTERN_BYTES: Final = ctypes.sizeof(_bindings.wasmtime_extern_t)
_EXTERN_UNION: Final[int] = _bindings.wasmtime_extern_t.of.offset
_MAX_ARGS: Final = 8
#: Exports of one instance that are looked up.
MAX_EXPORTS: Final = 64


class TrapKind(Enum):
    """Why a guest stopped, as far as jobs tell the difference."""

    FUEL = "out of fuel"
    INTERRUPT = "interrupted by its deadline"
    STACK = "call stack exhausted"
    MEMORY = "out of bounds memory access"
    UNREACHABLE = "unreachable executed"
    HOST = "stopped by the host"
    OTHER = "trapped"


# wasmtime_trap_code_t; codes newer than this table are OTHER
_KINDS: Final = {
    0: TrapKind.STACK,
    1: TrapKind.MEMORY,
    9: TrapKind.UNREACHABLE,
    10: TrapKind.INTERRUPT,
    11: TrapKind.FUEL,
}
_WORDS: Final = {
    2: "misaligned atomic access",
    3: "out of bounds table access",
    4: "indirect call to null",
    5: "indirect call type mismatch",
    6: "integer overflow",
    7: "integer divide by zero",
    8: "invalid conversion to integer",
}


class GuestTrap(Exception):  # noqa: N818 - a trap is its name in the field
    """The guest trapped. ``text`` is a few words without inner detail; the store must be closed, not used again."""

    def __init__(self, kind: TrapKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class InstantiationError(Exception):
    """The module could not be instantiated within its limits."""


class Signature(Enum):
    """What a host function's last value is read and written as: decides how its raw values are indexed."""

    I32 = POINTER(c_int32)
    I64 = POINTER(c_int64)
    F64 = POINTER(c_double)


HostFunction = Callable[[Any], None]
"""Gets the raw values as an array; argument n is at [n * step]; writes its result to [0]. An exception stops the guest."""


class HostStop(Exception):  # noqa: N818 - control flow, not an error
    """Raised by a host function to stop the guest; ``call`` then raises ``GuestTrap`` of kind HOST."""


_pending: list[BaseException] = []
_STOP: Final = b"stopped by the host"


class HostLinker:
    """Host functions, registered once per process, and the modules linked to them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._linker = Linker(engine)
        self._keep: list[object] = []  # ctypes callbacks must outlive the linker

    def define(
        self,
        module: str,
        name: str,
        params: Sequence[ValType],
        results: Sequence[ValType],
        function: HostFunction,
        index: Signature = Signature.I32,
    ) -> None:
        """Makes ``function`` the import ``module.name``."""

        def callback(_env: object, _caller: object, raw: Any, _count: int) -> int:
            try:
                function(raw)
            except BaseException as exc:  # noqa: BLE001 - nothing may unwind through the guest; ``call`` raises it again
                _pending.append(exc)
                return int(_trap_new(_STOP, len(_STOP)))
            return 0

        prototype = CFUNCTYPE(c_size_t, c_void_p, c_void_p, index.value, c_size_t)
        pointer = prototype(callback)
        kind = FuncType(list(params), list(results))
        self._keep += [pointer, kind]
        module_name, func_name = module.encode(), name.encode()
        error = _define_func_unchecked(
            ctypes.cast(self._linker.ptr(), c_void_p),
            module_name,
            len(module_name),
            func_name,
            len(func_name),
            ctypes.cast(kind.ptr(), c_void_p),
            ctypes.cast(pointer, c_void_p),
            None,
            None,
        )
        if error:
            raise ValueError(f"{module}.{name}: {_take_error(error)}")

    def link(self, module: Module) -> Template:
        """A template of ``module``. Raises ``wasmtime.WasmtimeError`` for an import that is not defined."""
        return Template(self.engine, self._linker.instantiate_pre(module), self)

    @property
    def linker(self) -> Linker:
        """The linker itself, to define instances of other modules in."""
        return self._linker


class Template:
    """A module with its imports resolved: what instances are made from."""

    __slots__ = ("_engine", "_linker", "_pre", "engine_ptr", "pre_ptr")

    def __init__(self, engine: Engine, pre: InstancePre, linker: HostLinker) -> None:
        self._engine = engine
        self._pre = pre
        self._linker = linker  # its callbacks are called by instances: they must live as long
        self.engine_ptr = ctypes.cast(engine.ptr(), c_void_p).value
        self.pre_ptr = ctypes.cast(pre.ptr(), c_void_p).value


class _Scratch:
    """Memory that calls of one store write their results to; used again by later stores, as making it costs microseconds."""

    __slots__ = ("args", "args_ptr", "externs", "externs_ptr", "fuel", "fuel_ptr", "instance", "instance_ptr", "trap",
                 "trap_ptr")  # fmt: skip

    def __init__(self) -> None:
        self.args = (c_uint64 * (2 * _MAX_ARGS))()
        self.args_ptr = addressof(self.args)
        self.externs = ctypes.create_string_buffer(_EXTERN_BYTES * MAX_EXPORTS)
        self.externs_ptr = addressof(self.externs)
        self.fuel = c_uint64()
        self.fuel_ptr = addressof(self.fuel)
        self.instance = ctypes.create_string_buffer(16)
        self.instance_ptr = addressof(self.instance)
        self.trap = c_void_p()
        self.trap_ptr = addressof(self.trap)


_scratches: list[_Scratch] = []


class Store:
    """A fresh store with one instance in it. Close it after use, and always after a trap.

    Raises ``InstantiationError`` or ``GuestTrap`` (the start function ran and trapped); nothing is left open then.
    """

    __slots__ = ("_args", "_args_ptr", "_exports", "_scratch", "_trap", "_trap_ptr", "ctx", "ptr")

    def __init__(
        self, template: Template, *, fuel: int, epoch_ticks: int, memory_bytes: int, table_elements: int
    ) -> None:
        self._scratch = scratch = _scratches.pop() if _scratches else _Scratch()
        self._args = scratch.args
        self._args_ptr = scratch.args_ptr
        self._trap = scratch.trap
        self._trap_ptr = trap_ptr = scratch.trap_ptr
        self._exports = 0
        self.ptr: int = _store_new(template.engine_ptr, None, None)
        self.ctx: int = _store_context(self.ptr)
        _store_limiter(self.ptr, memory_bytes, table_elements, 1, 1, 1)
        _set_fuel(self.ctx, fuel)
        _set_epoch_deadline(self.ctx, epoch_ticks)
        error = _instantiate(template.pre_ptr, self.ctx, scratch.instance_ptr, trap_ptr)
        if error or self._trap.value:
            try:
                self._raise(error, InstantiationError)
            finally:
                self.close()

    def close(self) -> None:
        """Frees the store and everything in it."""
        if self.ptr:
            _store_delete(self.ptr)
            self.ptr = 0
            _scratches.append(self._scratch)

    def export(self, name: bytes) -> int:
        """The address of an exported function's, memory's or global's handle, valid while the store is; 0 for none.

        At most ``MAX_EXPORTS`` per store.
        """
        count = self._exports
        if count >= MAX_EXPORTS:
            raise RuntimeError(f"expected at most {MAX_EXPORTS} exports of an instance to be wanted")
        handle = self._scratch.externs_ptr + count * _EXTERN_BYTES
        if not _export_get(self.ctx, self._scratch.instance_ptr, name, len(name), handle):
            return 0
        self._exports = count + 1
        return handle + _EXTERN_UNION

    def call(self, function: int, *args: int) -> None:
        """Calls a function that takes integers and returns nothing. Raises ``GuestTrap``, or what a host function raised."""
        raw = self._args
        at = 0
        for value in args:
            raw[at] = value
            at += I64_STEP
        error = _call_unchecked(self.ctx, function, self._args_ptr, len(args), self._trap_ptr)
        if error or self._trap.value:
            self._raise(error, RuntimeError)

    def call_i32(self, function: int, *args: int) -> int:
        """Calls a function of integers that returns an i32, signed. Raises as ``call``."""
        raw = self._args
        at = 0
        for value in args:
            raw[at] = value
            at += I64_STEP
        error = _call_unchecked(self.ctx, function, self._args_ptr, len(args) or 1, self._trap_ptr)
        if error or self._trap.value:
            self._raise(error, RuntimeError)
        value = raw[0] & 0xFFFF_FFFF
        return value - 0x1_0000_0000 if value & 0x8000_0000 else value

    def memory_base(self, memory: int) -> int:
        """The address of the memory's first byte."""
        base: int = _memory_data(self.ctx, memory) or 0
        return base

    def memory_bytes(self, memory: int) -> int:
        """How long the memory is now."""
        size: int = _memory_data_size(self.ctx, memory)
        return size

    def grow_memory(self, memory: int, pages: int) -> bool:
        """Makes the memory longer by ``pages`` of 64 KiB; False where its limit forbids that."""
        before = c_uint64()
        error = _memory_grow(self.ctx, memory, pages, addressof(before))
        if error:
            _error_delete(error)
            return False
        return True

    def get_global_i32(self, handle: int) -> int:
        """The value of an i32 global."""
        value = _bindings.wasmtime_val_t()
        _global_get(self.ctx, handle, addressof(value))
        return int(value.of.i32)

    def set_global_i32(self, handle: int, number: int) -> None:
        """Sets a mutable i32 global."""
        value = _bindings.wasmtime_val_t()
        value.kind = _ffi.WASMTIME_I32
        value.of.i32 = number
        error = _global_set(self.ctx, handle, addressof(value))
        if error:
            raise RuntimeError(_take_error(error))

    def fuel(self) -> int:
        """What is left of the fuel: exact after a normal return."""
        error = _get_fuel(self.ctx, self._scratch.fuel_ptr)
        if error:
            raise RuntimeError(_take_error(error))
        return int(self._scratch.fuel.value)

    def _raise(self, error: int | None, kind: type[Exception]) -> None:
        pending, _pending[:] = _pending[:], []
        if error:
            # a trap that a host function made comes back as an error with a backtrace
            text = _take_error(error)
            if not pending:
                raise kind(text)
        trap = self._trap.value
        self._trap.value = None
        code = c_uint8()
        has_code = False
        if trap is not None:
            has_code = _trap_code(trap, byref(code))
            _trap_delete(trap)
        if pending:
            if isinstance(pending[0], HostStop):
                raise GuestTrap(TrapKind.HOST, TrapKind.HOST.value) from pending[0]
            raise pending[0]
        if not has_code:
            raise GuestTrap(TrapKind.OTHER, TrapKind.OTHER.value)
        found = _KINDS.get(code.value, TrapKind.OTHER)
        raise GuestTrap(found, _WORDS.get(code.value, found.value))


class _ByteVec(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("data", c_void_p))


def _take_error(error: int) -> str:
    message = _ByteVec()
    _error_message(error, byref(message))
    try:
        return string_at(message.data, message.size).decode(errors="replace")
    finally:
        _byte_vec_delete(byref(message))
        _error_delete(error)


def window(address: int, size: int) -> Any:
    """Guest memory as something to slice: ``window[start:end]`` is a copy as ``bytes``, for a third of what ``string_at`` costs.

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
