"""Which form a source has: the engine says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_shared.messages import Language
from panels_shared.outcome import Completed
from tests.workers.javascript.scripts import changes, failure, refusal, run, value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("let importCount = 0;\nimportCount += 2;\nreturn importCount", 2),
        ("const exported = 1;\nexport_(exported);\nfunction export_() {}\nreturn exported", 1),
        ("const text = `\nexport default 1\n`;\nreturn text.trim()", "export default 1"),
        ("/*\nimport x from 'y'\n*/\nreturn 1", 1),
        ("const o = { export: 1,\nimport: 2 };\nreturn o.export + o.import", 3),
        ('const tick = "`";\nexport default () => `a${tick}`', "a`"),
        ("var h=()=>7;export{h as default};", 7),
        ("var a=1;export default()=>a", 1),
        ("const f=()=>3;export{f as default,f as other}", 3),
        ("const s = '//';export default () => s", "//"),
        ("\ufeffexport default () => 4", 4),
        ("\ufeffreturn 5", 5),
        ("\n\n/* a */ export /* b */ default /* c */ () => 6", 6),
    ],
)
@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_source_is_what_the_engine_takes_it_for(source: str, expected: Any, language: Language) -> None:
    assert value(source, language=language) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("const await = 4; return await + 1", 5),
        ("function await(n) { return n } return await (6)", 6),
        ("return 'await' // await", "await"),
        ("const o = { await: 7 }; return o.await", 7),
        ("return await (8)", 8),
        ("return await [9]", [9]),
        ("const { a } = await { a: 10 }; return a", 10),
    ],
)
def test_word_await_is_an_operator_or_a_name(source: str, expected: Any) -> None:
    if "function await" in source:
        # no function of that name can be called where the word is also the operator: the operator wins
        assert refusal(f"async function f() {{ {source} }}").code == "syntax"
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("const a = 1;\nexport default () => {\n  return a +;\n}", 3, 13),
        ("let x = ;\nexport { x as default }", 1, 9),
        ("const a = 1;\nif (a {\nreturn 1", 2, 7),
        ("return 1;\nconst b = ;", 2, 11),
    ],
)
def test_error_is_that_of_the_form_that_got_further(source: str, line: int, column: int) -> None:
    found = refusal(source)
    assert (found.line, found.column) == (line, column), found


# -- a source that is only a function
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "(args) => { $state.n = args; return args; }",
        "(args) => ($state.n = args)",
        "(args) => { $state.n = args; return args; };",
        "(args) => { $state.n = args; return args; }; // done; really",
        "// first\n((args) => { $state.n = args; return args; })",
        "function f(args) { $state.n = args; return args; }",
        "function (args) { $state.n = args; return args; }",
        "async (args) => { await null; $state.n = args; return args; }",
        "async function f(args) {\n  await null;\n  $state.n = args;\n  return args;\n}\n",
    ],
)
@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_source_that_is_only_a_function_is_called(source: str, language: Language) -> None:
    if language == "typescript" and source.startswith("function ("):
        return  # TypeScript has no function declaration without a name
    outcome = run(source, language=language, args=5).outcome
    assert isinstance(outcome, Completed), outcome
    assert (outcome.return_value, json.loads(outcome.mutations)) == (
        b"5",
        [{"op": "set", "key": "n", "value": 5}],
    )


def test_error_in_a_source_that_is_only_a_function_is_where_it_was_thrown() -> None:
    failed = failure("(args) => {\n  const a = 1;\n  throw new RangeError('no');\n}")
    assert (failed.message, failed.line, failed.column) == ("RangeError: no", 3, 13)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("class A {}", "a class"),
        ("export default class {}", "a class"),
        ("class A {}\nexport { A as default }", "a class"),
        ("export default class extends Array {}", "a class"),
        ("export default function* () { yield 1 }", "a generator"),
        ("export default async function* () { yield 1 }", "a generator"),
        ("function* g() { yield 1 }", "a generator"),
    ],
)
def test_what_cannot_be_called_is_refused(source: str, what: str) -> None:
    found = refusal(source)
    assert found.code == "syntax"
    assert f"got {what}" in found.message


@pytest.mark.parametrize(
    "source", ["$state.n = 1", "$state.n", "[1, 2]", "({ f() {} })", "", "// nothing", "$args"]
)
def test_expression_that_is_no_function_is_a_body(source: str) -> None:
    assert value(source) is None


# -- assignment to $state
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("$state = { ...$state, n: 2 }", {"n": 2}),
        ("'use strict'; $state = { ...$state, n: 2 }", {"n": 2}),
        ("$state = { n: 2 }", {"n": 2, "o": None}),
        ("$state = {}", {"n": None, "o": None}),
        ("$state = $state", {}),
        ("$state = { ...$state }", {}),
        ("$state = { n: 1, o: { a: [1] } }", {}),
        ("const { o, ...rest } = $state; $state = rest", {"o": None}),
        ("$state.x = 1; $state = { ...$state, y: 2 }", {"x": 1, "y": 2}),
        ("$state.x = 1; $state = { n: 1, o: undefined }", {"o": None}),
        ("globalThis.$state = JSON.parse('{\"__proto__\": 1}')", {"__proto__": 1, "n": None, "o": None}),
        ("const s = $state; $state = { n: 3 }; s.n++", {"n": 4, "o": None}),
    ],
)
def test_assignment_replaces_the_state(source: str, expected: dict[str, Any]) -> None:
    assert changes(source, state={"n": 1, "o": {"a": [1]}}) == expected


@pytest.mark.parametrize("given", ["5", "null", "undefined", "'text'", "[1]", "() => 1"])
def test_state_is_not_replaced_by_what_is_no_object(given: str) -> None:
    failed = failure(f"$state = {given}", state={"n": 1})
    assert failed.message.startswith("TypeError: expected an object as the new $state")


# -- the flag v
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("return /[a]/v.test('a')", 1, 8),
        ("const a = 1;\nexport default () => 'x'.match(/x/gv)", 2, 32),
        ("const v = 1;\nreturn [1 /v, /a/dv]", 2, 15),
    ],
)
@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_flag_v_of_a_literal_is_refused(source: str, line: int, column: int, language: Language) -> None:
    found = refusal(source, language)
    assert "flag v is not available" in found.message
    assert found.line == line
    assert language == "typescript" or abs(found.column - column) <= 12, found


def test_what_looks_like_the_flag_v_is_not_refused() -> None:
    source = (
        "const a = 8, v = 2, g = 1; /* /v */ return [a/v, a /v/ g, '/v', `/gv`, /\\/v/.source, 'x/dv'] // /v"
    )
    assert value(source) == [4, 4, "/v", "/gv", "\\/v", "x/dv"]


@pytest.mark.parametrize(
    "expression",
    [
        "new RegExp('a', 'v')",
        "RegExp('a', 'gv')",
        "new RegExp(/a/, { toString: () => 'v' })",
        "/a/.compile('a', 'v')",
        "new (class extends RegExp {})('a', 'v')",
        "new /a/.constructor('a', 'v')",
        "Reflect.construct(RegExp, ['a', 'v'])",
    ],
)
def test_flag_v_of_a_constructor_is_refused_when_it_runs(expression: str) -> None:
    failed = failure(f"return {expression}")
    assert failed.message.startswith("SyntaxError: the regular expression flag v is not available")


def test_regular_expressions_are_otherwise_as_they_were() -> None:
    source = """
      const r = new RegExp("a(?<n>b)", "gu"); class R extends RegExp {}
      return [r instanceof RegExp, RegExp(r) === r, RegExp(r, "i").flags, new R("a").test("a"), r.constructor === RegExp,
        "abab".split(/b/), [..."abab".matchAll(r)].length, "ab".replace(r, "x"), new RegExp("a", undefined).flags,
        RegExp.prototype === r.__proto__, new RegExp(/a/g).flags, "xay".search("a")]
    """  # noqa: E501
    assert value(source) == [True, True, "i", True, True, ["a", "a", ""], 2, "x", "", True, "g", 1]
