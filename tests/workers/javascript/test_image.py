"""The guest with the prelude in it."""

from __future__ import annotations

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from panels_worker.javascript import builds, image, sections
from panels_worker.javascript import engines as engine_modules
from panels_worker.javascript.engines import QUICKJS, GuestChangedError, engine_digest, engine_source
from panels_worker.javascript.guest import JavaScriptGuest
from panels_worker.javascript.prelude import prelude
from tests.workers.builders import ENGINE
from tests.workers.javascript.scripts import guest

PAGE = sections.WASM_PAGE_BYTES
SMALL = wasmtime.wat2wasm(
    """(module (memory (export "memory") 1) (data (i32.const 8) "before")
       (func (export "f") (result i32) (i32.const 7)))"""
)
stretches = st.lists(
    st.tuples(st.integers(0, 2 * PAGE - 300), st.binary(min_size=1, max_size=300)), max_size=20
)


@given(pages=st.integers(2, 4), stretches=stretches)
def test_module_begins_with_the_memory_it_was_given(pages: int, stretches: list[tuple[int, bytes]]) -> None:
    memory = bytearray(pages * PAGE)
    for at, data in stretches:
        memory[at : at + len(data)] = data
    module = wasmtime.Module(ENGINE, sections.with_memory(bytes(SMALL), bytes(memory)))
    store = wasmtime.Store(ENGINE)
    store.set_fuel(1_000)
    store.set_epoch_deadline(1_000)
    exports = wasmtime.Instance(store, module, []).exports(store)
    found = exports["memory"]
    assert isinstance(found, wasmtime.Memory)
    assert bytes(found.read(store)) == memory
    function = exports["f"]
    assert isinstance(function, wasmtime.Func)
    assert function(store) == 7


def test_guest_with_passive_data_is_refused() -> None:
    module = wasmtime.wat2wasm(
        '(module (memory 1) (data "x") (func (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 1))))'
    )
    with pytest.raises(GuestChangedError, match="passive"):
        sections.with_memory(bytes(module), bytes(PAGE))


def test_image_is_the_same_each_time_it_is_made() -> None:
    assert image.build(ENGINE, prelude()) == image.build(ENGINE, prelude())


def test_guest_without_the_prelude_is_not_taken_for_one_with_it() -> None:
    bare = bytes(wasmtime.Module(ENGINE, engine_source(QUICKJS)).serialize())
    with pytest.raises(GuestChangedError, match="image of QuickJS"):
        JavaScriptGuest.load(ENGINE, bare)


def test_fresh_instances_are_alike_and_small() -> None:
    assert len(guest().fresh) <= 32 * PAGE
    again = JavaScriptGuest.load(ENGINE, engine_modules.compile_engine(QUICKJS, ENGINE))
    assert again.fresh == guest().fresh
    assert again.places == guest().places


def test_compiled_engine_of_another_prelude_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine_digest(QUICKJS)
    changed = prelude() + b"// changed"
    monkeypatch.setattr(builds, "prelude", lambda: changed)
    engine_digest.cache_clear()
    try:
        assert engine_digest(QUICKJS) != before
    finally:
        engine_digest.cache_clear()
