"""Modules that wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.messages import Answered
from panels_shared.outcome import Completed, ExtensionCall, Failed, Reason, Suspended
from panels_worker.guest.task import Execution, Task
from panels_worker.guest.wasm import WasmProgram
from tests.workers.builders import ABI, ENGINE, HOST, make_task

INTERVIEW = Path(__file__).parents[3] / "examples" / "wat" / "interview.wat"
CALL = "(call $ext_call (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 2))"
WAIT = f"(drop {CALL}) (i32.const 1)"
TASK = make_task(capabilities=("ext:x", "state:write:*", "state:read:*"))


def program(
    handle: str = WAIT, resume: str | None = "(i32.const 0)", extra: str = "", digest: bytes = b"d" * 32
) -> WasmProgram:
    """A module whose ``handle`` and ``resume`` have these bodies, with ``xm[]`` at 0."""
    parts = [ABI, '(data (i32.const 0) "xm[]")', extra]
    parts.append(f'(func (export "handle") (param i32 i32) (result i32) {handle})')
    if resume is not None:
        signature = "(param $call i64) (param $ok i32) (param $ptr i32) (param $len i32) (result i32)"
        parts.append(f'(func (export "resume") {signature} {resume})')
    return WasmProgram(HOST, wasmtime.Module(ENGINE, f"(module {' '.join(parts)})"), "handle", digest)


def suspended(execution: Execution) -> Suspended:
    assert isinstance(execution.outcome, Suspended), execution.outcome
    return execution.outcome


def completed(execution: Execution) -> Completed:
    assert isinstance(execution.outcome, Completed), execution.outcome
    return execution.outcome


def failed(execution: Execution) -> Failed:
    assert isinstance(execution.outcome, Failed), execution.outcome
    assert execution.changes == {}
    return execution.outcome


def answer(call: int, value: bytes = b"1", *, ok: bool = True) -> Answered:
    return Answered(call, ok, value)


def test_interview_example_waits_twice() -> None:
    made = WasmProgram(HOST, wasmtime.Module(ENGINE, INTERVIEW.read_text()), "handle")
    task = make_task(capabilities=("ext:human.ask", "state:write:*"))
    first = suspended(made.run(task))
    assert first.calls == (ExtensionCall(1, "human", "ask", b'["What is your name?"]'),)
    second_execution = made.resume(task, first.image, [answer(1, b'"Ada"')])
    second = suspended(second_execution)
    assert second.calls == (ExtensionCall(2, "human", "ask", b'["And your town?"]'),)
    assert second_execution.changes == {"name": b'"Ada"'}
    last = made.resume(task, second.image, [answer(2, b'"London"')])
    assert completed(last).return_value == b'"London"'
    assert last.changes == {"town": b'"London"'}


def test_interview_example_fails_with_what_the_extension_says() -> None:
    made = WasmProgram(HOST, wasmtime.Module(ENGINE, INTERVIEW.read_text()), "handle")
    task = make_task(capabilities=("ext:human.ask",))
    first = suspended(made.run(task))
    outcome = failed(made.resume(task, first.image, [answer(1, b'{"code":"c","message":"gone"}', ok=False)]))
    assert (outcome.reason, "gone" in outcome.message) == (Reason.HANDLER_ERROR, True)
    denied = failed(made.run(make_task()))
    assert denied.message == "expected to be allowed to ask"


def test_memory_that_grew_comes_along() -> None:
    grow = "(drop (memory.grow (i32.const 3))) (i32.store (i32.const 250000) (i32.const 77))"
    made = program(f"{grow} {WAIT}", "(i32.sub (i32.load (i32.const 250000)) (i32.const 77))")
    assert suspended(made.run(TASK)).usage.memory_used_bytes == 4 * 65_536
    execution = made.resume(TASK, suspended(made.run(TASK)).image, [answer(1)])
    assert completed(execution).usage.memory_used_bytes == 4 * 65_536


def test_image_beyond_the_memory_that_is_allowed_now_is_refused() -> None:
    made = program(f"(drop (memory.grow (i32.const 3))) {WAIT}")
    image = suspended(made.run(TASK)).image
    small = make_task(limits={"memory_bytes": 2 * 65_536})
    assert failed(made.resume(small, image, [answer(1)])).reason is Reason.MEMORY_LIMIT


def test_exported_globals_come_along_and_others_begin_anew() -> None:
    globals_ = """(global $i (export "i") (mut i32) (i32.const 1)) (global $I (export "I") (mut i64) (i64.const 1))
      (global $f (export "f") (mut f32) (f32.const 1)) (global $F (export "F") (mut f64) (f64.const 1))
      (global $own (mut i32) (i32.const 1)) (global (export "fixed") i32 (i32.const 1))"""
    change = """(global.set $i (i32.const -5)) (global.set $I (i64.const -6)) (global.set $f (f32.const -7.5))
      (global.set $F (f64.const -8.25)) (global.set $own (i32.const 9))"""
    check = """(i32.eqz (i32.and
      (i32.and (i32.eq (global.get $i) (i32.const -5)) (i64.eq (global.get $I) (i64.const -6)))
      (i32.and (i32.and (f32.eq (global.get $f) (f32.const -7.5)) (f64.eq (global.get $F) (f64.const -8.25)))
        (i32.eq (global.get $own) (i32.const 1)))))"""
    made = program(f"{change} {WAIT}", check, globals_)
    completed(made.resume(TASK, suspended(made.run(TASK)).image, [answer(1)]))


def test_start_and_initialize_are_not_run_over_the_memory_that_comes_along() -> None:
    extra = """(func $start (i64.store (i32.const 512) (i64.trunc_f64_s (call $now_ms)))) (start $start)
      (func (export "_initialize") (i32.store (i32.const 520) (i32.add (i32.const 1) (i32.load (i32.const 520)))))"""
    now = "(i64.ne (i64.load (i32.const 512)) (i64.const 1000))"
    once = "(i32.ne (i32.load (i32.const 520)) (i32.const 1))"
    made = program(WAIT, f"(i32.or {now} {once})", extra)
    image = suspended(made.run(make_task(capabilities=("ext:x",), now_ms=1000.0))).image
    completed(made.resume(make_task(now_ms=2000.0), image, [answer(1)]))


def test_answers_are_given_in_order_until_the_handler_does_not_wait() -> None:
    note = "(drop (call $state_set (local.get $ptr) (local.get $len) (i32.const 2) (i32.const 2)))"
    code = "(i32.and (i64.ne (local.get $call) (i64.const 1)) (i32.const 1))"
    made = program(f"(drop {CALL}) (drop {CALL}) {WAIT}", f"{note} {code}")
    image = suspended(made.run(TASK)).image
    execution = made.resume(TASK, image, [answer(3, b"3"), answer(9), answer(1, b"1"), answer(2, b"2")])
    assert list(execution.changes) == ["3", "1"]
    assert "dropped" in completed(execution).log[-1].text


def test_handler_that_goes_on_waiting_has_its_open_calls() -> None:
    made = program(f"(drop {CALL}) {WAIT}", "(i32.const 1)")
    first = suspended(made.run(TASK))
    assert [call.call for call in first.calls] == [1, 2]
    second = suspended(made.resume(TASK, first.image, [answer(1)]))
    assert second.calls == ()
    outcome = failed(made.resume(TASK, second.image, [answer(1), answer(2)]))
    assert "no extension call is pending" in outcome.message


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (program("(i32.const 1)"), "no extension call is pending"),
        (program(WAIT, None), "does not export resume"),
        (
            program(
                "(drop (call $ext_call (i32.const 9) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 2))) (i32.const 1)"
            ),
            "no extension call",
        ),
    ],
)
def test_waiting_for_nothing_fails_with_a_sentence(made: WasmProgram, words: str) -> None:
    outcome = failed(made.run(TASK))
    assert outcome.reason is Reason.HANDLER_ERROR
    assert words in outcome.message


def test_image_of_another_module_is_refused() -> None:
    made = program()
    image = suspended(made.run(TASK)).image
    assert failed(program(digest=b"e" * 32).resume(TASK, image, [answer(1)])).reason is Reason.RESUME_FAILED
    other = program(extra='(data (i32.const 9) "x")')
    assert failed(other.resume(TASK, image, [answer(1)])).reason is Reason.RESUME_FAILED
    other = program(extra='(global (export "g") (mut i32) (i32.const 0))')
    assert failed(other.resume(TASK, image, [answer(1)])).reason is Reason.RESUME_FAILED
    completed(made.resume(TASK, image, [answer(1)]))


@given(st.data())
def test_flipped_bit_never_gets_into_an_instance(data: st.DataObject) -> None:
    made = program()
    image = bytearray(suspended(made.run(TASK)).image)
    image[data.draw(st.integers(0, len(image) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert failed(made.resume(TASK, bytes(image), [answer(1)])).reason is Reason.RESUME_FAILED


def test_segments_have_fuel_and_effects_of_their_own() -> None:
    note = "(drop (call $state_set (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 2)))"
    made = program(f"{note} {WAIT}", "(i32.const 0)")
    task: Task = make_task(capabilities=("ext:x", "state:write:*"), limits={"fuel": 60})
    first = made.run(task)
    assert first.changes == {"x": b"[]"}
    second = made.resume(task, suspended(first).image, [answer(1)])
    assert second.changes == {}
    assert 0 < completed(second).usage.fuel < 60


def test_segment_makes_a_bounded_number_of_calls() -> None:
    outcome = failed(program(f"(loop $more (drop {CALL}) (br $more)) {WAIT}").run(TASK))
    assert outcome.reason is Reason.LIMIT_EXCEEDED
    assert "64" in outcome.message
