from __future__ import annotations

import pytest
import wasmtime

from panels_worker.guest.linker import HostLinker, Template
from panels_worker.guest.store import MAX_EXPORTS, Store
from panels_worker.guest.traps import GuestTrap, HostStop, InstantiationError, TrapKind
from tests.workers.builders import ENGINE

I32 = wasmtime.ValType.i32()


def linked(source: str) -> Template:
    linker = HostLinker(ENGINE)

    def add(raw: object) -> None:
        raw[0] = raw[0] + raw[4]  # type: ignore[index]

    def boom(raw: object) -> None:
        raise ZeroDivisionError("boom")

    def stop(raw: object) -> None:
        raise HostStop("enough")

    linker.define("h", "add", [I32, I32], [I32], add)
    linker.define("h", "boom", [], [], boom)
    linker.define("h", "stop", [], [], stop)
    return linker.link(wasmtime.Module(ENGINE, source))


def opened(template: Template, *, fuel: int = 1_000_000, memory_bytes: int = 1 << 20) -> Store:
    return Store(template, fuel=fuel, epoch_ticks=1_000, memory_bytes=memory_bytes, table_elements=100)


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
    with pytest.raises(GuestTrap) as caught:
        store.call(store.export(b"f"))
    assert caught.value.kind is TrapKind.HOST
    assert str(caught.value.__cause__) == "enough"
    store.close()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("unreachable", TrapKind.UNREACHABLE),
        ("(loop (br 0))", TrapKind.FUEL),
        ("(call 0)", TrapKind.STACK),
        ("(drop (i32.load (i32.const 70000)))", TrapKind.MEMORY),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", TrapKind.OTHER),
    ],
)
def test_store_tells_the_kind_of_a_trap(body: str, kind: TrapKind) -> None:
    store = opened(linked(f'(module (memory 1) (func (export "f") {body}))'), fuel=50_000_000)
    with pytest.raises(GuestTrap) as caught:
        store.call(store.export(b"f"))
    assert caught.value.kind is kind
    store.close()


def test_store_is_interrupted_at_its_epoch_deadline() -> None:
    template = linked('(module (func (export "f") (loop (br 0))))')
    store = Store(template, fuel=1 << 40, epoch_ticks=1, memory_bytes=1, table_elements=1)
    ENGINE.increment_epoch()
    with pytest.raises(GuestTrap) as caught:
        store.call(store.export(b"f"))
    assert caught.value.kind is TrapKind.INTERRUPT
    store.close()


def test_store_refuses_a_memory_above_its_limit() -> None:
    with pytest.raises(InstantiationError):
        opened(linked("(module (memory 20))"), memory_bytes=1 << 20)


def test_store_reports_a_start_function_that_traps() -> None:
    with pytest.raises(GuestTrap):
        opened(linked("(module (start 0) (func unreachable))"))


def test_store_keeps_a_memory_where_it_is_when_it_grows() -> None:
    template = linked(
        '(module (memory (export "memory") 1) (func (export "grow") (param i32) (result i32) '
        "(memory.grow (local.get 0))))"
    )
    store = opened(template, memory_bytes=32 << 20)
    memory = store.export(b"memory")
    base = store.memory_base(memory)
    assert store.call_i32(store.export(b"grow"), 400) == 1
    assert store.memory_base(memory) == base
    assert store.memory_bytes(memory) == 401 * 65_536
    assert store.call_i32(store.export(b"grow"), 400) == -1
    store.close()


def test_store_reads_globals() -> None:
    store = opened(linked('(module (global (export "g") (mut i32) (i32.const 5)))'))
    handle = store.export(b"g")
    assert store.get_global_i32(handle) == 5
    store.close()


def test_store_looks_up_a_bounded_number_of_exports() -> None:
    store = opened(linked('(module (func (export "f")))'))
    for _ in range(MAX_EXPORTS):
        assert store.export(b"f")
    with pytest.raises(RuntimeError, match="at most 64 exports"):
        store.export(b"f")
    store.close()


def test_store_grows_a_memory_up_to_its_limit() -> None:
    store = opened(linked('(module (memory (export "memory") 1))'), memory_bytes=3 * 65_536)
    memory = store.export(b"memory")
    assert store.grow_memory(memory, 2)
    assert not store.grow_memory(memory, 1)
    assert store.memory_bytes(memory) == 3 * 65_536
    store.close()
