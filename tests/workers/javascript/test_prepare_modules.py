"""Modules that handlers import, in the real engine."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from panels_shared.limits import MIB
from panels_shared.outcome import Reason
from panels_shared.script_modules import compose, reached
from tests.workers.javascript.scripts import changes, failure, refusal, value

RULES = "export const limit = 3;\nexport function check(n) {\n  if (n > limit) throw new Error(`${n} is too many`);\n  return n;\n}"
SUMS = 'import { check } from "./rules.js";\nexport const sum = (list) => check(list.reduce((a, b) => a + b, 0));'
MONEY = "export enum Kind { Coin = 2, Note = 5 }\nexport const worth = (kind: Kind, count: number): number => kind * count;"
PANEL = {"rules.js": RULES, "sums.js": SUMS, "money.ts": MONEY}


def composed(source: str, modules: Mapping[str, str] = PANEL, language: str = "typescript") -> bytes:
    names = reached("javascript" if language == "javascript" else "typescript", source, modules)
    return compose(source.encode(), tuple((name, modules[name].encode()) for name in names))


def test_handler_imports_what_its_panel_shares() -> None:
    source = composed('import { sum } from "./sums.js"; export default (args) => sum(args);')
    assert value(source, args=[1, 2]) == 3
    assert failure(source, args=[2, 2]).message == "Error: 4 is too many"


def test_typescript_is_stripped_and_reached_from_typescript() -> None:
    source = composed(
        'import { worth, Kind } from "./money.ts"; export default (args: number): number => worth(Kind.Note, args);'
    )
    assert value(source, args=2, language="typescript") == 10


def test_body_of_a_function_imports_as_it_runs() -> None:
    source = composed(
        'const { check } = await import("./rules.js"); $state.n = check($args); return $state.n;'
    )
    assert value(source, args=2) == 2
    assert changes(source, args=2) == {"n": 2}
    assert failure(source, args=4).message == "Error: 4 is too many"


def test_every_job_finds_a_module_as_it_was_made() -> None:
    modules = {"count.js": "let n = 0; export const next = () => ++n; export const seen = [];"}
    source = composed(
        'import { next, seen } from "./count.js"; export default () => [next(), next(), seen.push(1)];',
        modules,
    )
    assert [value(source), value(source)] == [[1, 2, 1], [1, 2, 1]]


def test_module_sees_the_job_in_functions_that_run_in_it() -> None:
    modules = {"a.js": "export const add = (by) => { $state.n = ($state.n ?? 0) + by; $emit('added', by); };"}
    source = composed('import { add } from "./a.js"; export default (by) => add(by);', modules)
    assert changes(source, args=2, state={"n": 1}) == {"n": 3}


def test_failure_shows_the_frames_of_modules_and_stands_where_the_handler_called() -> None:
    source = composed(
        'import { sum } from "./sums.js";\nexport default function total(args) {\n  return sum(args);\n}'
    )
    failed = failure(source, args=[2, 2])
    assert failed.reason is Reason.HANDLER_ERROR
    assert (failed.line, failed.column) == (3, 14)
    details = json.loads(failed.details)
    assert details["snippet"] == "  return sum(args);"
    assert details["stack"].split("\n") == [
        "    at check (rules.js:3:28)",
        "    at sum (sums.js:2:41)",
        "    at total (3:14)",
    ]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "export const a = 1;\nexport const b = ;",
            "a.js:2:18: SyntaxError: unexpected token in expression: ';'",
        ),
        ("import { x } from './none.js';", "a.js: ReferenceError: Error loading module 'none.js'"),
        ("import { x } from 'react';", "a.js: ReferenceError: Error resolving module 'react' from 'a.js'"),
        ("export const a = null.b;", "a.js: TypeError: cannot read property 'b' of null"),
        ("$emit('loaded');", "a.js: Error: the top level of a module runs once, before any job: use $state"),
        ("export const now = $time.now();", "a.js: Error: the top level of a module runs once"),
        (
            "await new Promise(() => {});",
            "a.js: Error: the top level of a module awaits a promise that never",
        ),
    ],
)
def test_module_that_is_wrong_is_refused_by_its_name(module: str, message: str) -> None:
    refused = refusal(composed('import "./a.js"; export default () => 1;', {"a.js": module}))
    assert refused.message.startswith(message), refused.message


def test_module_that_never_ends_is_too_costly() -> None:
    refused = refusal(composed('import "./a.js"; export default () => 1;', {"a.js": "while (true);"}))
    assert refused.code == "too_costly"


def test_name_that_a_module_does_not_export_is_refused() -> None:
    refused = refusal(composed('import { nope } from "./rules.js"; export default () => nope;'))
    assert "nope" in refused.message


@pytest.mark.parametrize(
    "specifier",
    ["./none.js", "rules.js", "../rules.js", "/rules.js", "./handler", "./" + "a" * 100_000, "", "./"],
)
def test_import_of_what_is_not_there_fails_the_job_and_nothing_else(specifier: str) -> None:
    source = composed(
        f"const here = './rules.js'; await import({specifier!r}); return 1;", {"rules.js": RULES}
    )
    failed = failure(source, limits={"memory_bytes": 16 * MIB})
    assert failed.reason is Reason.HANDLER_ERROR, failed
    assert "module" in failed.message
