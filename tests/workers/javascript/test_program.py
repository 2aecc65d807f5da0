"""The handler's world, its bounds, and that nothing of a job outlives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_shared.outcome import Completed, Reason
from tests.workers.builders import make_task
from tests.workers.javascript.scripts import changes, failure, program, refusal, run, value

# -- isolation ---------------------------------------------------------------------------------------

TAMPERING = [
    "globalThis.leak = 1",
    "Object.prototype.leak = 1",
    "Array.prototype.push = () => 1",
    "JSON.stringify = () => '}{'",
    "JSON.parse = () => ({})",
    "Promise.prototype.then = () => {}",
    "Object.defineProperty(Object.prototype, 'get', { get() { return 1; } })",
    "String.prototype.isWellFormed = () => true; Number.isFinite = () => true",
    "Reflect.apply = Reflect.ownKeys = () => []",
    "delete globalThis.Object; delete globalThis.Map; delete globalThis.JSON",
    "Math.random = () => 2; Date.now = () => 3; globalThis.Date = null",
    "$state.__proto__ = { leak: 1 }",
    "Object.freeze(globalThis)",
    "Error.prototype.toString = () => { throw 1; }; Error.prepareStackTrace = () => { throw 2; }",
    "Object.setPrototypeOf(Object.prototype, null); Object.prototype.toJSON = () => 1",
    "Array.prototype[Symbol.iterator] = null; Set.prototype.has = () => true",
    "Function.prototype.call = Function.prototype.bind = Function.prototype.apply = () => 1",
    "RegExp.prototype.exec = RegExp.prototype.test = () => { throw 1; }; Object.keys = () => ['leak']",
    (
        "$state.set = $state.get = 1; $log.info = $view.focus = $emit.toast = $time.now = () "
        "=> 'leak'; console = null"
    ),
    "$emit.leak = 1; Object.setPrototypeOf($emit, null); Object.freeze($emit); $args = { leak: 1 }",
    (
        "try { Object.defineProperty(globalThis, '$state', { value: { leak: 1 } }) } catch {} try { delete "
        "globalThis.$emit } catch {}"
    ),
    (
        "try { Object.setPrototypeOf($state, { leak: 1 }) } catch {} try { "
        "Object.preventExtensions($state) } catch {}"
    ),
    (
        "try { $emit('e', NaN) } catch (error) { error.constructor.prototype.message = 'leak'; "
        "Object.setPrototypeOf(error.constructor, null) }"
    ),
    "for (const name of Reflect.ownKeys(globalThis)) { try { delete globalThis[name] } catch {} }",
    (
        "for (const name of Reflect.ownKeys(Object.prototype)) { try { Object.prototype[name] = "
        "() => 'leak' } catch {} }"
    ),
    "Object.defineProperty(Object.prototype, 'value', { get: () => 'leak', set() {} })",
    "Object.defineProperty(Object.prototype, 'written', { get: () => true, set() {} })",
    "Object.defineProperty(Array.prototype, 0, { get: () => 'leak', set() {} })",
    "Object.prototype.then = (resolve) => resolve('leak')",
    (
        "Symbol.prototype.toString = () => 'leak'; Date.prototype.toJSON = () => 'leak'; "
        "Number.prototype.toJSON = () => NaN"
    ),
    "String.prototype.toWellFormed = () => '\\ud800'; String.prototype.toJSON = () => '\\ud800'",
    "queueMicrotask(() => { $state.n = 'leak'; $emit('e', 'leak') })",
]


@pytest.mark.parametrize("tampering", TAMPERING)
def test_tampering_ends_with_its_job(tampering: str) -> None:
    probe = (
        f"if ($args) {{ {tampering}; }} $state.n = [1, {{ a: 2 }}]; $emit('e', [1]);"
        " return [typeof leak, ({}).leak === undefined, Math.random() < 1, JSON.stringify({ a: [1] }), Date.now() === $time.now()]"
    )
    handler = program(probe)
    clean = handler.run(make_task(args=b"false"))
    outcome = handler.run(make_task(args=b"true")).outcome
    if isinstance(outcome, Completed):
        # whatever the handler made of its own world, what left it is JSON
        json.loads(outcome.return_value)
        json.loads(outcome.mutations)
        assert all(json.loads(event)["name"] == "e" for event in outcome.events)
    again = handler.run(make_task(args=b"false"))
    assert isinstance(clean.outcome, Completed)
    assert isinstance(again.outcome, Completed)
    assert json.loads(again.outcome.return_value) == ["undefined", True, True, '{"a":[1]}', True]
    assert (again.outcome.mutations, again.changes) == (clean.outcome.mutations, clean.changes)
    assert again.outcome.usage.fuel == clean.outcome.usage.fuel


def test_same_job_runs_alike_every_time() -> None:
    source = "return [Math.random(), Date.now(), new Date().toISOString(), Math.random()]"
    first = value(source)
    assert value(source) == first
    assert value(source, seed=8) != first


def test_prelude_leaves_nothing_of_its_own_to_reach() -> None:
    assert (
        value(
            "return Object.getOwnPropertyNames(globalThis).filter((name) => name.startsWith('h_') "
            "|| name.includes('panels'))"
        )
        == []
    )
    assert failure("h_state_get('x')").message.startswith("ReferenceError")


# -- the handler's world -----------------------------------------------------------------------------


def test_state_is_read_lazily_and_written_where_it_changed() -> None:
    state = {"todos": [{"t": "a"}], "big": "x" * 1000, "n": 1}
    execution = run("$state.todos.push({ t: 'b' }); $state.n = 1; return $state.n", state=state)
    assert isinstance(execution.outcome, Completed)
    assert {key: json.loads(text or b"") for key, text in execution.changes.items()} == {
        "todos": [{"t": "a"}, {"t": "b"}]
    }
    # three keys were read, the big one was not; each reading is one call
    assert execution.outcome.usage.host_calls <= 2


def test_state_that_was_read_and_not_changed_is_no_mutation() -> None:
    assert (
        changes(
            "$state.a.b.length; for (const k in $state) $state[k]; JSON.stringify($state)",
            state={"a": {"b": [1, 2.5, "ü"]}},
        )
        == {}
    )


def test_state_written_back_as_it_was_is_no_mutation() -> None:
    assert (
        changes(
            "$state.a.x = 2; $state.a.x = 1; $state.b = 'v'; $state.c = [1]",
            state={"a": {"x": 1}, "b": "v", "c": [1]},
        )
        == {}
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("$state.a = { b: 1 }", {"a": {"b": 1}}),
        ("$state.o.n.push(3)", {"o": {"n": [1, 2, 3]}}),
        ("delete $state.o", {"o": None}),
        ("delete $state.o.n", {"o": {}}),
        ("$state.o = undefined", {"o": None}),
        (
            "$state.set('get', 1); $state.set('__proto__', 2); $state.constructor = 3",
            {"get": 1, "__proto__": 2, "constructor": 3},
        ),
        ("$state.update('k', (n) => n + 1)", {"k": 6}),
        ("$state.delete('k')", {"k": None}),
        ("delete $state.nothing", {}),
        ("$state.x = 1; delete $state.x", {}),
        ("Object.assign($state, { x: 1, y: [2] })", {"x": 1, "y": [2]}),
        (
            "const o = $state.o; o.n = 7; $state.p = o; o.q = 8",
            {"o": {"n": 7, "q": 8}, "p": {"n": 7, "q": 8}},
        ),
        ("Object.defineProperty($state, 'x', { value: 1 })", {"x": 1}),
        ("$state['a b'] = 1; $state[''] = 2; $state[5] = 3", {"a b": 1, "": 2, "5": 3}),
        (
            "$state.d = new Date(0); $state.m = new String('s'); $state.z = -0",
            {"d": "1970-01-01T00:00:00.000Z", "m": "s", "z": 0},
        ),
        ("$state.u = { a: undefined, b: 1 }", {"u": {"b": 1}}),
    ],
)
def test_state_writes(source: str, expected: dict[str, Any]) -> None:
    assert changes(source, state={"o": {"n": [1, 2]}, "k": 5}) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "return [$state.k, $state.nothing === undefined, 'k' in $state, 'x' in $state]",
            [5, True, True, False],
        ),
        (
            "return [$state.get('k'), $state.get('x', 'other'), $state.has('k'), $state.keys()]",
            [5, "other", True, ["k", "o"]],
        ),
        ("return { ...$state }", {"o": {"n": [1, 2]}, "k": 5}),
        ("return JSON.parse(JSON.stringify($state))", {"o": {"n": [1, 2]}, "k": 5}),
        ("$state.z = 1; delete $state.k; return Object.keys($state)", ["o", "z"]),
        ("return Object.entries($state)", [["k", 5], ["o", {"n": [1, 2]}]]),
        ("const { k, ...rest } = $state; return [k, rest]", [5, {"o": {"n": [1, 2]}}]),
        (
            "return [$args.x, $scope, typeof $time.now(), String(Object.getPrototypeOf($state))]",
            [1, {}, "number", "null"],
        ),
        ("return $args", {"x": 1, "__proto__": {"admin": True}}),
        ("return ({}).admin === undefined && $args.admin === undefined", True),
        (
            (
                "return $state.__proto__ === undefined && $state.constructor === undefined && "
                "$state.toString === undefined"
            ),
            True,
        ),
    ],
)
def test_state_reads(source: str, expected: Any) -> None:
    args = json.loads('{"x": 1, "__proto__": {"admin": true}}')
    assert value(source, state={"o": {"n": [1, 2]}, "k": 5}, args=args) == expected


def test_events_views_and_log_reach_the_outcome() -> None:
    source = (
        "$emit('a', { x: 1 }); $emit('b'); $emit.toast('hi', 'error'); $view.setFilter('v', 'f'); "
        "$view.scrollTo('v', 3);$view.focus('v'); $view.command('v', 'c', [1]); $log.debug('d', { a: 1 }); "
        "$log.warn('w'); console.error(new Error('e'));"
    )
    outcome = run(source, capabilities=("events:emit:*", "view:update:v")).outcome
    assert isinstance(outcome, Completed)
    assert [(event["name"], event["payload"]) for event in map(json.loads, outcome.events)] == [
        ("a", {"x": 1}),
        ("b", None),
        ("toast", {"message": "hi", "type": "error"}),
    ]
    assert [(view["command"], view["params"]) for view in json.loads(outcome.view_commands)] == [
        ("setFilter", {"filter": "f"}),
        ("scrollTo", {"target": 3}),
        ("focus", {"target": None}),
        ("c", [1]),
    ]
    assert [line.level for line in outcome.log] == [0, 2, 3]
    assert outcome.log[0].text == 'd {"a":1}'


def test_event_is_for_one_subject_where_the_handler_says_so() -> None:
    outcome = run(
        "$emit('a', 1, { to: 'ada' }); $emit('b', 2, undefined); $emit('c', 3, { to: 'ädä' })"
    ).outcome
    assert isinstance(outcome, Completed)
    events = [json.loads(event) for event in outcome.events]
    assert [(event["name"], event.get("to")) for event in events] == [("a", "ada"), ("b", None), ("c", "ädä")]


@pytest.mark.parametrize("options", ["null", "'ada'", "{}", "{ to: null }", "{ to: '' }", "{ to: ['ada'] }"])
def test_event_for_nobody_is_refused_and_never_told_to_everyone(options: str) -> None:
    failed = failure(f"$emit('a', 1, {options})")
    assert failed.reason is Reason.HANDLER_ERROR
    assert "subject" in failed.message


@pytest.mark.parametrize("subject", ["'a'.repeat(257)", "'\\ud800'"])
def test_subject_of_an_event_is_bounded_and_well_formed(subject: str) -> None:
    failed = failure(f"$emit('a', 1, {{ to: {subject} }})")
    assert failed.reason in (Reason.HANDLER_ERROR, Reason.INVALID_RESULT)


def test_log_survives_a_job_that_fails() -> None:
    assert [
        line.text for line in failure("$log.info('so far'); while (true);", limits={"fuel": 5_000_000}).log
    ] == ["so far"]


def test_capabilities_are_checked_by_the_host() -> None:
    assert failure("$state.x = 1", capabilities=("state:read:*",)).reason is Reason.PERMISSION_DENIED
    assert failure("return $state.x", capabilities=("state:write:*",)).reason is Reason.PERMISSION_DENIED
    assert failure("return 'x' in $state", capabilities=("state:write:*",)).reason is Reason.PERMISSION_DENIED
    assert failure("$emit('x')", capabilities=("events:emit:y*",)).reason is Reason.PERMISSION_DENIED
    assert failure("$view.focus('x')").reason is Reason.PERMISSION_DENIED
    assert value("return $state.keys()", state={"a": 1, "b": 2}, capabilities=("state:read:b",)) == ["b"]


# -- forms -------------------------------------------------------------------------------------------


def test_module_form_runs_its_default_export() -> None:
    assert value("const k = 2;\nexport default function (args) { return args * k; }", args=21) == 42
    assert value("export default async (args) => await args;", args=1) == 1
    assert value("const f = () => 5;\nexport default f;\nexport const other = 1;") == 5


def test_module_without_a_function_is_refused() -> None:
    assert (
        "export default" in refusal("export const a = 1;").message
        or "default" in refusal("export const a = 1;").message
    )
    assert refusal("export default 5;").code == "syntax"


def test_module_that_imports_is_refused() -> None:
    assert refusal("import fs from 'fs';\nexport default () => 1;").code == "syntax"


def test_body_cannot_end_its_function_and_go_on() -> None:
    assert refusal("}); globalThis.x = 1; (function(){").code == "syntax"
    assert refusal("}, 1, function(){").code == "syntax"


def test_typescript_runs_with_enums_and_parameter_properties() -> None:
    source = (
        "enum E { A = 1, B }\ninterface I { x: number }\n"
        "class P { constructor(private readonly n: number) {} get(): number { return this.n; } }\n"
        "const i = $args as I;\nreturn new P(i.x).get() + E.B;"
    )
    assert value(source, language="typescript", args={"x": 40}) == 42


# -- errors ------------------------------------------------------------------------------------------


def test_error_says_where_in_the_handler_it_was_thrown() -> None:
    outcome = failure("const a = 1;\nfunction f() {\n  throw new TypeError('no ' + a);\n}\nf();")
    details = json.loads(outcome.details)
    assert (outcome.reason, outcome.message, outcome.line) == (Reason.HANDLER_ERROR, "TypeError: no 1", 3)
    assert details["errorName"] == "TypeError"
    assert details["snippet"] == "  throw new TypeError('no ' + a);"
    assert [line.split("(")[0].strip() for line in details["stack"].split("\n")] == ["at f", "at handler"]


def test_error_in_typescript_is_where_its_author_wrote_it() -> None:
    source = "interface A {\n  n: number;\n}\n\n\nconst a: A = { n: 1 };\n\n\nfunction fail(x: number): never { throw new RangeError('x' + x); }\nfail(a.n);"
    outcome = failure(source, language="typescript")
    assert (outcome.message, outcome.line) == ("RangeError: x1", 9)


def test_syntax_error_is_refused_with_its_line() -> None:
    found = refusal("const a = 1;\nconst b = ;")
    assert (found.code, found.line) == ("syntax", 2)
    assert found.message.startswith("SyntaxError")


@pytest.mark.parametrize(
    "thrown",
    [
        "'t'",
        "{ a: 1 }",
        "null",
        "undefined",
        "5",
        "Symbol('s')",
        "10n",
        "() => 1",
        "new Proxy({}, { get() { throw 1; } })",
    ],
)
def test_anything_may_be_thrown(thrown: str) -> None:
    assert failure(f"throw {thrown};").reason is Reason.HANDLER_ERROR


def test_promise_that_never_settles_is_an_error() -> None:
    outcome = failure("await new Promise(() => {});")
    assert outcome.reason is Reason.HANDLER_ERROR
    assert "never settles" in outcome.message


def test_rejection_is_an_error() -> None:
    assert failure("await Promise.reject(new Error('no'));").message == "Error: no"


# -- bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("while (true);", Reason.FUEL_EXHAUSTED),
        ("for (;;) await null;", Reason.FUEL_EXHAUSTED),
        ("/^(a+)+$/.test('a'.repeat(40) + 'b')", Reason.FUEL_EXHAUSTED),
        ("'x'.repeat(2 ** 28)", Reason.MEMORY_LIMIT),
        ("const a = []; for (;;) a.push(new Array(100).fill(a))", Reason.MEMORY_LIMIT),
        ("new ArrayBuffer(2 ** 30)", Reason.MEMORY_LIMIT),
        ("const f = () => f() + 1; f()", Reason.STACK_OVERFLOW),
        ("let o = []; for (let i = 0; i < 100000; i++) o = [o]; return o", Reason.INVALID_RESULT),
        ("for (let i = 0; i < 2000; i++) $emit('e')", Reason.LIMIT_EXCEEDED),
        ("$state.x = 'x'.repeat(2 ** 20)", Reason.LIMIT_EXCEEDED),
        ("return 'x'.repeat(2 ** 20)", Reason.LIMIT_EXCEEDED),
        ("for (let i = 0; i < 20000; i++) $state.get('k' + i)", Reason.LIMIT_EXCEEDED),
    ],
)
def test_job_ends_at_its_bound_and_the_next_is_fine(source: str, reason: Reason) -> None:
    assert (
        failure(
            source, limits={"fuel": 2_000_000_000 if reason is not Reason.FUEL_EXHAUSTED else 100_000_000}
        ).reason
        is reason
    )
    assert value("return 1") == 1


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("NaN", "return value"),
        ("[1, Infinity]", "return value[1]"),
        ("{ a: { 'b c': [1n] } }", 'return value.a["b c"][0]'),
        ("{ f() {} }", "return value.f"),
        ("{ s: Symbol('x') }", "return value.s"),
        ("[undefined]", "return value[0]"),
        ("'\\ud800'", "return value"),
        ("new Map()", "return value"),
        ("{ t: new Uint8Array(2) }", "return value.t"),
        ("(() => { const o = { a: [] }; o.a.push(o); return o; })()", "return value.a[0]"),
    ],
)
def test_value_that_json_cannot_hold_is_named_by_its_path(expression: str, path: str) -> None:
    outcome = failure(f"return {expression};")
    assert outcome.reason is Reason.INVALID_RESULT
    assert json.loads(outcome.details)["path"] == path
    stored = failure(f"$state.k = {expression};")
    assert stored.reason is Reason.INVALID_RESULT
    assert json.loads(stored.details)["path"] == path.replace("return value", "$state.k")


def test_getters_and_proxies_are_read_as_json_reads_them() -> None:
    assert value("let n = 0; return { get a() { return 'v'; }, p: new Proxy([1], {}) }") == {
        "a": "v",
        "p": [1],
    }
    assert failure("return { get a() { throw new Error('g'); } }").message == "Error: g"
