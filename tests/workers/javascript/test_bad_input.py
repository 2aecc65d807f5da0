"""What handlers make and do that JSON, the engine or a frame cannot hold: each has one outcome, and the next
job is fine.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panels_shared import jsonvalue
from panels_shared.outcome import Completed, Failed, Reason
from tests.support.hostile_scripts import EXCESS, MAKERS, PLACES, SPECIFIERS, TAMPERING, TOP_LEVELS, UNFIT
from tests.workers.builders import make_task
from tests.workers.javascript.scripts import changes, failure, program, refusal, run, value

EVERYTHING = ("state:read:*", "state:write:*", "events:emit:*", "view:update:*")

# -- what JSON cannot hold, wherever a handler puts it -----------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("expression", UNFIT)
def test_what_json_cannot_hold_is_named_by_its_path(expression: str, place: str) -> None:
    statement, origin = PLACES[place]
    path, problem = UNFIT[expression]
    if place == "inside state" and "nesting" in problem:
        path = path.removesuffix("[0]")
    if place == "result" and expression.startswith("{ toJSON"):
        path = ""
    outcome = failure(
        f"let made = {expression}; {statement};",
        state={"list": [0]},
        capabilities=EVERYTHING,
        limits={"fuel": 10**9},
    )
    assert outcome.reason is Reason.INVALID_RESULT, outcome
    assert json.loads(outcome.details)["path"] == origin + path
    assert outcome.message.startswith(f"{origin}{path}: expected what JSON can hold, got {problem}")


@pytest.mark.parametrize("place", PLACES)
def test_value_of_100000_levels_is_refused_wherever_it_goes(place: str) -> None:
    # a value that was read is compared with what it was first, by the engine, which recurses
    reason = Reason.STACK_OVERFLOW if place == "inside state" else Reason.INVALID_RESULT
    source = f"let made = []; for (let i = 0; i < 100000; i++) made = [made]; {PLACES[place][0]};"
    assert failure(source, state={"list": [0]}, capabilities=EVERYTHING).reason is reason


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("$state['\\ud800'] = 1", '$state["\\ud800"]'),
        ("return $state['\\ud800'] ?? null", '$state["\\ud800"]'),
        ("$state.has('\\udfff')", '$state["\\udfff"]'),
        ("delete $state['\\ud800']", '$state["\\ud800"]'),
        ("$emit('\\ud800')", "an event name"),
        ("$view.focus('\\ud800')", "a view id"),
        ("$view.command('v', '\\ud800')", "a view command"),
    ],
)
def test_name_with_a_lone_surrogate_is_an_invalid_value(source: str, path: str) -> None:
    outcome = failure(source, capabilities=EVERYTHING)
    assert (outcome.reason, json.loads(outcome.details)["path"]) == (Reason.INVALID_RESULT, path)


def test_lone_surrogates_in_log_and_errors_are_replaced() -> None:
    outcome = failure("$log.info('a\\ud800b', ['\\ud800']); throw new Error('c\\ud800d')")
    assert [line.text for line in outcome.log] == ['a\ufffdb ["\\ud800"]']
    assert outcome.message == "Error: c\ufffdd"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("-0", 0),
        ("[-0, { z: -0 }]", [0, {"z": 0}]),
        ("undefined", None),
        ("{ a: undefined, b: null }", {"b": None}),
        ("{ [Symbol('s')]: 1 }", {}),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("[new String('s'), new Number(2), new Boolean(false)]", ["s", 2, False]),
        ("{ toJSON: () => ({ a: 1 }) }", {"a": 1}),
        ("new (class A { x = 1; #y = 2; get z() { return 3; } })()", {"x": 1}),
        (("Object.create({ inherited: 1 }, { own: { value: 2, enumerable: true }, hidden: { value: 3 } "
         "})"), {"own": 2}),
        ("Array.from(new Uint8Array([1, 2]))", [1, 2]),
        ("(() => { const shared = [1]; return [shared, { shared }]; })()", [[1], {"shared": [1]}]),
        ("(function () { return arguments; })(1)", {"0": 1}),
        (("JSON.parse('{\"__proto__\": {\"a\": 1}, \"constructor\": "
         "2}')"), {"__proto__": {"a": 1}, "constructor": 2}),
        ("'\\u2028\\u0000\\u007f\\u{1f600}'", "\u2028\0\x7f\U0001f600"),
        ("[1e21, 5e-324, 2 ** 53, 0.1 + 0.2]", [1e21, 5e-324, 2**53, 0.1 + 0.2]),
        ("JSON.parse('['.repeat(64) + ']'.repeat(64))", json.loads("[" * 64 + "]" * 64)),
    ],
)  # fmt: skip
def test_value_goes_out_as_json_has_it(expression: str, expected: Any) -> None:
    assert value(f"return {expression};") == expected
    if expected is not None:
        assert changes(f"$state.v = {expression};") == {"v": expected}


# -- getters and proxies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("{ get a() { throw new Error('g'); } }", Reason.HANDLER_ERROR),
        ("new Proxy({}, { ownKeys() { throw new Error('g'); } })", Reason.HANDLER_ERROR),
        ("new Proxy({}, { getPrototypeOf() { throw new Error('g'); } })", Reason.HANDLER_ERROR),
        ("{ get a() { while (true); } }", Reason.FUEL_EXHAUSTED),
        ("new Proxy([], { get: (t, key) => (key === 'length' ? 2 ** 32 : 1) })", Reason.FUEL_EXHAUSTED),
        ("{ get a() { return { __proto__: null, get a() { return made.a; } }; } }", Reason.INVALID_RESULT),
        ("{ toJSON() { return made.deeper = { toJSON: made.toJSON }; } }", Reason.STACK_OVERFLOW),
    ],
)
def test_getter_or_trap_that_misbehaves_ends_its_job(expression: str, reason: Reason) -> None:
    for place in ("return made", "$state.k = made"):
        assert failure(f"const made = {expression}; {place};", limits={"fuel": 200_000_000}).reason is reason
    assert value("return 1") == 1


def test_getter_that_writes_state_is_heard_or_not_at_all() -> None:
    source = "$state.a = { get x() { $state.b = 1; $emit('e'); return 1; } }; return { get y() { return ++$state.n; } }"
    execution = run(source, state={"n": 0})
    assert isinstance(execution.outcome, Completed)
    committed = {key: json.loads(text or b"") for key, text in execution.changes.items()}
    assert committed["a"] == {"x": 1}
    assert committed["n"] == json.loads(execution.outcome.return_value)["y"]


@pytest.mark.parametrize("second", ["'\\ud800'", "deep", "{ toString: () => 1, big: '\\udc00' }"])
def test_second_answer_of_a_getter_is_checked_by_the_host(second: str) -> None:
    made = f"let deep = []; for (let i = 0; i < 90; i++) deep = [deep]; let n = 0; const made = {{ get a() {{ return n++ ? {second} : 1; }} }};"
    for place in ("return made", "$state.k = made", "$emit('e', made)"):
        assert failure(f"{made} {place};").reason is Reason.INVALID_RESULT


def test_second_answer_of_a_getter_is_read_as_json_stringify_does() -> None:
    assert value("let n = 0; return { get a() { return n++ ? NaN : 1; } }") == {"a": None}
    assert value("let n = 0; return { get a() { return n++ ? undefined : 1; } }") == {}
    assert failure("let n = 0; return { get a() { return n++ ? 1n : 1; } }").reason is Reason.HANDLER_ERROR
    cycle = "let n = 0; const made = { get a() { return n++ ? made : 1; } }; return made"
    assert failure(cycle).reason is Reason.HANDLER_ERROR


# -- keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["__proto__", "constructor", "toString", "get", "hasOwnProperty", "", "\0", "value"]
)
def test_any_key_is_ordinary_in_args_state_and_results(key: str) -> None:
    source = """
        const before = $state.get($args.key);
        $state.set($args.key, { [$args.key]: [before] });
        delete $state.old;
        return [Object.hasOwn($args.data, $args.key), $state.has($args.key), Object.keys($state), ({}).leak ?? null, $args.data];
    """
    data = {key: {"leak": 1, "__proto__": {"leak": 1}}}
    execution = run(source, state={key: 1, "old": 1}, args={"key": key, "data": data})
    assert isinstance(execution.outcome, Completed), execution.outcome
    assert json.loads(execution.outcome.return_value) == [True, True, [key], None, data]
    assert {name: text and json.loads(text) for name, text in execution.changes.items()} == {
        key: {key: [1]},
        "old": None,
    }


# -- depth and size ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "reason"), EXCESS)
def test_excess_ends_its_job_with_one_reason(source: str, reason: Reason) -> None:
    outcome = failure(f"$state.a = 1; {source};", limits={"fuel": 1_500_000_000})
    assert outcome.reason is reason, outcome
    assert value("return $state.a ?? 0") == 0


# -- code from strings, and modules ------------------------------------------------------------------


@pytest.mark.parametrize("expression", MAKERS)
def test_code_from_strings_is_refused_in_both_forms(expression: str) -> None:
    assert failure(f"return {expression};").message.startswith("EvalError")
    assert failure(f"export default () => {expression};").message.startswith("EvalError")
    assert refusal(f"const made = {expression};\nexport default () => made;").message.startswith("EvalError")
    # what the top level keeps is refused as well
    assert failure(
        "const kept = [eval, Function, (async () => {}).constructor];\n"
        "export default () => kept.map((make) => make('return 1'));"
    ).message.startswith("EvalError")


@pytest.mark.parametrize("specifier", SPECIFIERS)
def test_nothing_can_be_imported(specifier: str) -> None:
    for source in (
        f"return await import('{specifier}');",
        f"export default async () => await import('{specifier}');",
    ):
        outcome = failure(source)
        assert (outcome.reason, outcome.message.split(":")[0]) == (Reason.HANDLER_ERROR, "ReferenceError")
    assert refusal(f"import '{specifier}';\nexport default () => 1;").code == "syntax"


@pytest.mark.parametrize("top_level", TOP_LEVELS)
def test_top_level_of_a_module_has_no_job(top_level: str) -> None:
    """The handler begins from a snapshot: what the top level read or wrote, every job would find read or
    written.
    """
    found = refusal(f"{top_level}\nexport default () => $state.n;")
    assert "top level of a module runs once" in found.message


def test_top_level_of_a_module_is_as_new_for_every_job() -> None:
    handler = program(
        "let calls = 0;\nconst seen = [];\nexport default (n) => { seen.push(n); return "
        "[++calls, seen.length]; }"
    )
    for number in range(3):
        outcome = handler.run(make_task(args=b"%d" % number)).outcome
        assert isinstance(outcome, Completed)
        assert outcome.return_value == b"[1,1]"


@pytest.mark.parametrize(
    ("top_level", "message", "line"),
    [
        ("const a = 1;\nthrow new RangeError('no');", "RangeError: no", 2),
        ("null.x;", "TypeError: cannot read property 'x' of null", 1),
        ("await 1;\nawait Promise.reject(new Error('late'));", "Error: late", 2),
        ("throw 'text';", "Error: text", 0),
        (
            "await new Promise(() => {});",
            "Error: the top level of a module awaits a promise that never settles",
            0,
        ),
        ("while (true);", "expected a handler that compiles quickly; its top level runs for too long", 0),
    ],
)
def test_top_level_that_throws_is_refused_with_what_it_threw(top_level: str, message: str, line: int) -> None:
    # a function declaration is there before the top level runs, an expression only after
    for function in ("function () { return 1; }", "() => 1"):
        found = refusal(f"{top_level}\nexport default {function}")
        assert (found.message, found.line) == (message, line)


# -- all of it at random -----------------------------------------------------------------------------

_TAMPER = st.sampled_from(TAMPERING)
_SINK = st.sampled_from(
    [statement for statement, _ in PLACES.values()]
    + ["throw made", "$state[made] = made", "$emit(String(made), made)"]
)


@settings(max_examples=120, deadline=None)
@given(
    tampering=st.lists(_TAMPER, max_size=3),
    expression=st.sampled_from(sorted(UNFIT)),
    sinks=st.lists(_SINK, min_size=1, max_size=2),
)
def test_whatever_a_handler_does_only_json_leaves_and_nothing_stays(
    tampering: list[str], expression: str, sinks: list[str]
) -> None:
    hostile = "".join(f"try {{ {step}; }} catch {{}}\n" for step in tampering)
    put = "".join(f"if ($args > 1) {{ {sink}; }}\n" for sink in sinks)
    fine = "await null; $state.n = [1, { a: 2 }]; $emit('e', [1]); return [typeof leak, ({}).leak ?? null, { b: [1.5] }];"
    handler = program(f"if ($args) {{ {hostile} let made = {expression}; {put} }}\n{fine}")

    def job(args: int) -> Completed | Failed:
        outcome = handler.run(
            make_task(
                args=b"%d" % args, state={"list": b"[0]"}, capabilities=EVERYTHING, limits={"fuel": 10**9}
            )
        ).outcome
        assert isinstance(outcome, Completed | Failed)
        return outcome

    clean = job(0)
    assert isinstance(clean, Completed)
    for args in (1, 2):
        outcome = job(args)
        if isinstance(outcome, Completed):
            for text in (outcome.return_value, outcome.mutations, outcome.view_commands, *outcome.events):
                jsonvalue.validate(text)
        else:
            assert outcome.reason in (
                Reason.INVALID_RESULT,
                Reason.HANDLER_ERROR,
                Reason.STACK_OVERFLOW,
            ), outcome
            jsonvalue.validate(outcome.details)
            outcome.message.encode()
    again = job(0)
    assert isinstance(again, Completed)
    assert (again.return_value, again.mutations, again.events) == (
        clean.return_value,
        clean.mutations,
        clean.events,
    )
    assert again.usage.fuel == clean.usage.fuel
