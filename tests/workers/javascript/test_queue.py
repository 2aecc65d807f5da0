"""What a handler leaves in the engine's queue, and rejections that nobody handles."""

from __future__ import annotations

from typing import Any

import pytest

from panels_shared.outcome import Completed, Failed, Reason
from tests.workers.builders import make_task
from tests.workers.javascript.scripts import changes, failure, program, refusal, run, value


@pytest.mark.parametrize(
    "source",
    [
        "Promise.resolve(1).then((v) => { $state.v = v }); return 'ok'",
        "Promise.resolve(1).then((v) => v).then((v) => v).then((v) => { $state.v = v })",
        "(async () => { await null; await null; $state.v = 1 })()",
        "queueMicrotask(() => queueMicrotask(() => { $state.v = 1 }))",
        "const f = async () => { $state.v = await 1 }; f(); return 'ok'",
        "await null; Promise.resolve().then(() => { $state.v = 1 })",
        "Promise.reject(1).catch((v) => { $state.v = v })",
        "[1].forEach(async (v) => { await null; $state.v = v })",
    ],
)
def test_effects_of_the_queue_are_committed(source: str) -> None:
    assert changes(source) == {"v": 1}


def test_events_and_log_of_the_queue_leave_with_the_job() -> None:
    outcome = run(
        "Promise.resolve().then(() => { $emit('late'); $log.info('late') }); $emit('first')"
    ).outcome
    assert isinstance(outcome, Completed)
    assert [b"first" in event for event in outcome.events] == [True, False]
    assert [line.text for line in outcome.log] == ["late"]


def test_what_the_queue_makes_of_the_result_counts() -> None:
    assert value("const made = { n: 1 }; Promise.resolve().then(() => { made.n = 2 }); return made") == {
        "n": 2
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Promise.reject(new Error('lost')); return 1", "Error: lost"),
        ("(async () => { throw new TypeError('lost') })(); return 1", "TypeError: lost"),
        ("(async () => { await null; null.x })()", "TypeError: cannot read property 'x' of null"),
        ("queueMicrotask(() => { throw new Error('lost') })", "Error: lost"),
        ("Promise.resolve().then(() => { throw new Error('lost') }); return 1", "Error: lost"),
        ("Promise.reject(1).then(() => 1); return 1", "thrown value: 1"),
        ("Promise.reject(new Error('lost')).finally(() => 1); return 1", "Error: lost"),
        ("const { reject } = Promise.withResolvers(); reject('text'); return 1", "thrown value: text"),
        ("await new Promise((r) => { (async () => { throw new Error('lost') })().then(r) })", "Error: lost"),
        ("Promise.all([Promise.reject(new Error('lost')), 1]); return 1", "Error: lost"),
    ],
)
def test_rejection_that_nobody_handles_fails_the_job_and_is_logged(source: str, message: str) -> None:
    failed = failure(f"$state.n = 1; {source}")
    assert (failed.reason, failed.message) == (Reason.HANDLER_ERROR, message)
    assert [line.level for line in failed.log] == [3]
    assert failed.log[0].text.startswith(f"unhandled rejection: {message.removeprefix('thrown value: ')}")


def test_lost_rejection_says_where_it_was_thrown() -> None:
    failed = failure("const save = async () => {\n  throw new Error('lost');\n};\nsave();")
    assert (failed.line, failed.column) == (2, 13)


@pytest.mark.parametrize(
    "source",
    [
        "Promise.reject(1).catch(() => {}); return 1",
        "const p = Promise.reject(1); await null; await null; await p.catch(() => {}); return 1",
        "const p = (async () => { throw 1 })(); try { await p } catch {} return 1",
        "const p = Promise.reject(1); queueMicrotask(() => p.catch(() => {})); return 1",
        "await Promise.allSettled([Promise.reject(1), Promise.reject(2)]); return 1",
        "return await Promise.race([Promise.resolve(1), Promise.reject(2)])",
        "return await Promise.any([Promise.reject(2), Promise.resolve(1)])",
        "for (let i = 0; i < 500; i++) { const p = Promise.reject(i); p.catch(() => {}); } return 1",
        (
            "const all = []; for (let i = 0; i < 60; i++) all.push(Promise.reject(i)); for (const p of all) "
            "p.catch(() => {}); return 1"
        ),
    ],
)
def test_rejection_that_is_handled_later_is_not_reported(source: str) -> None:
    outcome = run(source).outcome
    assert isinstance(outcome, Completed), outcome
    assert (outcome.return_value, outcome.log) == (b"1", ())


def test_own_error_of_a_handler_comes_before_lost_ones() -> None:
    failed = failure("Promise.reject(new Error('lost')); throw new Error('own')")
    assert failed.message == "Error: own"
    assert len(failed.log) == 1


def test_every_lost_rejection_is_logged() -> None:
    failed = failure("for (let i = 0; i < 5; i++) Promise.reject(new Error('lost ' + i))")
    assert failed.message == "Error: lost 0"
    assert [line.text.split("\n")[0] for line in failed.log] == [
        f"unhandled rejection: Error: lost {i}" for i in range(5)
    ]


def test_many_lost_rejections_are_harmless() -> None:
    failed = failure(
        "for (let i = 0; i < 5000; i++) Promise.reject({ i, big: [i] })",
        limits={"fuel": 10**9, "log_bytes": 10**6},
    )
    assert failed.reason in (Reason.HANDLER_ERROR, Reason.LIMIT_EXCEEDED)
    assert value("return 1") == 1


def test_rejections_survive_the_collector_of_garbage() -> None:
    source = """
      const lost = { error: new Error("lost") }; lost.self = lost;
      (async () => { throw lost.error })();
      let kept = []; for (let i = 0; i < 20000; i++) { const a = { i }; a.a = a; if (i % 100 === 0) kept = []; kept.push(a); }
      return kept.length
    """
    assert failure(source, limits={"fuel": 10**9}).message == "Error: lost"


@pytest.mark.parametrize(
    "tampering",
    [
        "Promise.prototype.then = null",
        "Promise.prototype.constructor = { [Symbol.species]: 1 }",
        "Promise = null",
    ],
)
def test_tampering_does_not_hide_a_lost_rejection(tampering: str) -> None:
    assert (
        failure(f"{tampering}; (async () => {{ throw new Error('lost') }})()").reason is Reason.HANDLER_ERROR
    )


def test_queue_that_never_ends_uses_up_the_fuel() -> None:
    source = "const again = () => Promise.resolve().then(again); again(); return 1"
    assert failure(source, limits={"fuel": 20_000_000}).reason is Reason.FUEL_EXHAUSTED


def test_lost_rejection_of_a_top_level_is_refused() -> None:
    found = refusal("Promise.reject(new Error('top'));\nexport default () => 1")
    assert (found.message, found.line) == ("Error: top", 1)
    assert value("Promise.reject(1).catch(() => {});\nexport default () => 1") == 1


def test_nothing_of_the_queue_is_left_for_the_next_job() -> None:
    handler = program("if ($args) { for (let i = 0; i < 70; i++) Promise.reject(i); } return 1")

    def job(args: bytes) -> Any:
        return handler.run(make_task(args=args)).outcome

    clean = job(b"false")
    assert isinstance(job(b"true"), Failed)
    again = job(b"false")
    assert isinstance(again, Completed)
    assert again.usage.fuel == clean.usage.fuel
    assert job(b"true").usage.fuel == job(b"true").usage.fuel
