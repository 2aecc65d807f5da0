"""What ``capi`` relies on. A failure here means that this version of wasmtime is not the one it was written for."""

from __future__ import annotations

import ctypes

import pytest
import wasmtime
from wasmtime import _bindings, _ffi

from panels_worker.guest import capi
from panels_worker.guest.engine import _OFF, make_engine, ticks
from tests.workers.builders import ENGINE

I32 = wasmtime.ValType.i32()


def linked(source: str) -> capi.Template:
    linker = capi.HostLinker(ENGINE)

    def add(raw: object) -> None:
        raw[0] = raw[0] + raw[4]  # type: ignore[index]

    def boom(raw: object) -> None:
        raise ZeroDivisionError("boom")

    def stop(raw: object) -> None:
        raise capi.HostStop("enough")

    linker.define("h", "add", [I32, I32], [I32], add)
    linker.define("h", "boom", [], [], boom)
    linker.define("h", "stop", [], [], stop)
    return linker.link(wasmtime.Module(ENGINE, source))


def opened(template: capi.Template, *, fuel: int = 1_000_000, memory_bytes: int = 1 << 20) -> capi.Store:
    return capi.Store(template, fuel=fuel, epoch_ticks=1_000, memory_bytes=memory_bytes, table_elements=100)


def test_wasmtime_still_exports_every_function_with_as_many_arguments() -> None:
    for name, (_, arguments) in capi._PROTOTYPES.items():
        bound = getattr(_bindings, f"_{name}", None)
        assert bound is not None, f"wasmtime-py no longer binds {name}"
        assert len(bound.argtypes) == len(arguments), f"{name} takes {len(bound.argtypes)} arguments now"


def test_wasmtime_still_lays_out_values_as_assumed() -> None:
    assert ctypes.sizeof(_bindings.wasmtime_val_raw_t) == capi.RAW_BYTES
    assert ctypes.sizeof(_bindings.wasmtime_instance_t) == 16
    assert _bindings.wasmtime_extern_t.kind.offset == 0  # type: ignore[attr-defined]
    assert capi._EXTERN_UNION == 8
    assert _ffi.WASMTIME_I32.value == 0


def test_wasmtime_still_numbers_trap_codes_as_assumed() -> None:
    codes = _bindings.wasmtime_trap_code_enum
    assert codes.WASMTIME_TRAP_CODE_STACK_OVERFLOW.value == 0
    assert codes.WASMTIME_TRAP_CODE_MEMORY_OUT_OF_BOUNDS.value == 1
    assert codes.WASMTIME_TRAP_CODE_UNREACHABLE_CODE_REACHED.value == 9
    assert codes.WASMTIME_TRAP_CODE_INTERRUPT.value == 10
    assert codes.WASMTIME_TRAP_CODE_OUT_OF_FUEL.value == 11


def test_engine_switches_off_only_features_that_wasmtime_knows() -> None:
    for name in _OFF:
        assert isinstance(getattr(wasmtime.Config, name, None), property), name


@pytest.mark.parametrize(
    "source",
    [
        "(module (memory 1) (memory 1))",
        "(module (memory i64 1))",
        "(module (memory 1 1 shared))",
        "(module (func (result v128) (v128.const i64x2 0 0)))",
        "(module (type (struct)))",
        "(module (tag))",
        "(module (func $f (return_call $f)))",
        "(module (func (param (ref func))))",
        "(component)",
    ],
)
def test_engine_refuses_features_that_are_off(source: str) -> None:
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module(ENGINE, source)


def test_store_calls_with_host_functions_in_between() -> None:
    template = linked(
        '(module (import "h" "add" (func $a (param i32 i32) (result i32))) (memory (export "memory") 1)'
        '(func (export "f") (param i32 i32) (result i32) (call $a (local.get 0) (local.get 1))))'
    )
    store = opened(template)
    f = store.export(b"f")
    assert store.call_i32(f, 40, 2) == 42
    assert store.call_i32(f, 0x7FFF_FFFF, 1) == -0x8000_0000
    assert store.export(b"nothing") == 0
    assert 999_900 < store.fuel() < 1_000_000
    store.close()
    store.close()


def test_store_passes_what_a_host_function_raised() -> None:
    store = opened(linked('(module (import "h" "boom" (func $b)) (func (export "f") call $b))'))
    with pytest.raises(ZeroDivisionError, match="boom"):
        store.call(store.export(b"f"))
    store.close()


def test_store_says_that_the_host_stopped_the_guest() -> None:
    store = opened(linked('(module (import "h" "stop" (func $b)) (func (export "f") call $b))'))
    with pytest.raises(capi.GuestTrap) as caught:
        store.call(store.export(b"f"))
    assert caught.value.kind is capi.TrapKind.HOST
    assert str(caught.value.__cause__) == "enough"
    store.close()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("unreachable", capi.TrapKind.UNREACHABLE),
        ("(loop (br 0))", capi.TrapKind.FUEL),
        ("(call 0)", capi.TrapKind.STACK),
        ("(drop (i32.load (i32.const 70000)))", capi.TrapKind.MEMORY),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", capi.TrapKind.OTHER),
    ],
)
def test_store_tells_the_kind_of_a_trap(body: str, kind: capi.TrapKind) -> None:
    store = opened(linked(f'(module (memory 1) (func (export "f") {body}))'), fuel=50_000_000)
    with pytest.raises(capi.GuestTrap) as caught:
        store.call(store.export(b"f"))
    assert caught.value.kind is kind
    store.close()


def test_store_is_interrupted_at_its_epoch_deadline() -> None:
    template = linked('(module (func (export "f") (loop (br 0))))')
    store = capi.Store(template, fuel=1 << 40, epoch_ticks=1, memory_bytes=1, table_elements=1)
    ENGINE.increment_epoch()
    with pytest.raises(capi.GuestTrap) as caught:
        store.call(store.export(b"f"))
    assert caught.value.kind is capi.TrapKind.INTERRUPT
    store.close()


def test_store_refuses_a_memory_above_its_limit() -> None:
    with pytest.raises(capi.InstantiationError):
        opened(linked("(module (memory 20))"), memory_bytes=1 << 20)


def test_store_reports_a_start_function_that_traps() -> None:
    with pytest.raises(capi.GuestTrap):
        opened(linked("(module (start 0) (func unreachable))"))


def test_store_keeps_a_memory_where_it_is_when_it_grows() -> None:
    template = linked(
        '(module (memory (export "memory") 1) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))'
    )
    store = opened(template, memory_bytes=32 << 20)
    memory = store.export(b"memory")
    base = store.memory_base(memory)
    assert store.call_i32(store.export(b"grow"), 400) == 1
    assert store.memory_base(memory) == base
    assert store.memory_bytes(memory) == 401 * 65_536
    assert store.call_i32(store.export(b"grow"), 400) == -1
    store.close()


def test_store_reads_and_sets_globals() -> None:
    store = opened(linked('(module (global (export "g") (mut i32) (i32.const 5)))'))
    handle = store.export(b"g")
    assert store.get_global_i32(handle) == 5
    store.set_global_i32(handle, -7)
    assert store.get_global_i32(handle) == -7
    store.close()


def test_ticks_never_end_a_job_early() -> None:
    assert ticks(1) == 2
    assert ticks(10) == 2
    assert ticks(11) == 3


def test_make_engine_can_be_called_for_a_second_process_only() -> None:
    # two engines in one process are made here alone, to see that artifacts of one load in the other
    artifact = wasmtime.Module(ENGINE, "(module)").serialize()
    wasmtime.Module.deserialize(make_engine(), artifact)
