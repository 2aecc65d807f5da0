"""What ``scripts/isolation_test`` makes of what comes back: it sees what gets through, and a short real
run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.isolation import results
from benchmarks.isolation.__main__ import ended
from benchmarks.isolation.attack import RETURNED, Call, attack, call
from benchmarks.isolation.captive import outcomes
from benchmarks.isolation.corpus import compromised, corpus, pointers, wasi
from benchmarks.isolation.neighbours import Neighbour, Observed
from benchmarks.isolation.runner import _packed
from benchmarks.isolation.verdict import Row, Seen, felt, judge, misses, percentile
from benchmarks.report import Report
from panels_shared.outcome import Reason
from panels_worker.guest import abi
from panels_worker.guest import wasi as worker_wasi
from tests.integration.guests import counter
from tests.support.system import System

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(400)
def test_short_run_lets_nothing_through(tmp_path: Path) -> None:
    report, figures = tmp_path / "report.html", tmp_path / "figures.json"
    command = ["benchmarks.isolation", "--short", "--html", str(report), "--json", str(figures)]
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert not found["problems"]
    assert len(found["rows"]) > 60
    assert found["answered"] == found["sent"] > 100
    text = report.read_text()
    assert text.count("<svg") >= 2
    assert "://" not in text.replace("http://example.org", "")


# -- the corpus --------------------------------------------------------------------------------------


def test_corpus_names_each_attack_once_and_expects_words_that_exist() -> None:
    attacks = corpus()
    names = [(each.family, each.name) for each in attacks]
    assert len(names) == len(set(names))
    known = {reason.value for reason in Reason} | {RETURNED, "*"}
    for each in attacks:
        assert each.calls, each.name
        for one in each.calls:
            assert one.expected, one.name
            for word in one.expected:
                assert word in known or word.startswith(("refused:", "http:")), (each.name, one.name, word)


def test_corpus_covers_every_import_that_takes_a_range() -> None:
    assert pointers.covered() == {name for name, (params, _) in abi.IMPORTS.items() if "ii" in params}
    denied = {name for name, (_, errno) in worker_wasi._DENIED.items() if errno}
    assert set(wasi.DENIED) == denied
    assert all(worker_wasi._DENIED[name][1] == errno for name, errno in wasi.DENIED.items())


def test_sample_keeps_the_first_and_the_last() -> None:
    whole = attack("f", "a", [call(str(at), "1", RETURNED) for at in range(9)])
    assert [each.name for each in whole.sampled(3).calls] == ["0", "4", "8"]
    assert whole.sampled(9) == whole


def test_handlers_that_may_be_refused_are_alone() -> None:
    calls = [call(str(at), "1", RETURNED, *(["refused:*"] if at == 1 else [])) for at in range(20)]
    packs = [[each.name for each in pack] for pack in _packed(calls)]
    assert ["1"] in packs
    assert max(map(len, packs)) == 16
    assert sum(map(len, packs)) == 20


# -- verdicts ----------------------------------------------------------------------------------------


def error(reason: str, ran_us: int = 0) -> dict[str, Any]:
    details = {"reason": reason, "executionTimeUs": ran_us}
    return {"type": "ERROR", "code": "EXECUTION_ERROR", "message": "m", "details": details}


def result(value: object) -> dict[str, Any]:
    return {"type": "RESULT", "result": {"returnValue": value, "metrics": {"executionTimeUs": 5}}}


PATCH = {"type": "PATCH", "seq": 1}


@pytest.mark.parametrize(
    ("one", "message", "heard", "said"),
    [
        (call("a", "1", "TRAP"), result(1), [], "expected TRAP, got returned"),
        (call("a", "1", "TRAP"), error("TIMEOUT"), [], "expected TRAP, got TIMEOUT"),
        (call("a", "1", "TRAP"), error("TRAP"), [PATCH], "it failed, and yet others heard"),
        (call("a", "1", RETURNED, returns=0), result(1), [], "expected the result 0"),
        (call("a", "1", RETURNED), result(1), [PATCH], "it was to change nothing"),
        (call("a", "1", RETURNED, secret="abc"), result(["xabcx"]), [], "what was hidden"),
        (call("a", "1", "refused:memory"), error("TRAP"), [], "expected refused:memory"),
    ],
)  # fmt: skip
def test_judge_sees_what_gets_through(
    one: Call, message: dict[str, Any], heard: list[dict[str, Any]], said: str
) -> None:
    (problem,) = judge(one, 101, message, 1.0, heard=heard).problems
    assert said in problem


@pytest.mark.parametrize(
    ("one", "status", "message"),
    [
        (call("a", "1", "TRAP"), 101, error("TRAP")),
        (call("a", "1", "*"), 101, error("WORKER_LOST")),
        (call("a", "1", RETURNED, returns=None), 101, result(None)),
        (call("a", "1", "http:400"), 400, {"error": {"code": "INVALID_REQUEST"}}),
        (
            call("a", "1", "refused:*"),
            422,
            {"error": {"code": "INVALID_HANDLER", "details": {"reason": "syntax"}}},
        ),
    ],
)
def test_judge_has_nothing_against_what_was_expected(one: Call, status: int, message: dict[str, Any]) -> None:
    assert judge(one, status, message, 1.0).problems == ()


def test_lateness_counts_from_the_deadline_as_the_worker_measured_it() -> None:
    one = call("a", "1", "TIMEOUT", limits={"timeoutMs": 200})
    assert judge(one, 101, error("TIMEOUT", 231_000), 400.0).late_ms == pytest.approx(31.0)
    assert judge(one, 101, error("TRAP", 100_000), 400.0).late_ms is None
    row = Row("f", "r", seen=[Seen("a", "TIMEOUT", 400.0, 231.0, 200)])
    assert "31.0 ms after its deadline" in misses([row], 1.5)[0]
    assert "2.50 times" in misses([], 2.5)[0]
    assert misses([], None) == []


def test_felt_takes_the_triggers_that_were_due_in_its_windows() -> None:
    at_s = [number / 10 for number in range(100)]
    latency_ms = [1.0 if at < 5 else 9.0 for at in at_s]
    assert felt(at_s, latency_ms, [(0.0, 5.0)]).p99_ms == 1.0
    assert felt(at_s, latency_ms, [(0.0, 5.0), (5.0, 10.0)]).p99_ms == 9.0
    assert felt(at_s, latency_ms, [(0.0, 1.0)]).p99_ms is None
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.25, 0.5, 0.99)] == [1.0, 2.0, 4.0]


def test_neighbour_sees_what_is_wrong() -> None:
    def said(*messages: dict[str, Any]) -> str:
        observed = Observed()
        neighbour = Neighbour(observed, "n")
        neighbour._due = {"n-1": 0.0}
        for message in ({"type": "CONNECTED", "seq": 3}, *messages):
            neighbour._hear(message, 1.0)
        return " ".join(observed.violations)

    fine = {"type": "RESULT", "requestId": "n-1", "result": {"returnValue": 4}}
    assert said({"type": "PATCH", "seq": 4}, {"type": "EVENT", "seq": 4}, fine) == ""
    assert "expected PATCH 4, got 5" in said({"type": "PATCH", "seq": 5})
    assert "expected the count 4, got 9" in said({**fine, "result": {"returnValue": 9}})
    assert "not awaited" in said(fine, {**fine, "result": {"returnValue": 5}})
    assert "OVERLOADED" in said({"type": "ERROR", "code": "OVERLOADED", "requestId": "n-1"})


def test_neighbours_that_are_gone_are_an_error_that_says_so(tmp_path: Path) -> None:
    report = tmp_path / "report"
    for written in (None, b"{"):
        if written is not None:
            report.write_bytes(written)
        command = [sys.executable, "-c", "raise SystemExit(3)"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with process, pytest.raises(OSError, match="ended with 3 and left no report"):
            ended(process, report)


# -- the figures that are kept -----------------------------------------------------------------------


def test_document_names_what_was_wanted_and_missed() -> None:
    seen = [Seen("a", "TIMEOUT", 300.0, 215.0, 200), Seen("b", "TIMEOUT", 300.0, 231.0, 200)]
    bulk = Row("loops", "bulk memory without end", seen=[Seen("c", "TIMEOUT", 300.0, 275.0, 200)])
    felt_so = {"samples": 400, "p50_ms": 1.0, "p99_ms": 2.0}
    text = results.document(
        [
            results.Measured(
                Report("scripts/isolation_test"), "nothing got through", "Together.", "seccomp",
                [Row("loops", "r", seen=seen), bulk], felt_so, felt_so, 10, 9, 2.5, (1.0, 2.0),
            )
        ]
    )  # fmt: skip
    assert "## Together\n" in text
    assert "| a handler's end after its deadline, latest | ≤ 20 ms | 31 ms | no |" in text
    assert "| the same, of bulk operations on 120 MiB | ≤ 20 ms | 75 ms | no |" in text
    assert "| of 2 that their deadline ended, within 20 ms | – | 50.0 % | – |" in text
    assert "| ≤ 2 × | 2.5 × | no |" in text
    assert "| neighbours' triggers without a good answer | 0 | 1 | no |" in text
    assert "load average 1.0 before and 2.0 after" in text


# -- the compromised worker --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returncode", "printed", "word"),
    [
        (-31, "", "killed"),
        (0, "PermissionError: [Errno 13]", "denied"),
        (0, "None", "nothing"),
        (0, "root:x:0:0", "got root:x:0:0"),
        (-9, "", "ended with -9"),
    ],
)
def test_word_of_a_snippet(returncode: int, printed: str, word: str) -> None:
    assert compromised.word_of(returncode, printed) == word


def test_snippet_that_gets_something_is_a_problem() -> None:
    snippet = compromised.SNIPPETS[0]
    assert compromised.judged(compromised.Tried(snippet, "denied", 1.0)).problems == ()
    seen = compromised.judged(compromised.Tried(snippet, "got root", 1.0))
    assert seen.problems == ("/etc/passwd: expected denied or killed, got got root",)


def test_chosen_snippets_are_of_every_group_and_each_has_a_row() -> None:
    chosen = compromised.chosen(2)
    assert len(chosen) == 2 * len(compromised.groups())
    assert len({snippet.name for snippet in compromised.SNIPPETS}) == len(compromised.SNIPPETS)
    rows = compromised.rows(compromised.Tried(snippet, "killed", 1.0) for snippet in reversed(chosen))
    assert [row.name for row in rows] == compromised.groups()
    assert all(row.calls == 2 for row in rows)


def test_snippets_run_in_a_connected_sandbox_and_what_they_get_is_seen() -> None:
    """A snippet may read what its own process has, and what it says on the bus is counted by the gateway."""

    def snippet(name: str, source: str, **more: Any) -> compromised.Snippet:
        return compromised.Snippet("g", name, source, **more)

    wanted = [
        (snippet("own", "got = config.artifact_key is not None", bus=True), "got True"),
        (
            snippet("poses", "got = bus.say(captive.beats, m.Hello('pool', b'', 1, {}))", bus=True,
                    counted=("panels_bus_breaches_total ",)),
            "cut off",
        ),
        (
            snippet("answers", "j = bus.job(); captive.say(captive.jobs, completed(j.job, 7))", bus=True, job=True),
            "expected the count 1, got 7",
        ),
        (snippet("reads", "got = open('/etc/passwd').read()"), "denied"),
    ]  # fmt: skip
    with System() as system:
        system.start(processes=1)
        system.make_panel(counter(), state={"count": 0})
        found = {tried.snippet.name: tried.word for tried in outcomes(system, [each for each, _ in wanted])}
        assert found == {each.name: word for each, word in wanted}
