from __future__ import annotations

import pytest
import wasmtime

from panels_worker.guest.linker import HostLinker, Signature, take_pending
from panels_worker.guest.store import Store
from tests.workers.builders import ENGINE

F64 = wasmtime.ValType.f64()


def test_linker_refuses_to_define_a_name_twice() -> None:
    linker = HostLinker(ENGINE)
    linker.define("h", "f", [], [], lambda raw: None)
    with pytest.raises(ValueError, match=r"h\.f: .*defined twice"):
        linker.define("h", "f", [], [], lambda raw: None)


def test_linker_refuses_a_module_whose_import_is_not_defined() -> None:
    with pytest.raises(wasmtime.WasmtimeError, match="unknown import"):
        HostLinker(ENGINE).link(wasmtime.Module(ENGINE, '(module (import "h" "f" (func)))'))


def test_linker_passes_floats_by_the_signature_it_is_given() -> None:
    linker = HostLinker(ENGINE)

    def half(raw: object) -> None:
        raw[0] = raw[0] / 2  # type: ignore[index]

    linker.define("h", "half", [F64], [F64], half, Signature.F64)
    source = (
        '(module (import "h" "half" (func $half (param f64) (result f64)))'
        '(func (export "f") (result i32) (i32.trunc_f64_s (call $half (f64.const 84.5)))))'
    )
    template = linker.link(wasmtime.Module(ENGINE, source))
    store = Store(template, fuel=1_000, epoch_ticks=100, memory_bytes=1, table_elements=1)
    assert store.call_i32(store.export(b"f")) == 42
    store.close()


def test_linker_keeps_no_exception_once_it_was_raised() -> None:
    linker = HostLinker(ENGINE)

    def boom(raw: object) -> None:
        raise KeyError("boom")

    linker.define("h", "boom", [], [], boom)
    module = wasmtime.Module(ENGINE, '(module (import "h" "boom" (func $b)) (func (export "f") call $b))')
    store = Store(linker.link(module), fuel=1_000, epoch_ticks=100, memory_bytes=1, table_elements=1)
    with pytest.raises(KeyError, match="boom"):
        store.call(store.export(b"f"))
    assert take_pending() is None
    store.close()
