"""The globals that ordinary code expects of any host."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from panels_shared.outcome import Completed
from tests.workers.javascript.scripts import failure, refusal, run, value


def log(source: str) -> list[str]:
    """What a script logs, without levels."""
    outcome = run(source).outcome
    assert isinstance(outcome, Completed), outcome
    return [line.text for line in outcome.log]


@pytest.mark.parametrize(
    ("call", "lines"),
    [
        ("log('%s is %d years', 'ada', 36)", ["ada is 36 years"]),
        ("log('%s', 1, 'more', { a: 1 })", ['1 more {"a":1}']),
        ("log('%d %i %f', '4.5', '4.9', '2.5x')", ["4.5 4 2.5"]),
        ("log('%j %o %O', { a: 1 }, [2], { b: [3] })", ['{"a":1} [2] {"b":[3]}']),
        ("log('%cbold%c', 'color: red', '')", ["bold"]),
        ("log('100%% of %s', 'it')", ["100% of it"]),
        ("log('100%')", ["100%"]),
        ("log('%s and %s', 'one')", ["one and %s"]),
        ("log('%x %s', 1)", ["%x 1"]),
        ("log('%d', 10n, 2n)", ["10n 2"]),
        ("log('%d %i %f', Symbol.iterator, {}, Symbol('f'))", None),
        ("log('a%', 1)", ["a% 1"]),
        ("log()", [""]),
        ("log(1, 'a', null, undefined, [1])", ["1 a null undefined [1]"]),
        ("log({ toJSON() { throw 1 } })", ["[a value that cannot be shown]"]),
        ("assert(true, 'no')", []),
        ("assert(1 > 2)", ["Assertion failed"]),
        ("assert(false, 'n is %d', 3)", ["Assertion failed: n is 3"]),
        ("table([{ a: 1, b: 'x' }, { a: 22 }])", ["(index)  a   b\n0        1   x\n1        22"]),
        ("table({ x: 1, y: 'two' })", ["(index)  Values\nx        1\ny        two"]),
        ("table(5)", ["5"]),
        ("table([])", ["(index)"]),
        ("dir({ a: 1 }, { depth: 0 })", ['{"a":1}']),
        ("trace('here %d', 1)", ["Trace: here 1"]),
        (("count(); console.count(); console.count('x'); console.countReset(); "
         "console.count()"), ["default: 1", "default: 2", "x: 1", "default: 1"]),
        (("time(); console.timeLog(undefined, 'so far'); "
         "console.timeEnd()"), ["default: 0ms so far", "default: 0ms"]),
        ("time('a'); console.timeEnd('a'); console.timeEnd('a')", ["a: 0ms", "Timer 'a' does not exist"]),
        ("timeEnd('never')", ["Timer 'never' does not exist"]),
        (("group('outer'); console.log('a\\nb'); console.group(); console.log('c'); console.groupEnd(); "
         "console.groupEnd(); console.groupEnd(); console.log('d')"), ["outer", "  a\n  b", "    c", "d"]),
        ("groupCollapsed('g'); console.log(1)", ["g", "  1"]),
        ("clear(); console.timeStamp('x'); console.dirxml(1)", ["1"]),
    ],
)  # fmt: skip
def test_console_logs_as_elsewhere(call: str, lines: list[str] | None) -> None:
    if lines is None:
        # a symbol is no number: a TypeError, as in the standard's own conversion
        assert failure(f"console.{call}").message.startswith("TypeError")
    else:
        assert log(f"console.{call}") == lines


def test_console_has_levels() -> None:
    outcome = run(
        "for (const how of ['debug', 'log', 'info', 'warn', 'error', 'trace']) "
        "console[how](how); console.assert(0)"
    ).outcome
    assert isinstance(outcome, Completed)
    assert [line.level for line in outcome.log] == [0, 1, 1, 2, 3, 0, 3]


def test_console_begins_anew_for_each_job() -> None:
    source = "console.group('g'); console.count(); console.time('t'); return 1"
    assert log(source) == log(source) == ["g", "  default: 1"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (("return [self === globalThis, global === globalThis, typeof window, typeof "
         "setTimeout]"), [True, True, "undefined", "undefined"]),
        ("return process.env.NODE_ENV", "production"),
        ("return (typeof process !== 'undefined' && process.versions) ?? null", None),
        ("const start = performance.now(); return performance.now() - start", 0),
        ("return performance.timeOrigin === $time.now()", True),
        ("return [...new TextEncoder().encode('a\\ud800é')]", [97, 0xEF, 0xBF, 0xBD, 0xC3, 0xA9]),
        ("return new TextEncoder().encodeInto('aé', new Uint8Array(2))", {"read": 1, "written": 1}),
        (("return new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 0x61, 0xc3, 0x28, "
         "0xf0, 0x9f, 0x98, 0x80]))"), "a\ufffd(\U0001f600"),
        (("return new TextDecoder().decode(new Uint8Array([0xed, 0xa0, 0x80, 0xc0, 0x80, "
         "0xf5]))"), "\ufffd" * 6),
        ("return new TextDecoder('UTF-8').decode(new Uint8Array([97, 98]).buffer)", "ab"),
        ("return new TextDecoder().decode(new DataView(new Uint8Array([97, 98, 99]).buffer, 1, 1))", "b"),
        (("try { new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([255])) } "
         "catch (e) { return e.name }"), "TypeError"),
        ("try { new TextDecoder('latin1') } catch (e) { return e.name }", "RangeError"),
        ("return atob(btoa('panels'))", "panels"),
        (("const c = structuredClone([1, , { a: new Date(5) }]); return [1 in c, "
         "c.length, c[2].a.getTime()]"), [False, 3, 5]),
        (("const a = { n: 1 }; a.a = a; const c = structuredClone(a); return [c !== a, c.a === c, "
         "c.n]"), [True, True, 1]),
        ("const c = structuredClone(new Map([[1, new Set([2])]])); return [...c.get(1)]", [2]),
        (("const t = new Uint16Array([1, 2, 3]).subarray(1); const c = structuredClone(t); return [c.join(), "
         "c.constructor.name, c.buffer !== t.buffer]"), ["2,3", "Uint16Array", True]),
        (("const c = structuredClone(new RangeError('m', { cause: [1] })); return [c instanceof "
         "RangeError, c.message, c.cause]"), [True, "m", [1]]),
        (("const c = structuredClone(/a/gi); return [c.source, c.flags, structuredClone(1n) === 1n, "
         "structuredClone(undefined) === undefined]"), ["a", "gi", True, True]),
        ("return Object.keys(structuredClone(JSON.parse('{\"__proto__\": 1}')))", ["__proto__"]),
        ("try { structuredClone({ f() {} }) } catch (e) { return e.name }", "DataCloneError"),
        ("try { structuredClone(Symbol('s')) } catch (e) { return e.name }", "DataCloneError"),
        ("try { queueMicrotask(1) } catch (e) { return e.name }", "TypeError"),
        ("try { crypto.getRandomValues(new Float64Array(1)) } catch (e) { return e.name }", "TypeError"),
        ("try { crypto.getRandomValues(new Uint8Array(65537)) } catch (e) { return e.name }", "RangeError"),
    ],
)  # fmt: skip
def test_global_is_as_elsewhere(source: str, expected: Any) -> None:
    assert value(source) == expected


def test_random_values_are_seeded_by_the_job() -> None:
    source = (
        "return [crypto.randomUUID(), [...crypto.getRandomValues(new Uint32Array(3))], crypto.randomUUID()]"
    )
    made = value(source)
    assert value(source) == made
    assert value(source, seed=8) != made
    assert made[0] != made[2]
    for text in (made[0], made[2]):
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("setTimeout(() => {}, 1)", "handlers have no timers"),
        ("clearTimeout(1)", "handlers have no timers"),
        ("await fetch('x')", "handlers reach nothing but their panel"),
        ("require('fs')", "handlers import the modules of their panel alone"),
        ("window.x = 1", "handlers do not run in a browser"),
        ("new URL('http://x')", "handlers have no URL parser"),
        ("Buffer.from('x')", "handlers have Uint8Array"),
    ],
)
def test_absent_global_says_why_it_is_absent(source: str, reason: str) -> None:
    assert f"is not defined: {reason}" in failure(source).message


def test_name_of_an_absent_global_is_free() -> None:
    assert value("const URL = 1, window = 2; return URL + window") == 3
    assert (
        value("globalThis.setTimeout = (f) => f(); setTimeout(() => { $state.n = 1 }); return $state.n") == 1
    )


#: What the heads of published bundles do: lodash 4.17, underscore 1.13, and wrappers of UMD, webpack and
#: core-js.
PROBES = [
    (
        "var freeGlobal = typeof global == 'object' && global && global.Object === Object && global; var "
        "freeSelf = typeof self == 'object' && self && self.Object === Object && self; var root = freeGlobal "
        "|| freeSelf || Function('return this')(); var util = freeGlobal && freeGlobal.process && "
        "freeGlobal.process.binding && 1; var stamp = root.Date.now(), later = root.setTimeout; return root "
        "=== globalThis && later === undefined"
    ),
    (
        "var root = (typeof self == 'object' && self.self === self && self) || (typeof global == 'object' && "
        "global.global === global && global); return root.Object === Object"
    ),
    (
        "return (function (root, factory) { if (typeof define === 'function' && define.amd) define([], "
        "factory); else if (typeof module === 'object' && module.exports) module.exports = factory(); "
        "else root.lib = factory(); return !!root.lib; })(typeof self !== 'undefined' ? self : this, "
        "function () { return {} })"
    ),
    (
        "var check = (it) => it && it.Math === Math && it; return !!(check(typeof globalThis == 'object' && "
        "globalThis) || check(typeof window == 'object' && window) || check(typeof self == 'object' && self))"
    ),
    "if (process.env.NODE_ENV !== 'production') throw new Error('development'); return true",
    "return typeof structuredClone === 'function' && typeof queueMicrotask === 'function'",
]


@pytest.mark.parametrize("source", PROBES)
def test_bundle_finds_its_world(source: str) -> None:
    assert value(source) is True


@pytest.mark.parametrize(
    "top_level",
    [
        "const stamp = Date.now();",
        "const stamp = +new Date();",
        "const stamp = performance.now() + Date.now();",
    ],
)
def test_library_that_looks_at_the_clock_while_it_loads_is_loaded(top_level: str) -> None:
    """There is no time yet: what it gets is no date, and says so where it is used as one."""
    assert value(f"{top_level}\nexport default () => [Number.isNaN(stamp), Date.now() > 0]") == [True, True]
    assert "NaN" in failure(f"{top_level}\nexport default () => stamp").message


# -- TypeScript
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("namespace A { export const x = 1; export enum E { P = 3 } }\nreturn A.x + A.E.P;", 4),
        ("const k: number = 2;\nnamespace A.B { export const x = k; const s = '}'; }\nreturn A.B.x;", 2),
        ("namespace A { export type T = number }\nconst a: A.T = 5;\nreturn a;", 5),
        (("namespace A { export function f(): number { return g(); } function g() { return "
         "$args; } }\nreturn await A.f();"), 6),
        (("const s = 'namespace Q { }';\n// namespace A { export const x = 9 }\nnamespace A { export const x "
         "= 1; }\nreturn s.length + A.x"), 16),
        ("namespace A { export const x = 1 }\nnamespace B { export const x = A.x + 1 }\nreturn B.x", 2),
        ("namespace A { export namespace B { export const x = 7 } }\nreturn A.B.x", 7),
        ("namespace A { export const x = 1 }\nexport default () => A.x", 1),
        ("enum E { X = 4 }\nenum E { Y = X + 1 }\nreturn [E.X, E.Y]", [4, 5]),
    ],
)  # fmt: skip
def test_namespaces_work_in_both_forms(source: str, expected: Any) -> None:
    assert value(source, language="typescript", args=6) == expected


@pytest.mark.parametrize("end", ["return A.y;", "export default () => A.y;"])
def test_namespace_that_is_opened_twice_is_refused_by_its_name(end: str) -> None:
    first = "namespace A { export enum E { X = 4 } }\n\n"
    found = refusal(f"{first}  namespace A {{ export const y = E.X }}\n{end}", "typescript")
    assert "expected the namespace A to be opened once" in found.message
    assert (found.line, found.column) == (3, 3)


@pytest.mark.parametrize("end", ["return 1", "export default () => 1"])
@pytest.mark.parametrize(
    ("declaration", "column", "what"),
    [
        ("@d class A { x = 1 }", 3, "decorators"),
        ("class A { accessor x = 1 }", 13, "`accessor`"),
        ("class A { @d m() {} }", 13, "decorators"),
    ],
)
@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_what_the_engine_does_not_have_is_refused_at_its_place(
    declaration: str, column: int, what: str, end: str, language: Any
) -> None:
    found = refusal(f"const d = (x) => x;\n\n  {declaration}\n{end}", language)
    assert what in found.message
    assert (found.line, found.column) == (3, column), found


@pytest.mark.parametrize(
    "number",
    [
        "2 ** 64",
        "2 ** 63",
        "-(2 ** 63) - 2048",
        "1e20",
        "1e21",
        "Number.MAX_VALUE",
        "Number.MAX_SAFE_INTEGER + 2",
    ],
)
def test_every_finite_number_leaves_a_handler_and_comes_back(number: str) -> None:
    outcome = run(f"$state.n = {number}; $emit('e', [{number}]); return {number}").outcome
    assert isinstance(outcome, Completed), outcome
    made = json.loads(outcome.return_value)
    assert value("return [$state.n === $args, $args]", state={"n": made}, args=made)[0] is True
