"""The runner of the ECMAScript suites, on a suite of five tests in the form of test262."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ecmascript import OurHost, OwnHost
from benchmarks.ecmascript import test262 as cases_of

HARNESS = {
    "assert.js": "function assert(found) { if (found !== true) throw new Test262Error('no'); }",
    "sta.js": "class Test262Error extends Error {} Test262Error.prototype.name = 'Test262Error';",
    "doneprintHandle.js": "function $DONE(e) { print(e ? 'Test262:AsyncTestFailure:' + e : "
    "'Test262:AsyncTestComplete'); }",
    "extra.js": "const extra = 7;",
}
TESTS = {
    "language/ok.js": "/*---\nincludes: [extra.js]\n---*/\nassert(extra === 7);",
    "language/strict.js": "/*---\nflags: [onlyStrict]\n---*/\nassert((function () { return "
    "this; })() === undefined);",
    "language/negative.js": "/*---\nnegative:\n  phase: parse\n  type: SyntaxError\n---*/\nlet = = 1;",
    "built-ins/later.js": "/*---\nflags: [async]\n---*/\nPromise.resolve().then(() => $DONE());",
    "built-ins/wrong.js": "/*---\nflags: [noStrict]\n---*/\nassert(1 === 2);",
    "language/module.js": "/*---\nflags: [module]\n---*/\nexport default 1;",
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name, source in HARNESS.items():
        (tmp_path / "harness").mkdir(exist_ok=True)
        (tmp_path / "harness" / name).write_text(source)
    for name, source in TESTS.items():
        path = tmp_path / "test" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


@pytest.mark.parametrize("host", [OurHost, OwnHost])
def test_verdicts(suite: Path, host: type[OurHost | OwnHost]) -> None:
    engine = host()
    verdicts = {case.name: case.verdict(*engine.run(case)) for case in cases_of(suite, "")}
    assert verdicts == {
        "built-ins/later.js (strict)": "pass",
        "built-ins/later.js": "pass",
        "built-ins/wrong.js": "expected success, got Test262Error",
        "language/negative.js (strict)": "pass",
        "language/negative.js": "pass",
        "language/ok.js (strict)": "pass",
        "language/ok.js": "pass",
        "language/strict.js (strict)": "pass",
    }


def test_only_takes_those_that_begin_so(suite: Path) -> None:
    assert {case.group for case in cases_of(suite, "built-ins")} == {
        "built-ins/later.js",
        "built-ins/wrong.js",
    }
