"""What ``capi`` relies on. A failure here means that this version of wasmtime is not the one it was written
for.
"""

from __future__ import annotations

import ctypes

import pytest
import wasmtime
from wasmtime import _bindings

from panels_worker.guest import capi
from panels_worker.guest.linker import HostLinker
from panels_worker.guest.store import Store
from panels_worker.guest.traps import GuestTrap
from tests.workers.builders import ENGINE


def test_wasmtime_still_exports_every_function_with_as_many_arguments() -> None:
    for name, (_, arguments) in capi.PROTOTYPES.items():
        bound = getattr(_bindings, f"_{name}", None)
        assert bound is not None, f"wasmtime-py no longer binds {name}"
        assert len(bound.argtypes) == len(arguments), f"{name} takes {len(bound.argtypes)} arguments now"


def test_wasmtime_still_lays_out_values_as_assumed() -> None:
    assert ctypes.sizeof(_bindings.wasmtime_val_raw_t) == capi.RAW_BYTES
    assert ctypes.sizeof(_bindings.wasmtime_instance_t) == 16
    assert _bindings.wasmtime_extern_t.kind.offset == 0  # type: ignore[attr-defined]
    assert capi.EXTERN_UNION == 8


def test_wasmtime_still_numbers_trap_codes_as_assumed() -> None:
    codes = _bindings.wasmtime_trap_code_enum
    assert codes.WASMTIME_TRAP_CODE_STACK_OVERFLOW.value == 0
    assert codes.WASMTIME_TRAP_CODE_MEMORY_OUT_OF_BOUNDS.value == 1
    assert codes.WASMTIME_TRAP_CODE_UNREACHABLE_CODE_REACHED.value == 9
    assert codes.WASMTIME_TRAP_CODE_INTERRUPT.value == 10
    assert codes.WASMTIME_TRAP_CODE_OUT_OF_FUEL.value == 11


def test_window_slices_guest_memory_as_copies() -> None:
    memory = ctypes.create_string_buffer(b"abcdef", 6)
    window = capi.window(ctypes.addressof(memory), 6)
    copy = window[1:4]
    capi.write_bytes(ctypes.addressof(memory) + 1, b"xyz", 3)
    assert (copy, window[0:6]) == (b"bcd", b"axyzef")


def test_take_error_gives_the_message() -> None:
    linker, kind = wasmtime.Linker(wasmtime.Engine()), wasmtime.FuncType([], [])
    pointers = [ctypes.cast(item.ptr(), ctypes.c_void_p) for item in (linker, kind)]

    def define() -> int | None:
        error: int | None = capi.define_func_unchecked(
            pointers[0], b"m", 1, b"f", 1, pointers[1], None, None, None
        )
        return error

    assert not define()
    error = define()
    assert error
    assert "defined twice" in capi.take_error(error)


def test_epoch_of_an_engine_moves_on() -> None:
    store = Store(HostLinker(ENGINE).link(wasmtime.Module(ENGINE, '(module (func (export "f") (loop $l (br $l))))')),
                  fuel=10**9, epoch_ticks=1, memory_bytes=1, table_elements=1)  # fmt: skip
    capi.epoch_of(ENGINE)()
    with pytest.raises(GuestTrap, match="interrupted by its deadline"):
        store.call(store.export(b"f"))
    store.close()
