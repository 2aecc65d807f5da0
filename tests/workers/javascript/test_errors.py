"""What a failure says: to people a sentence with its place, to programs a code and details."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.failure import is_code
from panels_shared.limits import MAX_HANDLER_DETAILS_BYTES
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.javascript.errors import FailureReport, explain
from panels_worker.javascript.script import Form, Script
from tests.workers.javascript.scripts import failure, value


def told(source: str, **job: Any) -> tuple[str, Any, Any]:
    """The message of a failure, and what it says to programs."""
    failed = failure(source, **job)
    assert failed.reason is Reason.HANDLER_ERROR
    details = json.loads(failed.details)
    return failed.message, details.get("handlerCode"), details.get("handlerDetails")


# -- codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message", "code", "details"),
    [
        ("$fail('TITLE_TAKEN', 'there is such a card', { title: 'x' })", "there is such a card", "TITLE_TAKEN",
         {"title": "x"}),
        ("$fail('FULL')", "FULL", "FULL", None),
        ("$fail('FULL', 'the board is full')", "the board is full", "FULL", None),
        ("$fail('FULL', 'm', null)", "m", "FULL", None),
        ("throw Object.assign(new Error('m'), { code: 'A.b-c:d', details: [1] })", "m", "A.b-c:d", [1]),
        ("throw Object.assign(new RangeError('m'), { code: 'A' })", "RangeError: m", "A", None),
        ("await null; $fail('LATE', 'm', 5)", "m", "LATE", 5),
        ("throw { message: 'm', code: 'A', details: { toJSON: () => 'j' } }", "m", "A", "j"),
        ("class Taken extends Error { code = 'TAKEN' }; throw new Taken('m')", "m", "TAKEN", None),
        # no code: the message is as it always was, and details alone say nothing
        ("throw Object.assign(new Error('m'), { details: 1 })", "Error: m", None, None),
        ("throw Object.assign(new Error('m'), { code: 5, details: 1 })", "Error: m", None, None),
    ],
)  # fmt: skip
def test_error_carries_a_code_and_details(source: str, message: str, code: Any, details: Any) -> None:
    assert told(source) == (message, code, details)


@pytest.mark.parametrize(
    ("thrown", "log"),
    [
        ("{ code: 'two words', details: 1 }", "the code of the error was left out"),
        ("{ code: 'x'.repeat(65), details: 1 }", "the code of the error was left out"),
        ("{ code: '' }", ""),
    ],
)
def test_code_that_is_none_is_left_out_and_logged(thrown: str, log: str) -> None:
    failed = failure(f"throw Object.assign(new Error('m'), {thrown})")
    assert "handlerCode" not in json.loads(failed.details)
    assert failed.message == "Error: m"
    assert log in "".join(line.text for line in failed.log)


@pytest.mark.parametrize(
    ("details", "log"),
    [
        ("{ a: NaN }", "details.a: expected what JSON can hold, got NaN"),
        ("() => 1", "details: expected what JSON can hold, got a function"),
        ("'x'.repeat(5000)", "expected at most 4096 bytes, got 5002"),
        ("'é'.repeat(3000)", "expected at most 4096 bytes, got 6002"),
        ("{ toJSON() { throw 1 } }", "details: reading them threw"),
        ("new Proxy({}, { ownKeys() { throw new Error('own') } })", "details: reading them threw"),
        ("(() => { let deep = 1; for (let n = 0; n < 63; n++) deep = [deep]; return [deep] })()", "nesting"),
        ("(() => { const round = {}; round.round = round; return round })()", "a reference to itself"),
        ("{ get a() { return this.n = (this.n ?? 0) + 1, this.n > 1 ? '\\ud800' : '' } }", ""),
    ],
)
def test_details_that_cannot_be_sent_are_left_out_and_logged(details: str, log: str) -> None:
    failed = failure(f"$fail('A', 'm', {details})")
    found = json.loads(failed.details)
    assert found["handlerCode"] == "A"
    assert failed.message == "m"
    text = "".join(line.text for line in failed.log)
    assert log in text
    assert "handlerDetails" not in found or not text


@pytest.mark.parametrize(
    "thrown",
    [
        "{ get code() { throw 1 } }",
        "new Proxy(new Error('m'), { get: (target, key) => key === 'code' ? Symbol('s') : target[key] })",
        "{ code: 'A', get details() { throw 1 } }",
        "{ code: 'A', details: new Proxy([], { get() { throw 1 } }) }",
    ],
)
def test_getters_that_throw_are_no_way_out(thrown: str) -> None:
    failed = failure(f"const thrown = {thrown}; thrown.message ??= 'm'; throw thrown")
    assert failed.reason is Reason.HANDLER_ERROR


def test_refusal_of_the_host_has_no_code_of_the_handler() -> None:
    source = "try { $state.x } catch (error) { error.code = 'MINE'; throw error }"
    failed = failure(source, capabilities=())
    assert failed.reason is Reason.PERMISSION_DENIED
    assert "handlerCode" not in json.loads(failed.details)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    name=text,
    message=text,
    stack=text,
    kind=st.sampled_from(["", "INVALID_RESULT", "PERMISSION_DENIED", "other"]),
    code=st.one_of(text, st.from_regex(r"[A-Za-z][A-Za-z0-9._:-]{0,80}", fullmatch=True)),
    details=st.one_of(text, st.sampled_from(["[" * 70, "[]", "1]", "1,2", "NaN", '"\\ud800"', "1" * 5_000])),
    problem=text,
)
def test_hostile_report_never_breaks_the_message(
    name: str, message: str, stack: str, kind: str, code: str, details: str, problem: str
) -> None:
    """A guest that was taken over reports what it likes: what comes of it is JSON within its bounds."""
    script = Script(code="x;", source="x;", form=Form.BODY)
    warnings: list[str] = []
    report = FailureReport(name, message, stack, kind, "", code, details, problem)
    failed = explain(report, script, warnings.append)
    found = json.loads(failed.details)
    assert is_code(found.get("handlerCode", "A"))
    assert "handlerDetails" not in found or "handlerCode" in found
    assert (
        len(json.dumps(found.get("handlerDetails"), separators=(",", ":"))) <= 6 * MAX_HANDLER_DETAILS_BYTES
    )
    assert isinstance(failed, Failed)
    assert failed.usage == Usage()


# -- places ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("const a = 1;\nreturn missing + a;", 2, 8),
        ("const a = 1;\n\nreturn [a, missing];", 3, 12),
        ("const missing2 = 1; // missing\nconst b = { missing: missing2, c: '.missing' };\nreturn b.missing ? missing : 1",
         3, 20),
        ("return typeof missing === 'undefined' ? 0 + missing : 1", 1, 45),
        ("function f() {\n  return missing;\n}\nf();", 2, 10),
        ("return `a ${missing} b`;", 1, 13),
        ("const copy = { ...missing };\nreturn copy", 1, 19),
    ],
)  # fmt: skip
def test_name_that_is_not_defined_is_where_it_is_read(source: str, line: int, column: int) -> None:
    failed = failure(source)
    assert failed.message == "ReferenceError: missing is not defined"
    assert (failed.line, failed.column) == (line, column), failed
    assert json.loads(failed.details)["snippet"] == source.split("\n")[line - 1]


@pytest.mark.parametrize(
    ("source", "line", "column", "pattern"),
    [
        ("const a = 1;\nconst { title, by } = $state.card;\nreturn title;", 2, 7, "{ title, by }"),
        ("let title;\n({ title } = null);", 2, 2, "{ title }"),
        ("const f = ({ title }) => title;\n\nreturn f();", 1, 12, "{ title }"),
        ("function f(a, { title }) {\n  return title;\n}\nreturn f(1, undefined);", 1, 15, "{ title }"),
        ("export default ({ title }) => title", 1, 17, "{ title }"),
        ("const {\n  a,\n  b\n} = null", 1, 7, "{ a, b }"),
    ],
)
def test_pattern_that_meets_null_is_where_it_stands(
    source: str, line: int, column: int, pattern: str
) -> None:
    failed = failure(source)
    assert failed.message == f"TypeError: cannot take {pattern} from null or undefined"
    assert (failed.line, failed.column) == (line, column), failed
    assert json.loads(failed.details)["snippet"] == source.split("\n")[line - 1]


def test_function_of_the_engine_that_meets_null_is_not_taken_for_a_pattern() -> None:
    failed = failure("const { a } = { a: 1 };\n\nreturn Object.entries(null);")
    assert "cannot take" not in failed.message
    assert failed.line in (0, 3)


# -- ids ---------------------------------------------------------------------------------------------

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def test_ids_are_sorted_unique_and_those_of_the_job() -> None:
    source = "return Array.from({ length: 200 }, () => $id())"
    ids = value(source)
    assert ids == value(source), "the same job makes the same ids"
    assert ids == sorted(set(ids))
    assert all(len(found) == 26 and set(found) <= set(DIGITS) for found in ids)
    stamp = 0
    for digit in ids[0][:10]:
        stamp = stamp * 32 + DIGITS.index(digit)
    assert stamp == 1_700_000_000_000
    assert len({found[:10] for found in ids}) == 1
    assert value(source, seed=8)[0] != ids[0]
    assert value(source, now_ms=1_700_000_000_001.0)[0] > ids[-1]


def test_ids_leave_chance_as_it_is_for_the_same_job() -> None:
    source = "const id = $id(); return [id, Math.random()]"
    assert value(source) == value(source)


# -- arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "args", "expected"),
    [
        ("({ by = 2 } = {}) => by", None, 2),
        ("({ by = 2 } = {}) => by", {"by": 3}, 3),
        ("export default async function (args = 'none') { return [args, $args]; }", None, ["none", None]),
        ("export default (args = 'none') => args", 0, 0),
        ("return [arguments.length, $args]", None, [1, None]),
    ],
)
def test_default_of_a_parameter_applies_where_nothing_came(source: str, args: Any, expected: Any) -> None:
    assert value(source, args=args) == expected
