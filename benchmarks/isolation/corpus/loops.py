"""Handlers that do not end: in plain loops, in places where nothing looks at the clock, and in scripts."""

from __future__ import annotations

from typing import Final

from benchmarks.isolation.attack import DEADLINE_MS, STOPPED, Attack, Call, attack, call, runaway
from benchmarks.isolation.corpus.guests import module
from panels_shared.limits import MIB

FAMILY: Final = "loops"
_FOREVER: Final = "(loop $l (br $l))"
_LARGE: Final = 128 * MIB
#: A memory of 120 MiB, all of it touched by every operation.
_WIDE: Final = '(memory (export "memory") 1920)'
_HALF: Final = 60 * MIB

#: Scripts that keep one operation of the engine busy, which looks at nothing meanwhile.
LONG_OPERATIONS: Final = {
    "repeat": "for (;;) 'xyz'.repeat(2 ** 22).length",
    "search": "const a = 'a'.repeat(2 ** 22) + 'b', b = 'a'.repeat(2 ** 12) + 'c'; for (;;) a.indexOf(b)",
    "last search": "const a = 'b' + 'a'.repeat(2 ** 22), b = 'c' + 'a'.repeat(2 ** 12); for (;;) a.lastIndexOf(b)",
    "replace": "const a = 'a'.repeat(2 ** 20); for (;;) a.replaceAll('a', 'bb')",
    "split": "const a = 'a,'.repeat(2 ** 18); for (;;) a.split(',')",
    "join": "const a = new Array(2 ** 18).fill('x'); for (;;) a.join('--')",
    "fill": "const a = new Uint8Array(2 ** 23); for (;;) a.fill(1)",
    "copy": "const a = new Uint8Array(2 ** 23); for (;;) a.copyWithin(1, 0)",
    "typed sort": "const a = new Float64Array(2 ** 19).map((_, i) => -i); for (;;) a.slice().sort()",
    "sort": "const a = Array.from({ length: 2 ** 16 }, (_, i) => (i * 7919) % 65536); for (;;) a.slice().sort()",
    "sort that never agrees": "for (;;) new Array(2 ** 14).fill(0).sort(() => Math.random() - 0.5)",
    "includes": "const a = new Array(2 ** 20).fill(0); for (;;) a.includes(1)",
    "reverse": "const a = new Array(2 ** 20).fill(0); for (;;) a.reverse()",
    "concatenation": "const a = new Array(2 ** 18).fill(0); for (;;) a.concat(a)",
    "sparse array": "const a = []; a.length = 2 ** 32 - 1; a.indexOf(1)",
    "array-like": "Array.prototype.indexOf.call({ length: 2 ** 53 - 1 }, 1)",
    "array of nothing": "Array.from({ length: 2 ** 32 - 1 })",
    "apply": "for (;;) Math.max.apply(null, new Array(2 ** 15).fill(1))",
    "spread": "for (;;) Math.max(...new Array(2 ** 15).fill(1))",
    "BigInt multiplication": "let a = 3n; for (;;) a = a * a",
    "BigInt division": "const a = 7n ** 60000n, b = 3n ** 30000n; for (;;) a / b",
    "BigInt as text": "const a = 7n ** 60000n; for (;;) a.toString()",
    "BigInt from text": "const a = '9'.repeat(30000); for (;;) BigInt(a)",
    "JSON out": "const a = new Array(2 ** 17).fill({ a: 1 }); for (;;) JSON.stringify(a)",
    "JSON in": "const a = '[' + '0,'.repeat(2 ** 18) + '0]'; for (;;) JSON.parse(a)",
    "normalization": "const a = '\\u1e9b\\u0323'.repeat(2 ** 16); for (;;) a.normalize('NFKD')",
    "case": "const a = 'straße'.repeat(2 ** 18); for (;;) a.toUpperCase()",
    "escape": "const a = '\\u20ac'.repeat(2 ** 18); for (;;) encodeURIComponent(a)",
    "comparison": "const a = 'a'.repeat(2 ** 23), b = 'a'.repeat(2 ** 23); for (;;) a === b",
    "enumeration": "const o = {}; for (let i = 0; i < 2 ** 15; i++) o['k' + i] = i; for (;;) Object.entries(o)",
    "structured copy": "const o = {}; for (let i = 0; i < 2 ** 14; i++) o['k' + i] = i; for (;;) ({ ...o })",
    "dates": "for (;;) new Date('2020-02-30T25:61:61').toString()",
}  # fmt: skip

