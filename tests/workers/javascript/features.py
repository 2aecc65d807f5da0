"""The table of language features: what a handler may write, each with a script that shows it.

``docs/language-features.md`` is made from this by ``python -m tests.workers.javascript.features``; a test
compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

DOCUMENT = Path(__file__).parents[3] / "docs" / "language-features.md"


class Feature(NamedTuple):
    """``expected`` is the script's return value; one that is an ``Absent`` says what the feature throws
    instead.
    """

    group: str
    name: str
    source: str
    expected: Any


class Absent(NamedTuple):
    """A feature that is not there; ``error`` begins the message."""

    error: str


FEATURES = [
    Feature("Syntax", "let, const, block scope", "let a = 1; { const a = 2; } return a", 1),
    Feature(
        "Syntax",
        "arrow functions, default and rest parameters",
        "return ((a, b = 2, ...c) => a + b + c.length)(1, undefined, 3, 4)",
        5,
    ),
    Feature(
        "Syntax",
        "template literals, tagged",
        "const t = (s, ...v) => s.raw.join('|') + v; return t`a${1}\\n${2}`",
        "a|\\n|1,2",
    ),
    Feature(
        "Syntax",
        "destructuring with defaults and rest",
        "const { a = 1, ...r } = { b: 2, c: 3 }; const [x, , y = 9, ...z] = [1, 2, undefined, 4, "
        "5]; return [a, r, x, y, z]",
        [1, {"b": 2, "c": 3}, 1, 9, [4, 5]],
    ),
    Feature(
        "Syntax",
        "destructuring in parameters and loops",
        "let s = 0; for (const { n: [v] } of [{ n: [1] }, { n: [2] }]) s += v; return (({ a: { b } }) "
        "=> b + s)({ a: { b: 3 } })",
        6,
    ),
    Feature(
        "Syntax",
        "spread in calls, arrays, objects",
        "return [Math.max(...[1, 5, 3]), [...'ab'], { ...{ a: 1 }, b: 2 }]",
        [5, ["a", "b"], {"a": 1, "b": 2}],
    ),
    Feature(
        "Syntax",
        "optional chaining and nullish coalescing",
        "const o = { f: null }; return [o.f?.x ?? 'n', o.g?.() === undefined, o?.['f']]",
        ["n", True, None],
    ),
    Feature(
        "Syntax",
        "logical assignment",
        "let a = null, b = 1, c = 0; a ??= 5; b &&= 6; c ||= 7; return [a, b, c]",
        [5, 6, 7],
    ),
    Feature(
        "Syntax",
        "exponentiation, numeric separators, binary and octal",
        "return [2 ** 10, 1_000_000, 0b101, 0o17]",
        [1024, 1000000, 5, 15],
    ),
    Feature(
        "Syntax",
        "labelled blocks, break and continue to a label",
        "let n = 0; outer: for (let i = 0; i < 5; i++) { for (let j = 0; j < 5; j++) { if (j === 2) continue "
        "outer; if (i === 3) break outer; n++; } } blk: { break blk; } return n",
        6,
    ),
    Feature(
        "Syntax",
        "switch with fall-through",
        "let s = ''; switch (2) { case 1: s += 1; case 2: s += 2; case 3: s += 3; break; "
        "default: s += 'd'; } return s",
        "23",
    ),
    Feature(
        "Syntax",
        "try, catch without binding, finally",
        "let s = ''; try { try { throw 1; } finally { s += 'f'; } } catch { s += 'c'; } return s",
        "fc",
    ),
    Feature(
        "Syntax",
        "getters, setters, computed names",
        "const k = 'x'; const o = { _v: 1, get [k]() { return this._v; }, set [k](v) { this._v = v * "
        "2; } }; o.x = 4; return o.x",
        8,
    ),
    Feature(
        "Syntax",
        "comma, void, typeof, in, instanceof, delete",
        "const o = { a: 1 }; return [(1, 2), typeof void 0, 'a' in o, [] instanceof Array, delete o.a, o]",
        [2, "undefined", True, True, True, {}],
    ),
    Feature("Syntax", "with (sloppy mode only)", "with ({ q: 5 }) { return q; }", 5),
    Feature("Syntax", "hashbang-free comments, HTML-free source", "/* a */ // b\nreturn 1", 1),
    Feature("Functions", "closures", "const add = (n) => (m) => n + m; return [1, 2].map(add(10))", [11, 12]),
    Feature(
        "Functions",
        "arguments object, call, apply, bind",
        "function f() { return this.k + arguments.length; } return [f.call({ k: 1 }, 2), f.apply({ k: 2 }, "
        "[1, 2]), f.bind({ k: 3 })()]",
        [2, 4, 3],
    ),
    Feature(
        "Functions",
        "generators, yield*, return and throw",
        "function* g() { try { const x = yield 1; yield* [x, 3]; } finally { yield 9; } } const i = g(); "
        "return [i.next().value, i.next(2).value, i.return(5).value, i.next()]",
        [1, 2, 9, {"value": 5, "done": True}],
    ),
    Feature(
        "Functions",
        "async functions and await",
        "const f = async (x) => { await null; return x * 2; }; return await f(21)",
        42,
    ),
    Feature(
        "Functions",
        "async generators and for await",
        "async function* g() { yield 1; yield Promise.resolve(2); } let s = 0; for await (const "
        "v of g()) s += v; return s",
        3,
    ),
    Feature(
        "Functions",
        "Promise.all, allSettled, any, race, withResolvers",
        "const { promise, resolve } = Promise.withResolvers(); resolve(4); return [await Promise.all([1, "
        "Promise.resolve(2)]), (await Promise.allSettled([Promise.reject(1)]))[0].status, await "
        "Promise.any([Promise.reject(1), 3]), await Promise.race([promise])]",
        [[1, 2], "rejected", 3, 4],
    ),
    Feature(
        "Functions",
        "microtasks run in order",
        "const s = []; queueMicrotask(() => s.push(2)); Promise.resolve().then(() => s.push(3)); s.push(1); "
        "await null; await null; return s",
        [1, 2, 3],
    ),
    Feature(
        "Functions",
        "proper tail calls",
        "'use strict'; const f = (n) => n === 0 ? 0 : f(n - 1); return f(100000)",
        Absent("the handler's call stack is exhausted"),
    ),
    Feature(
        "Classes",
        "classes, inheritance, super",
        "class A { constructor(x) { this.x = x; } f() { return this.x; } } class B extends A { f() { return "
        "super.f() + 1; } } return new B(1).f()",
        2,
    ),
    Feature(
        "Classes",
        "fields, static, private names, #x in o",
        "class A { #p = 1; q = 2; static s = 3; static #t = 4; static has(o) { return #p in o; } sum() { "
        "return this.#p + this.q + A.s + A.#t; } } return [new A().sum(), A.has(new A()), A.has({})]",
        [10, True, False],
    ),
    Feature(
        "Classes",
        "static blocks, accessors, private methods",
        "class A { static v; static { A.v = 1; } #m() { return 2; } get x() { return this.#m() + "
        "A.v; } } return new A().x",
        3,
    ),
    Feature(
        "Classes",
        "new.target, Symbol.species, extending built-ins",
        "class L extends Array { last() { return this.at(-1); } } const l = L.from([1, 2, 3]).map((x) => x * "
        "2); return [l instanceof L, l.last()]",
        [True, 6],
    ),
    Feature(
        "Built-ins",
        "Array: at, flat, flatMap, findLast, toSorted, with, groupBy",
        "const a = [3, 1, 2]; return [a.at(-1), [[1], [2]].flat(), a.flatMap((x) => [x, x]).length, "
        "a.findLast((x) => x < 3), a.toSorted(), a.toReversed(), a.with(0, 9), Object.groupBy(a, (x) "
        "=> x % 2 ? 'odd' : 'even')]",
        [2, [1, 2], 6, 2, [1, 2, 3], [2, 1, 3], [9, 1, 2], {"odd": [3, 1], "even": [2]}],
    ),
    Feature(
        "Built-ins",
        "Object: entries, fromEntries, hasOwn, freeze",
        "return [Object.fromEntries(Object.entries({ a: 1 }).map(([k, v]) => [k + k, v])), Object.hasOwn({ "
        "b: 1 }, 'b'), Object.isFrozen(Object.freeze({}))]",
        [{"aa": 1}, True, True],
    ),
    Feature(
        "Built-ins",
        "String: padStart, replaceAll, matchAll, at, isWellFormed, normalize",
        "return ['5'.padStart(3, '0'), 'aXbX'.replaceAll('X', '-'), [...'a1b2'.matchAll(/\\d/g)].length, "
        "'abc'.at(-1), 'a\\ud800'.isWellFormed(), 'e\\u0301'.normalize('NFC').length]",
        ["005", "a-b-", 2, "c", False, 1],
    ),
    Feature(
        "Built-ins",
        "Map, Set and set operations",
        "const m = new Map([[{}, 1], ['k', 2]]); return [m.size, m.get('k'), [...new Set([1, 2, 2])], "
        "[...new Set([1, 2]).union(new Set([3]))]]",
        [2, 2, [1, 2], [1, 2, 3]],
    ),
    Feature(
        "Built-ins",
        "WeakMap, WeakSet, WeakRef",
        "const k = {}; const w = new WeakMap([[k, 1]]); return [w.get(k), new WeakSet([k]).has(k), new "
        "WeakRef(k).deref() === k]",
        [1, True, True],
    ),
    Feature(
        "Built-ins",
        "Symbol, iterators, Iterator helpers",
        "const o = { *[Symbol.iterator]() { yield 1; yield 2; yield 3; } }; return [[...o], "
        "o[Symbol.iterator]().map((x) => x * 2).filter((x) => x > 2).toArray(), typeof "
        "Symbol('d'), Symbol('d').description]",
        [[1, 2, 3], [4, 6], "symbol", "d"],
    ),
    Feature(
        "Built-ins",
        "Proxy and Reflect",
        "const p = new Proxy({}, { get: (t, k) => 'got ' + String(k), has: () => true }); return [p.x, 'y' "
        "in p, Reflect.ownKeys({ a: 1 })]",
        ["got x", True, ["a"]],
    ),
    Feature(
        "Built-ins",
        "RegExp: named groups, lookbehind, sticky, unicode, indices",
        "const m = /(?<y>\\d{4})-(?<m>\\d\\d)/d.exec('on 2026-11'); return [m.groups.y, m.indices[0], '$5 "
        "€6'.match(/(?<=€)\\d/)[0], /a/y.test('ba'), /^\\p{Lu}$/u.test('É')]",
        ["2026", [3, 10], "6", False, True],
    ),
    Feature(
        "Built-ins",
        "JSON with reviver and replacer",
        "return [JSON.parse('[1,2]', (k, v) => typeof v === 'number' ? v + 1 : v), "
        "JSON.stringify({ a: 1, b: 2 }, ['a'])]",
        [[2, 3], '{"a":1}'],
    ),
    Feature(
        "Built-ins",
        "Math and Number",
        "return [Math.trunc(-1.5), Math.clz32(1), Math.hypot(3, 4), Number.isInteger(5), (25).toString(36), "
        "(1234.5678).toFixed(2), Number.EPSILON > 0]",
        [-1, 31, 5, True, "p", "1234.57", True],
    ),
    Feature("Built-ins", "BigInt", "return String(2n ** 64n + BigInt('1'))", "18446744073709551617"),
    Feature(
        "Built-ins",
        "Date is the job's time, in UTC",
        "return [new Date().getTime() === $time.now(), new Date(0).toISOString(), new "
        "Date().getTimezoneOffset(), new Date(2020, 1, 29, 12).getUTCHours(), Date.UTC(2000, 0)]",
        [True, "1970-01-01T00:00:00.000Z", 0, 12, 946684800000],
    ),
    Feature(
        "Built-ins",
        "typed arrays, ArrayBuffer, DataView",
        "const b = new ArrayBuffer(8); new DataView(b).setFloat32(0, 1.5); return [Array.from(new "
        "Uint8Array(b, 0, 4)), new Float64Array([1, 2]).map((x) => x / 2).join()]",
        [[63, 192, 0, 0], "0.5,1"],
    ),
    Feature(
        "Built-ins",
        "Error cause, AggregateError, own classes",
        "class E extends Error {} try { throw new E('m', { cause: 1 }); } catch (e) { return [e instanceof "
        "E, e.message, e.cause, e.name]; }",
        [True, "m", 1, "Error"],
    ),
    Feature(
        "Built-ins",
        "structured text: encodeURIComponent, escape, btoa, atob",
        "return [encodeURIComponent('ä b'), decodeURIComponent('%C3%A4'), btoa('hi'), atob('aGk=')]",
        ["%C3%A4%20b", "ä", "aGk=", "hi"],
    ),
    Feature(
        "Built-ins",
        "Math.random is seeded by the job",
        "const a = Math.random(), b = Math.random(); return [a >= 0 && a < 1, a !== b]",
        [True, True],
    ),
    Feature("Built-ins", "globalThis", "globalThis.x = 1; return x", 1),
    Feature("Host", "self, global", "return [self === globalThis, global === globalThis]", [True, True]),
    Feature(
        "Host",
        "structuredClone",
        "const m = new Map([['a', { b: new Date(0) }]]); m.set('self', m); const c = structuredClone(m);"
        " return [c.get('a').b.getTime(), c.get('self') === c, c.get('a') !== m.get('a')]",
        [0, True, True],
    ),
    Feature(
        "Host",
        "TextEncoder and TextDecoder, for UTF-8",
        "const e = new TextEncoder().encode('aé€\U0001f600'); return [e.length, new TextDecoder().decode(e)]",
        [10, "aé€\U0001f600"],
    ),
    Feature(
        "Host",
        "crypto.randomUUID and getRandomValues, seeded by the job",
        "return "
        "[/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), "
        "crypto.getRandomValues(new Uint8Array(9)).some((byte) => byte > 0)]",
        [True, True],
    ),
    Feature(
        "Host",
        "performance.now, which stands still",
        "return [performance.now(), performance.timeOrigin === Date.now()]",
        [0, True],
    ),
    Feature("Host", "process.env.NODE_ENV", "return process.env.NODE_ENV", "production"),
    Feature(
        "Host", "queueMicrotask", "queueMicrotask(() => { $state.n = 1 }); await null; return $state.n", 1
    ),
    Feature("Not available", "eval", "return eval('1')", Absent("EvalError: eval is not available")),
    Feature(
        "Not available",
        "new Function and its kin",
        "return new Function('return 1')()",
        Absent("EvalError: Function is not available"),
    ),
    Feature("Not available", "import() of anything", "return await import('fs')", Absent("ReferenceError")),
    Feature(
        "Not available",
        "timers",
        "setTimeout(() => {}, 1)",
        Absent("ReferenceError: setTimeout is not defined"),
    ),
    Feature(
        "Not available",
        "fetch, XMLHttpRequest, WebSocket",
        "return await fetch('x')",
        Absent("ReferenceError: fetch is not defined"),
    ),
    Feature(
        "Not available",
        "Intl; toLocaleString is not localised",
        "return new Intl.NumberFormat('de')",
        Absent("ReferenceError: Intl is not defined"),
    ),
    Feature(
        "Not available", "require", "return require('fs')", Absent("ReferenceError: require is not defined")
    ),
    Feature(
        "Not available", "Buffer", "return Buffer.from('a')", Absent("ReferenceError: Buffer is not defined")
    ),
    Feature(
        "Not available",
        "the regular-expression flag v, in a constructor",
        "return new RegExp('a', 'v')",
        Absent("SyntaxError: the regular expression flag v is not available"),
    ),
    Feature(
        "Not available",
        "URL, URLSearchParams",
        "return [typeof URL, typeof URLSearchParams]",
        ["undefined"] * 2,
    ),
    Feature("Not available", "WebAssembly", "return typeof WebAssembly", "undefined"),
]


def document() -> str:
    """The text of ``docs/language-features.md``."""
    lines = [
        "# Language features",
        "",
        (
            "Handlers run in QuickJS-ng, which implements ECMAScript 2023 and more. Each "
            "row is a test, which runs"
        ),
        "a script in the guest under our host and compares its result. This page is made by",
        "`python -m tests.workers.javascript.features`.",
        "",
    ]
    group = ""
    for feature in FEATURES:
        if feature.group != group:
            group = feature.group
            lines += ["", f"## {group}", "", "| feature | result |", "|---|---|"]
        result = f"throws `{feature.expected.error}`" if isinstance(feature.expected, Absent) else "works"
        if group == "Not available" and not isinstance(feature.expected, Absent):
            result = "`undefined`"
        lines.append(f"| {feature.name} | {result} |".replace("||", "\\|\\|"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
