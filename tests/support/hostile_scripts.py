"""Scripts that mean ill. The worker's tests run them one by one, ``scripts/isolation_test`` in a whole
system.
"""

from __future__ import annotations

from typing import Final

from panels_shared.outcome import Reason

#: What JSON cannot hold: expression → (path within it, words of the message).
UNFIT: Final[dict[str, tuple[str, str]]] = {
    "NaN": ("", "NaN"),
    "[0, -Infinity]": ("[1]", "-Infinity"),
    "[undefined]": ("[0]", "undefined"),
    "[1, , 3]": ("[1]", "undefined"),
    "10n": ("", "a BigInt"),
    "{ a: { 'b c': [1n] } }": ('.a["b c"][0]', "a BigInt"),
    "Object(1n)": ("", "a BigInt"),
    "{ n: new Number(NaN) }": (".n", "NaN"),
    "Symbol('s')": ("", "a symbol"),
    "[Object(Symbol('s'))]": ("[0]", "a symbol"),
    "() => 1": ("", "a function"),
    "{ f() {} }": (".f", "a function"),
    "class A {}": ("", "a function"),
    "[new Date(NaN)]": ("[0]", "an invalid Date"),
    "new Map([[1, 2]])": ("", "a Map"),
    "{ s: new Set([1]) }": (".s", "a Set"),
    "new WeakMap()": ("", "a weak collection"),
    "{ p: Promise.resolve(1) }": (".p", "a promise"),
    "/a/g": ("", "a regular expression"),
    "{ t: new Uint8Array(2) }": (".t", "a typed array"),
    "new Float64Array([NaN])": ("", "a typed array"),
    "new BigInt64Array(1)": ("", "a typed array"),
    "new ArrayBuffer(8)": ("", "binary data"),
    "new DataView(new ArrayBuffer(8))": ("", "binary data"),
    "'\\ud800'": ("", "a string with a lone surrogate"),
    "['a', 'b\\udc00c']": ("[1]", "a string with a lone surrogate"),
    "[new String('\\ud800')]": ("[0]", "a string with a lone surrogate"),
    "{ o: { '\\ud800': 1 } }": (".o", "a key with a lone surrogate"),
    "{ a: [] }; made.a.push(made)": (".a[0]", "a reference to itself"),
    "[]; made[0] = made": ("[0]", "a reference to itself"),
    "[]; for (let i = 0; i < 1000; i++) made = [made]": ("[0]" * 64, "nesting deeper than 64"),
    "{ toJSON: () => NaN }": ("", "NaN"),
    "[{ toJSON: () => undefined }]": ("[0]", "undefined"),
    "new Proxy([1], { get: (t, key) => (key === '0' ? 1n : t[key]) })": ("[0]", "a BigInt"),
    "{ get a() { return NaN; } }": (".a", "NaN"),
}  # fmt: skip
#: Where a value can go → (statement, what its path begins with).
PLACES: Final[dict[str, tuple[str, str]]] = {
    "result": ("return made", "return value"),
    "async result": ("await null; return made", "return value"),
    "state": ("$state.k = made", "$state.k"),
    "state by method": ("$state.set('a b', made)", '$state["a b"]'),
    "inside state": ("$state.list.push(made)", "$state.list[1]"),
    "event": ("$emit('e', made)", "payload"),
    "view": ("$view.command('v', 'c', made)", "params"),
}
#: Too much of something → the one reason with which it ends.
EXCESS: Final[list[tuple[str, Reason]]] = [
    ("JSON.parse('['.repeat(100000) + ']'.repeat(100000))", Reason.STACK_OVERFLOW),
    ("JSON.parse('{\"a\":'.repeat(100000) + '1' + '}'.repeat(100000))", Reason.STACK_OVERFLOW),
    ("let a = []; for (let i = 0; i < 100000; i++) a = [a]; JSON.stringify(a)", Reason.STACK_OVERFLOW),
    ("const a = {}; a.a = a; JSON.stringify(a)", Reason.HANDLER_ERROR),
    ("JSON.stringify({ a: 1n })", Reason.HANDLER_ERROR),
    ("(function f(n) { return n ? f(n - 1) + 1 : 0; })(100000)", Reason.STACK_OVERFLOW),
    (("const f = () => new Proxy({}, { get: f }); [].concat.apply([], { length: 2 ** 32 - 1 "
     "})"), Reason.HANDLER_ERROR),
    ("let p = {}; for (let i = 0; i < 100000; i++) p = new Proxy(p, {}); p.x", Reason.STACK_OVERFLOW),
    ("new RegExp('('.repeat(100000) + ')'.repeat(100000))", Reason.HANDLER_ERROR),
    ("new RegExp('(?:'.repeat(100000) + ')'.repeat(100000))", Reason.STACK_OVERFLOW),
    ("[1, 2].sort(function f() { return [1, 2].sort(f); })", Reason.STACK_OVERFLOW),
    ("let s = 'x'; for (;;) s += s", Reason.HANDLER_ERROR),
    ("const a = []; for (;;) a.push(new Uint8Array(100000))", Reason.MEMORY_LIMIT),
    ("(async function f() { await null; await f(); })(); for (;;) await null", Reason.FUEL_EXHAUSTED),
    ("new Array(2 ** 32 - 1).fill(0)", Reason.MEMORY_LIMIT),
    ("while (true) { try { null.x } catch {} finally { continue } }", Reason.FUEL_EXHAUSTED),
    ("const f = () => { try { f() } finally { f() } }; f()", Reason.STACK_OVERFLOW),
    ("(function* () { for (;;) yield 1; })().forEach(() => {})", Reason.FUEL_EXHAUSTED),
    ("2n ** (2n ** 40n)", Reason.HANDLER_ERROR),
]  # fmt: skip
#: Ways to make code of strings.
MAKERS: Final[list[str]] = [
    "eval('1')",
    "(0, eval)('1')",
    "globalThis.eval('1')",
    "Function('return 1')()",
    "new Function('return 1')()",
    "(() => {}).constructor('return 1')()",
    "Reflect.construct(Object.getPrototypeOf(function () {}).constructor, ['return 1'])",
    "new (class extends Function {})('return 1')",
    "(async () => {}).constructor('return 1')()",
    "(function* () {}).constructor('yield 1')()",
    "(async function* () {}).constructor('yield 1')()",
    "$emit.constructor('return 1')()",
    "[].map.constructor('return 1')()",
]
#: Modules that a script may want to import.
SPECIFIERS: Final[list[str]] = [
    "fs",
    "./x.js",
    "handler",
    "data:text/javascript,1",
    "http://example.org/x.js",
]
#: Statements that a module's top level may not have, because it has no job.
TOP_LEVELS: Final[list[str]] = [
    "const n = $state.n;",
    "$state.n = 1;",
    "delete $state.n;",
    "Object.keys($state);",
    "'n' in $state;",
    "$emit('e');",
    "$view.focus('v');",
    "const sub = $scope.sub;",
    "const started = $time.now();",
    "const chance = Math.random();",
    "await null; $state.n = 1;",
    "Promise.resolve().then(() => { $state.n = 1; });",
    "try { $state.n = 1; } catch {}",
]
#: What a script may do to the language that it finds.
TAMPERING: Final[list[str]] = [
    "Object.prototype.leak = 1",
    "Object.prototype.toJSON = () => '\\ud800'",
    "Object.prototype.get = () => 1n",
    "JSON.stringify = () => '}{'",
    "JSON.parse = () => ({ leak: 1 })",
    "Array.isArray = () => true",
    "Array.prototype.toJSON = () => '\"},{'",
    "String.prototype.isWellFormed = () => true",
    "Promise.prototype.then = () => {}",
    "Promise.resolve = () => 1",
    "Reflect.apply = Reflect.ownKeys = null",
    "Function.prototype.call = Function.prototype.apply = () => 1",
    "Symbol.iterator in Array.prototype && delete Array.prototype[Symbol.iterator]",
    "for (const name of Reflect.ownKeys(globalThis)) { try { delete globalThis[name] } catch {} }",
    "Object.defineProperty(Object.prototype, 'kind', { get: () => 'INVALID_RESULT', set() {} })",
    "Object.defineProperty(Array.prototype, 0, { get: () => NaN, set() {} })",
    "Error.prototype.name = '\\ud800'; Error.prototype.message = {}",
    "Number.prototype.toString = () => '}'; Number.prototype.toJSON = () => 1n",
]
