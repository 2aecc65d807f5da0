"""A store with one fresh instance in it: how the host calls a guest, and reads and writes what it exports."""

from __future__ import annotations

import ctypes
from ctypes import addressof, byref, c_uint8, c_uint64, c_void_p, memmove, string_at
from typing import Any, Final, NoReturn

from wasmtime import _bindings

from panels_worker.guest.capi import (
    EXTERN_BYTES,
    EXTERN_UNION,
    I64_STEP,
    call_unchecked,
    error_delete,
    export_get,
    get_fuel,
    global_get,
    global_set,
    instantiate,
    memory_data,
    memory_data_size,
    memory_grow,
    set_epoch_deadline,
    set_fuel,
    store_context,
    store_delete,
    store_limiter,
    store_new,
    take_error,
    trap_code,
    trap_delete,
)
from panels_worker.guest.linker import Template, take_pending
from panels_worker.guest.traps import GuestTrap, HostStop, InstantiationError, TrapKind, trap_of

_MAX_ARGS: Final = 8
#: Which bits of a value count, by its kind: i32, i64, f32, f64.
_BITS_OF_KIND: Final = {0: 0xFFFF_FFFF, 1: (1 << 64) - 1, 2: 0xFFFF_FFFF, 3: (1 << 64) - 1}
#: The most exports of one instance that may be looked up.
MAX_EXPORTS: Final = 64


class _Scratch:
    """Memory that calls of one store write their results to; used again by later stores, as making it costs
    microseconds.
    """

    __slots__ = (
        "args",
        "args_ptr",
        "externs",
        "externs_ptr",
        "fuel",
        "fuel_ptr",
        "instance",
        "instance_ptr",
        "trap",
        "trap_ptr",
    )

    def __init__(self) -> None:
        self.args = (c_uint64 * (2 * _MAX_ARGS))()
        self.args_ptr = addressof(self.args)
        self.externs = ctypes.create_string_buffer(EXTERN_BYTES * MAX_EXPORTS)
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

    Raises ``InstantiationError`` or ``GuestTrap`` (the start function ran and trapped); nothing is left open
    then.
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
        self.ptr: int = store_new(template.engine_ptr, None, None)
        self.ctx: int = store_context(self.ptr)
        store_limiter(self.ptr, memory_bytes, table_elements, 1, 1, 1)
        set_fuel(self.ctx, fuel)
        set_epoch_deadline(self.ctx, epoch_ticks)
        error = instantiate(template.pre_ptr, self.ctx, scratch.instance_ptr, trap_ptr)
        if error or self._trap.value:
            try:
                self._raise(error, InstantiationError)
            finally:
                self.close()

    def close(self) -> None:
        """Frees the store and everything in it."""
        if self.ptr:
            store_delete(self.ptr)
            self.ptr = 0
            _scratches.append(self._scratch)

    def export(self, name: bytes) -> int:
        """The address of an exported function's, memory's or global's handle, valid while the store is; 0 for
        none.

        At most ``MAX_EXPORTS`` per store.
        """
        count = self._exports
        if count >= MAX_EXPORTS:
            raise RuntimeError(f"expected at most {MAX_EXPORTS} exports of an instance to be wanted")
        handle = self._scratch.externs_ptr + count * EXTERN_BYTES
        if not export_get(self.ctx, self._scratch.instance_ptr, name, len(name), handle):
            return 0
        self._exports = count + 1
        return handle + EXTERN_UNION

    def call(self, function: int, *args: int) -> None:
        """Calls a function that takes integers and returns nothing. Raises ``GuestTrap``, or what a host
        function raised.
        """
        raw = self._args
        at = 0
        for value in args:
            raw[at] = value
            at += I64_STEP
        error = call_unchecked(self.ctx, function, self._args_ptr, len(args), self._trap_ptr)
        if error or self._trap.value:
            self._raise(error, RuntimeError)

    def call_i32(self, function: int, *args: int) -> int:
        """Calls a function of integers that returns an i32, signed. Raises as ``call``."""
        raw = self._args
        at = 0
        for value in args:
            raw[at] = value
            at += I64_STEP
        error = call_unchecked(self.ctx, function, self._args_ptr, len(args) or 1, self._trap_ptr)
        if error or self._trap.value:
            self._raise(error, RuntimeError)
        value = raw[0] & 0xFFFF_FFFF
        return value - 0x1_0000_0000 if value & 0x8000_0000 else value

    def memory_base(self, memory: int) -> int:
        """The address of the memory's first byte."""
        base: int = memory_data(self.ctx, memory) or 0
        return base

    def memory_bytes(self, memory: int) -> int:
        """How long the memory is now."""
        size: int = memory_data_size(self.ctx, memory)
        return size

    def grow_memory(self, memory: int, pages: int) -> bool:
        """Makes the memory longer by ``pages`` of 64 KiB; False where its limit forbids that."""
        before = c_uint64()
        error = memory_grow(self.ctx, memory, pages, addressof(before))
        if error:
            error_delete(error)
            return False
        return True

    def get_global_i32(self, handle: int) -> int:
        """The value of an i32 global."""
        value = _bindings.wasmtime_val_t()
        global_get(self.ctx, handle, addressof(value))
        return int(value.of.i32)

    def get_global_bits(self, handle: int) -> int:
        """The value of a global of numbers, as 64 bits."""
        value = _bindings.wasmtime_val_t()
        global_get(self.ctx, handle, addressof(value))
        bits = int.from_bytes(string_at(addressof(value.of), 8), "little")
        kind: Any = value.kind
        return bits & _BITS_OF_KIND[kind]

    def set_global_bits(self, handle: int, bits: int) -> None:
        """Sets a mutable global of numbers to what ``get_global_bits`` gave."""
        value = _bindings.wasmtime_val_t()
        global_get(self.ctx, handle, addressof(value))
        memmove(addressof(value.of), bits.to_bytes(8, "little"), 8)
        error = global_set(self.ctx, handle, addressof(value))
        if error:
            raise RuntimeError(take_error(error))

    def fuel(self) -> int:
        """What is left of the fuel: exact after a normal return."""
        error = get_fuel(self.ctx, self._scratch.fuel_ptr)
        if error:
            raise RuntimeError(take_error(error))
        return int(self._scratch.fuel.value)

    def _raise(self, error: int | None, kind: type[Exception]) -> NoReturn:
        """Raises what ended a call: ``kind`` for an error of wasmtime's own, else the trap or a host's
        exception.
        """
        pending = take_pending()
        if error:
            # a trap that a host function made comes back as an error with a backtrace
            text = take_error(error)
            if pending is None:
                raise kind(text)
        trap = self._trap.value
        self._trap.value = None
        code: int | None = None
        if trap is not None:
            found = c_uint8()
            code = found.value if trap_code(trap, byref(found)) else None
            trap_delete(trap)
        if pending is None:
            raise trap_of(code)
        if isinstance(pending, HostStop):
            raise GuestTrap(TrapKind.HOST, TrapKind.HOST.value) from pending
        raise pending
