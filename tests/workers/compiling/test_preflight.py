from __future__ import annotations

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.handlers import MAX_WASM_BYTES
from panels_worker.compiling.preflight import preflight
from panels_worker.compiling.reader import MAX_ITEMS
from panels_worker.compiling.signatures import PANELS_IMPORTS
from tests.workers.builders import ABI, ENGINE, HOST
from tests.workers.modules import GOOD, leb, module, section, vector, wat

MEMORY = '(memory (export "memory") 1)'
ALLOC = '(func (export "alloc") (param i32) (result i32) (i32.const 0))'
RESUME = '(func (export "resume") (param i64 i32 i32 i32) (result i32) (i32.const 0))'
HANDLE = '(func (export "handle") (param i32 i32) (result i32) (i32.const 0))'


def test_preflight_admits_a_handler() -> None:
    assert preflight(GOOD, "handle") is None


def test_preflight_admits_every_import_that_the_host_has() -> None:
    source = wat(f"(module {ABI} {RESUME} {HANDLE})")
    assert preflight(source, "handle") is None
    HOST.linker.link(wasmtime.Module(ENGINE, source))
    assert len(PANELS_IMPORTS) == 15


def test_preflight_refuses_a_module_that_calls_extensions_and_cannot_be_resumed() -> None:
    refusal = preflight(wat(f"(module {ABI} {HANDLE})"), "handle")
    assert refusal is not None
    assert refusal.code == "missing_export"
    assert "resume" in refusal.message
    assert "ext_call" in refusal.message


def test_preflight_admits_another_entry_and_optional_exports() -> None:
    text = f'(module {MEMORY} {ALLOC} (func (export "go") (param i32 i32) (result i32) (i32.const 0)) (func (export "_initialize")))'
    assert preflight(wat(text), "go") is None


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (f"(module {ALLOC} {HANDLE})", "missing_export", "memory"),
        (f"(module {MEMORY} {HANDLE})", "missing_export", "'alloc' (a function (i32) -> i32)"),
        (f"(module {MEMORY} {ALLOC})", "missing_export", "'handle' (a function (i32, i32) -> i32)"),
        ((f'(module {MEMORY} {ALLOC} (func (export "handle") (param '
         'i32)))'), "signature", "'handle': expected (i32, i32) -> i32, got (i32) -> ()"),
        ((f'(module {MEMORY} {ALLOC} {HANDLE} (func (export "_initialize") (param '
         'i32)))'), "signature", "_initialize"),
        ((f'(module (import "env" "abort" (func)) {MEMORY} {ALLOC} '
         f'{HANDLE})'), "unknown_import", "'env'.'abort'"),
        ((f'(module (import "panels" "fly" (func)) {MEMORY} {ALLOC} '
         f'{HANDLE})'), "unknown_import", "'panels'.'fly'"),
        ((f'(module (import "panels" "emit" (func (param i64))) {MEMORY} {ALLOC} '
         f'{HANDLE})'), "signature", "'panels'.'emit': expected (i32, i32, i32, i32) -> i32"),
        ((f'(module (import "env" "memory" (memory 1)) {ALLOC} '
         f'{HANDLE})'), "unknown_import", "memory 'env'.'memory'"),
        ((f'(module (import "env" "t" (table 1 funcref)) {MEMORY} {ALLOC} '
         f'{HANDLE})'), "unknown_import", "table"),
        (f'(module (import "env" "g" (global i32)) {MEMORY} {ALLOC} {HANDLE})', "unknown_import", "global"),
        (f'(module (memory (export "memory") 3000) {ALLOC} {HANDLE})', "memory", "134217728"),
        (f'(module (memory (export "memory") i64 1) {ALLOC} {HANDLE})', "unsupported", "64-bit"),
        (f'(module (memory (export "memory") 1 1 shared) {ALLOC} {HANDLE})', "unsupported", "shared"),
        (f'(module (memory 1) {MEMORY} {ALLOC} {HANDLE})', "unsupported", "one memory"),
        (f"(module {MEMORY} (table 99999 funcref) {ALLOC} {HANDLE})", "memory", "99999"),
        ((f'(module {MEMORY} {ALLOC} {HANDLE} (func (export "v") (result v128) '
         'unreachable))'), "unsupported", "SIMD"),
        ((f'(module {MEMORY} {ALLOC} {HANDLE} (func (export "r") (param '
         'externref)))'), "signature", "externref"),
        (f"(module (type (struct)) {MEMORY} {ALLOC} {HANDLE})", "unsupported", "GC"),
        (f"(module (type (func)) (tag (type 0)) {MEMORY} {ALLOC} {HANDLE})", "unsupported", "tags"),
    ],
)  # fmt: skip
def test_preflight_names_what_is_wrong(text: str, code: str, words: str) -> None:
    refusal = preflight(wat(text), "handle")
    assert refusal is not None
    assert (refusal.code, words in refusal.message) == (code, True), refusal


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "malformed"),
        (b"nonsense", "malformed"),
        (b"\0asm", "malformed"),
        (b"\0asm\2\0\0\0", "malformed"),
        (b"\0asm\x0d\0\1\0", "unsupported"),
        (GOOD[:-1], "malformed"),
        (module(section(1, b"")), "malformed"),
        (module(section(99, b"")), "malformed"),
        (module(section(1, vector([])), section(1, vector([]))), "malformed"),
        (module(section(1, leb(MAX_ITEMS + 1))), "too_large"),
        (module(section(2, b"\x01" + leb(4_000_000_000))), "too_large"),
        (module(b"\x01\xff\xff\xff\xff\xff\xff"), "malformed"),
        (module(section(7, vector([b"\x01a\x00\x05"]))), "malformed"),
        (b"\0asm\1\0\0\0" + bytes(MAX_WASM_BYTES), "too_large"),
    ],
)
def test_preflight_refuses_malformed_bytes(source: bytes, code: str) -> None:
    refusal = preflight(source, "handle")
    assert refusal is not None
    assert refusal.code == code


@given(st.binary(max_size=300))
def test_preflight_never_raises(data: bytes) -> None:
    preflight(data, "handle")
    preflight(b"\0asm\1\0\0\0" + data, "handle")


@given(st.data())
def test_preflight_never_raises_for_a_damaged_module(data: st.DataObject) -> None:
    source = bytearray(wat(f"(module {ABI} (table 5 funcref) {HANDLE})"))
    for _ in range(data.draw(st.integers(1, 4))):
        source[data.draw(st.integers(8, len(source) - 1))] = data.draw(st.integers(0, 255))
    preflight(bytes(source), "handle")


def test_refusals_are_short_even_for_long_names() -> None:
    long = "x" * 1_000
    refusal = preflight(wat(f'(module (import "{long}" "{long}" (func)))'), "handle")
    assert refusal is not None
    assert len(refusal.message) < 400