REGULAR_EXPRESSIONS: Final = {
    "nested quantifiers": "/^(a+)+$/.test('a'.repeat(64) + 'b')",
    "alternation": "/^(a|a|aa)+$/.test('a'.repeat(64) + 'b')",
    "back reference": "/^(a*)*\\1$/.test('a'.repeat(64) + 'b')",
    "lookahead": "/^(?=(a+)+$)b/.test('a'.repeat(64) + 'b')",
    "lookbehind": "/(?<=^(a|a)+b)c/.test('a'.repeat(64) + 'c'.repeat(64)); for (;;) /(?<=(a+)+b)c/.test('a'.repeat(99) + 'c')",
    "lazy": "/^(a+?)+?$/.test('a'.repeat(64) + 'b')",
    "Unicode": "/^(\\p{L}+)+$/u.test('a'.repeat(64) + '1')",
    "many ends": "/(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[^]x$/s.test('a'.repeat(2000))",
    "one long scan": "const s = 'a'.repeat(2 ** 22); for (;;) /a*b/.test(s)",
    "replacement": "'a'.repeat(64).replace(/(a+)+b/g, '')",
}
_SCRIPTED: Final = {
    "while": "while (true);",
    "for in": "for (;;) for (const k in { a: 1 });",
    "microtasks": "const f = () => Promise.resolve().then(f); await f();",
    "awaiting": "for (;;) await null;",
    "asynchronous generator": "async function* g() { for (;;) yield 1; } for await (const x of g());",
    "generator": "function* g() { for (;;) yield 1; } for (const x of g());",
    "getter": "const o = { get x() { for (;;); } }; return o.x;",
    "toJSON": "return { toJSON() { for (;;); } };",
    "proxy": "return new Proxy({}, { ownKeys() { for (;;); } });",
    "toString": "$emit({ toString() { for (;;); } }, 1);",
    "thenable": "await { then() { for (;;); } };",
    "thenable that goes on": "const t = { then(f) { f(t); } }; await t;",
    "catching all": "for (;;) { try { null.x; } catch { } finally { continue; } }",
    "species": "class A extends Array { static get [Symbol.species]() { for (;;); } } new A(1).map((x) => x);",
    "iterator's return": "for (const x of { [Symbol.iterator]: () => ({ next: () => ({ value: 1 }), return() { for (;;); } }) }) break;",
}


def attacks() -> list[Attack]:
    """The family."""
    plain = [
        runaway("tight", module(_FOREVER)),
        runaway("of calls", module("(loop $l (call $f) (br $l))", fields="(func $f)")),
        runaway("of divisions", module("(loop $l (drop (f64.div (f64.sqrt (f64.const 2)) (f64.const 3))) (br $l))")),
        runaway(
            "through a table",
            module(
                "(loop $l (call_indirect (type $t) (i32.const 0)) (br $l))",
                fields="(type $t (func)) (table 1 1 funcref) (func $f) (elem (i32.const 0) $f)",
            ),
        ),
        runaway("by br_table", module("(loop $l (br_table $l $l (i32.const 0)))")),
        call("on its fuel", module(_FOREVER), "FUEL_EXHAUSTED", limits={"fuel": 1_000_000}),
    ]  # fmt: skip
    hosted = [
        runaway(
            f"with {name}",
            module(f"(loop $l {calling} (br $l))"),
            "TIMEOUT", "LIMIT_EXCEEDED",
            hostCalls=100_000,
        )
        for name, calling in {
            "now_ms": "(drop (call $now_ms))",
            "state_get": "(drop (call $state_get (i32.const 16) (i32.const 4) (i32.const 4096) (i32.const 64)))",
            "state_keys": "(drop (call $state_keys (i32.const 4096) (i32.const 64)))",
            "random": "(call $random (i32.const 4096) (i32.const 65536))",
            "a denied call": "(drop (call $view (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 4)))",
        }.items()
    ]  # fmt: skip
    placed = [
        runaway("in a start function", module("", fields=f"(func $s {_FOREVER}) (start $s)")),
        runaway("in _initialize", module("", fields=f'(func (export "_initialize") {_FOREVER})')),
        runaway("in alloc", module("", alloc=f"{_FOREVER} (i32.const 0)")),
        runaway(
            "after a result",
            module(f"(call $result (i32.const 16) (i32.const 4)) {_FOREVER}"),
        ),
    ]
    bulk = [
        runaway(name, module(f"(loop $l {operation} (br $l))", memory=_WIDE), *_BULK, memoryBytes=_LARGE)
        for name, operation in {
            "memory.fill": f"(memory.fill (i32.const 4096) (i32.const 1) (i32.const {2 * _HALF - 4096}))",
            "memory.copy": f"(memory.copy (i32.const 4096) (i32.const {_HALF}) (i32.const {_HALF}))",
            "overlapping memory.copy": f"(memory.copy (i32.const 4096) (i32.const 4097) (i32.const {_HALF}))",
        }.items()
    ]
    bulk.append(
        runaway(
            "table.fill",
            module(
                "(loop $l (table.fill $t (i32.const 0) (ref.func $f) (i32.const 16384)) (br $l))",
                fields="(table $t 16384 16384 funcref) (func $f) (elem declare func $f)",
            ),
        )
    )
    return [
        attack(FAMILY, "infinite loops", plain),
        attack(FAMILY, "infinite loops with host calls", hosted),
        attack(FAMILY, "infinite loops outside the entry", placed),
        attack(FAMILY, "bulk memory without end", bulk),
        attack(FAMILY, "infinite scripts", _scripts(_SCRIPTED)),
        attack(FAMILY, "regular expressions", _scripts(REGULAR_EXPRESSIONS)),
        attack(FAMILY, "long operations of the engine", _scripts(LONG_OPERATIONS)),
    ]


_BULK: Final = ("TIMEOUT", "FUEL_EXHAUSTED")


def _scripts(sources: dict[str, str]) -> list[Call]:
    return [
        call(name, source, *STOPPED, limits={"fuel": 10**10, "timeoutMs": DEADLINE_MS, "memoryBytes": _LARGE})
        for name, source in sources.items()
    ]
