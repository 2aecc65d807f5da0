"""Handlers that take more memory than they may: linear memory, tables, the stack, a script's heap."""

from __future__ import annotations

from typing import Final

from benchmarks.isolation.attack import STOPPED, Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import module
from panels_shared.limits import MIB

FAMILY: Final = "growth"
_ROOM: Final = {"memoryBytes": 8 * MIB, "fuel": 10**10, "timeoutMs": 2_000}
_ENOUGH: Final = "MEMORY_LIMIT"

_GROWING: Final = {
    "page by page": "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
    "all at once": "(drop (memory.grow (i32.const 65535))) (i32.store8 (i32.const 0x7fffffff) (i32.const 1))",
    "touching each page": """(local.set $n (i32.const 65536))
      (loop $l
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (local.set $n (i32.add (local.get $n) (i32.const 65536)))
        (i32.store (local.get $n) (i32.const -1))
        (br $l))""",
    "for ever, though refused": "(loop $l (drop (memory.grow (i32.const 65535))) (br $l))",
}
_DEEP: Final = {
    "itself": ("(call $f)", "(func $f (call $f))"),
    "each other": ("(call $f)", "(func $f (call $g)) (func $g (call $f))"),
    "through a table": (
        "(call_indirect (type $t) (i32.const 0))",
        (
            "(type $t (func)) (table 1 1 funcref) (elem (i32.const 0) $f) "
            "(func $f (call_indirect (type $t) (i32.const 0)))"
        ),
    ),
    "with wide frames": (
        "(drop (call $f (i64.const 1)))",
        (
            f"(func $f (param i64) (result i64) (local {'i64 ' * 1000}) "
            "(i64.add (call $f (local.get 0)) (call $f (local.get 0))))"
        ),
    ),
    "around a host call": (
        "(call $f)",
        "(func $f (drop (call $state_has (i32.const 16) (i32.const 4))) (call $f))",
    ),
}
_HEAPS: Final = {
    "arrays": "const a = []; for (;;) a.push(new Array(1000).fill(1));",
    "typed arrays": "const a = []; for (;;) a.push(new Uint8Array(100000));",
    "one typed array": "return new Uint8Array(2 ** 31 - 1).length;",
    "resizable buffer": "const b = new ArrayBuffer(8, { maxByteLength: 2 ** 31 }); for (;;) b.resize(b.byteLength * 2);",
    "strings": "const a = []; for (let i = 0; ; i++) a.push(('x' + i).repeat(10000));",
    "one string": "let s = 'x'; for (;;) s += s;",
    "maps": "const m = new Map(); for (let i = 0; ; i++) m.set(i, {});",
    "sets": "const m = new Set(); for (let i = 0; ; i++) m.add(Symbol());",
    "weak maps": "const m = new WeakMap(), k = []; for (;;) { const o = {}; k.push(o); m.set(o, o); }",
    "objects with many keys": "const o = {}; for (let i = 0; ; i++) o['key' + i] = i;",
    "closures": "let f = () => 1; for (;;) { const g = f; f = () => g; }",
    "promises": "const a = []; for (;;) a.push(new Promise(() => {}));",
    "microtasks": "for (;;) Promise.resolve().then(() => {});",
    "generators": "const a = []; for (;;) { const g = (function* () { yield 1; })(); g.next(); a.push(g); }",
    "symbols": "const a = []; for (let i = 0; ; i++) a.push(Symbol.for('s' + i));",
    "BigInts": "const a = []; for (;;) a.push(2n ** 50000n);",
    "regular expressions": "const a = []; for (let i = 0; ; i++) a.push(new RegExp('a'.repeat(1000) + i));",
    "errors": "const a = []; for (;;) a.push(new Error('x'.repeat(1000)));",
    "state": "for (let i = 0; ; i++) $state['k' + i] = 'x'.repeat(10000);",
    "padding": "return ''.padEnd(2 ** 29, 'x').length;",
    "joining": "return new Array(2 ** 27).join('xxxxxxxx').length;",
    "array by length": "return new Array(2 ** 32 - 1).fill(0).length;",
}
_STACKS: Final = {
    "function": "(function f() { f(); })();",
    "method": "const o = { f() { return o.f() + 1; } }; o.f();",
    "getter": "const o = { get x() { return o.x; } }; return o.x;",
    "toString": "const o = { toString() { return `${o}`; } }; return `${o}`;",
    "proxy": "const p = new Proxy({}, { get(t, k, r) { return r[k]; } }); return p.x;",
    "sort": "[1, 2].sort(function f() { return [1, 2].sort(f); });",
    "replace": "'a'.replace(/a/, function f() { return 'a'.replace(/a/, f); });",
    "constructor": "class A { constructor() { new A(); } } new A();",
    "iterator": "const o = { *[Symbol.iterator]() { yield* o; } }; return [...o];",
    "bound": "let f = () => 1; for (let i = 0; i < 100000; i++) f = f.bind(null); f();",
    "JSON": "let a = []; for (let i = 0; i < 100000; i++) a = [a]; JSON.stringify(a);",
    "catching": "const f = () => { try { f(); } finally { f(); } }; f();",
}


def attacks() -> list[Attack]:
    """The family."""
    return [
        attack(FAMILY, "memory.grow", _memory()),
        attack(FAMILY, "table.grow", _tables()),
        attack(
            FAMILY,
            "recursion",
            [
                call(name, module(body, fields=fields), "STACK_OVERFLOW", "LIMIT_EXCEEDED")
                for name, (body, fields) in _DEEP.items()
            ]
            + [
                call("in a start function", module("", fields="(func $s (call $s)) (start $s)"), "STACK_OVERFLOW"),
                call("in alloc", module("", fields="(func $f (call $f))", alloc="(call $f) (i32.const 0)"), "STACK_OVERFLOW"),
            ],
        ),
        attack(FAMILY, "a script's heap", _scripts(_HEAPS)),
        attack(FAMILY, "a script's stack", _scripts(_STACKS)),
    ]  # fmt: skip


def _memory() -> list[Call]:
    made = [
        call(name, module(body), _ENOUGH, "TRAP", "TIMEOUT", "FUEL_EXHAUSTED", limits=_ROOM)
        for name, body in _GROWING.items()
    ]
    wide = '(memory (export "memory") 2000)'
    made.append(call("more than its tool may have", module("", memory=wide), _ENOUGH, limits=_ROOM))
    made.append(
        call("at the very end", module("", memory='(memory (export "memory") 65536)'), "refused:memory")
    )
    return made


def _tables() -> list[Call]:
    grow = "(table.grow $t (ref.null func) (i32.const {}))"
    fields = "(table $t 1 funcref)"
    return [
        call(
            "entry by entry",
            module(f"(loop $l (br_if $l (i32.ne {grow.format(1)} (i32.const -1)))) unreachable", fields=fields),
            "TRAP", "MEMORY_LIMIT", "TIMEOUT", "FUEL_EXHAUSTED",
            limits=_ROOM,
        ),
        call(
            "all at once",
            module(f"(call $number (i32.add {grow.format(2**32 - 2)} (i32.const 1)))", fields=fields),
            "returned",
            returns=0,
        ),
        call("declared", module("", fields="(table 100000000 funcref)"), "refused:memory"),
    ]  # fmt: skip


def _scripts(sources: dict[str, str]) -> list[Call]:
    return [
        call(name, source, *STOPPED, limits={**_ROOM, "memoryBytes": 32 * MIB})
        for name, source in sources.items()
    ]
