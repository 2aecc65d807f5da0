from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.outcome import Completed, Failed, Reason
from panels_worker.guest import effects
from panels_worker.guest.abi import MAX_MESSAGE_CHARS
from panels_worker.guest.task import Execution, Task
from panels_worker.guest.wasm import WasmProgram
from tests.workers.builders import ENGINE, HOST, make_program, make_task

COUNTER = Path(__file__).parents[3] / "examples" / "wat" / "increment.wat"


@pytest.fixture(scope="module", autouse=True)
def ticker() -> Iterator[None]:
    """Increments the epoch, as the process's ticker thread does."""
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.01):
            ENGINE.increment_epoch()

    thread = threading.Thread(target=tick)
    thread.start()
    yield
    stop.set()
    thread.join()


def completed(execution: Execution) -> Completed:
    assert isinstance(execution.outcome, Completed), execution.outcome
    return execution.outcome


def failed(program: WasmProgram, task: Task | None = None) -> Failed:
    execution = program.run(task or make_task())
    assert isinstance(execution.outcome, Failed), execution.outcome
    assert execution.changes == {}
    return execution.outcome


def test_counter_example_counts_emits_and_returns() -> None:
    program = WasmProgram(HOST, wasmtime.Module(ENGINE, COUNTER.read_text()), "handle")
    execution = program.run(make_task(args=b'{"by":5}', state={"count": b"41"}))
    outcome = completed(execution)
    assert execution.changes == {"count": b"46"}
    assert outcome.return_value == b"46"
    assert json.loads(outcome.mutations) == [{"op": "set", "key": "count", "value": 46}]
    assert [json.loads(event) for event in outcome.events] == [
        {"name": "incremented", "payload": 46, "timestamp": 1_700_000_000_000}
    ]
    assert outcome.usage.host_calls == 4
    assert 100 < outcome.usage.fuel < 1_000
    assert not outcome.usage.cache_hit
    again = completed(program.run(make_task()))
    assert again.usage.cache_hit
    assert json.loads(again.return_value) == 1


def test_program_runs_alike_every_time() -> None:
    program = make_program(
        "(call $random (i32.const 0) (i32.const 8)) (i64.store (i32.const 8) (i64.trunc_f64_s (call $now_ms)))"
        "(call $fail (i32.const 0) (i32.const 16)) (i32.const 0)"
    )
    assert failed(program).message == failed(program).message
    assert failed(program, make_task(seed=8)).message != failed(program).message


def test_program_begins_pristine_every_time() -> None:
    program = make_program(
        "(if (i32.or (global.get $g) (i32.load (i32.const 100))) (then unreachable))"
        "(global.set $g (i32.const 1)) (i32.store (i32.const 100) (i32.const 1)) (i32.const 0)",
        extra="(global $g (mut i32) (i32.const 0))",
    )
    for _ in range(3):
        completed(program.run(make_task()))


# -- the ABI, import by import -----------------------------------------------------------------------


def code(body: str, task: Task | None = None, **data: str) -> int:
    """What an expression returns, by way of the handler's own code."""
    texts = {int(at[1:]): text for at, text in data.items()}
    outcome = make_program(f"(i32.sub (i32.const -1000) {body})", data=texts).run(task or make_task()).outcome
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.HANDLER_ERROR, outcome
    return -1000 - int(outcome.message.split("returned ")[1].split(";")[0])


KEY = "(i32.const 0) (i32.const 1)"


def test_state_get_returns_length_absent_or_denied() -> None:
    get = f"(call $state_get {KEY} (i32.const 64) (i32.const 10))"
    assert code(get, make_task(state={"k": b"12345"}), _0="k") == 5
    assert code(get, _0="k") == -1
    assert code(get, make_task(state={"k": b"1"}, capabilities=("state:read:other",)), _0="k") == -2


def test_state_get_writes_nothing_when_the_buffer_is_too_small() -> None:
    get = f"(drop (call $state_get {KEY} (i32.const 64) (i32.const 3))) (i32.load8_u (i32.const 64))"
    program = make_program(f"(i32.sub (i32.const -1) (block (result i32) {get}))", data={0: "k"})
    assert failed(program, make_task(state={"k": b"12345"})).message.startswith("the handler returned -1;")


def test_state_set_validates_json_and_permission() -> None:
    set_ = f"(call $state_set {KEY} (i32.const 64) (i32.const 4))"
    assert code(set_, _0="k", _64="true") == 0
    assert code(set_, _0="k", _64="nope") == -4
    assert code(set_, _0="k", _64="1e99999") == 0
    assert code(set_, _0="\\ff", _64="true") == -4
    assert code(set_, make_task(capabilities=("state:read:*",)), _0="k", _64="true") == -2


def test_state_delete_has_and_keys() -> None:
    task = make_task(state={"k": b"1"})
    assert code(f"(call $state_delete {KEY})", task, _0="k") == 0
    assert code(f"(call $state_delete {KEY})", _0="k") == -1
    assert code(f"(call $state_has {KEY})", task, _0="k") == 1
    assert code(f"(call $state_has {KEY})", _0="k") == 0
    assert code("(call $state_keys (i32.const 64) (i32.const 100))", task) == len('["k"]')


def test_state_sees_its_own_writes() -> None:
    body = f"(drop (call $state_set {KEY} (i32.const 64) (i32.const 4))) (call $state_has {KEY})"
    assert code(f"(block (result i32) {body})", _0="k", _64="true") == 1
    body = f"(drop (call $state_delete {KEY})) (call $state_has {KEY})"
    assert code(f"(block (result i32) {body})", make_task(state={"k": b"1"}), _0="k") == 0


def test_job_reports_one_mutation_per_key() -> None:
    program = make_program(
        f"(drop (call $state_set {KEY} (i32.const 64) (i32.const 4)))"
        f"(drop (call $state_set {KEY} (i32.const 70) (i32.const 1)))"
        f"(drop (call $state_delete (i32.const 1) (i32.const 1))) (i32.const 0)",
        data={0: "kd", 64: "true", 70: "5"},
    )
    execution = program.run(make_task(state={"d": b"1", "z": b"2"}))
    assert json.loads(completed(execution).mutations) == [
        {"op": "set", "key": "k", "value": 5},
        {"op": "delete", "key": "d"},
    ]
    assert execution.changes == {"k": b"5", "d": None}


def test_view_needs_its_capability() -> None:
    view = "(call $view (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 2))"
    assert code(view, _0="vc{}") == -2
    program = make_program(f"(drop {view}) (i32.const 0)", data={0: "vc{}"})
    outcome = completed(program.run(make_task(capabilities=("view:update:*",))))
    assert json.loads(outcome.view_commands) == [{"viewId": "v", "command": "c", "params": {}}]


def test_emit_needs_a_name_a_json_payload_and_permission() -> None:
    emit = f"(call $emit {KEY} (i32.const 64) (i32.const 2))"
    assert code(emit, _0="n", _64="{}") == 0
    assert code(emit, _0="n", _64="{x") == -4
    assert code(emit, make_task(capabilities=("events:emit:x",)), _0="n", _64="{}") == -2
    assert code("(call $emit (i32.const 0) (i32.const 0) (i32.const 64) (i32.const 2))", _64="{}") == -4


def test_event_for_one_subject_needs_a_subject() -> None:
    emit = f"(call $emit_to {KEY} (i32.const 64) (i32.const 2) (i32.const 70) (i32.const %d))"
    assert code(emit % 3, _0="n", _64="{}", _70="ada") == 0
    assert code(emit % 0, _0="n", _64="{}", _70="ada") == -4
    assert code(emit % 2_000, _0="n", _64="{}", _70="a" * 2_000) == -4
    program = make_program(f"(drop {emit % 3}) (i32.const 0)", data={0: "n", 64: "{}", 70: "ada"})
    (event,) = completed(program.run(make_task())).events
    assert json.loads(event) == {"name": "n", "payload": {}, "timestamp": 1_700_000_000_000, "to": "ada"}


def test_ext_call_needs_names_a_json_array_and_permission() -> None:
    call = "(i32.wrap_i64 (call $ext_call (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 2)))"
    allowed = make_task(capabilities=("ext:x",))
    assert code(call, _0="x", _64="[]") == -2
    assert code(call, allowed, _0="x", _64="[]") == 1
    assert code(call, allowed, _0="x", _64="{}") == -4
    assert code(call, allowed, _0="x", _64="[x") == -4
    assert code(call, allowed, _0=".", _64="[]") == -4


def test_result_that_is_not_json_is_invalid_result() -> None:
    program = make_program("(call $result (i32.const 0) (i32.const 3)) (i32.const 0)", data={0: "NaN"})
    assert failed(program).reason is Reason.INVALID_RESULT


def test_fail_gives_the_message_to_the_caller() -> None:
    program = make_program("(call $fail (i32.const 0) (i32.const 5)) (i32.const 0)", data={0: "sorry"})
    outcome = failed(program)
    assert (outcome.reason, outcome.message) == (Reason.HANDLER_ERROR, "sorry")


CODED = {0: "TAKEN", 8: r"{\22by\22:1}", 32: "why", 48: "two words", 64: "NaN"}
FAIL = "(call $fail (i32.const 32) (i32.const 3))"


def fails_with(*calls: str) -> tuple[str, dict[str, object]]:
    """The message and the details of a job that makes these calls."""
    outcome = failed(make_program("".join(calls) + "(i32.const 0)", data=CODED))
    assert outcome.reason is Reason.HANDLER_ERROR
    return outcome.message, json.loads(outcome.details)


def answered(code_at: tuple[int, int], details: tuple[int, int] = (0, 0)) -> int:
    """What fail_code answers."""
    body = f"(i32.sub (i32.const -1000) {fail_code(code_at, details)})"
    outcome = failed(make_program(body, data=CODED))
    return -1000 - int(outcome.message.split("returned ")[1].split(";")[0])


def fail_code(code: tuple[int, int], details: tuple[int, int] = (0, 0)) -> str:
    numbers = " ".join(f"(i32.const {number})" for number in (*code, *details))
    return f"(call $fail_code {numbers})"


def test_fail_code_tells_programs_what_happened() -> None:
    told = f"(drop {fail_code((0, 5), (8, 8))})"
    assert fails_with(told, FAIL) == ("why", {"handlerCode": "TAKEN", "handlerDetails": {"by": 1}})
    assert fails_with(FAIL, told) == fails_with(told, FAIL)
    assert fails_with(f"(drop {fail_code((0, 5))})", FAIL) == ("why", {"handlerCode": "TAKEN"})
    # the last one counts, and one that is refused is none
    again = f"(drop {fail_code((0, 4))}) (drop {fail_code((48, 9))})"
    assert fails_with(told, again, FAIL) == ("why", {"handlerCode": "TAKE"})
    outcome = failed(make_program(f"(drop {fail_code((0, 5))}) (i32.const 7)", data=CODED))
    assert json.loads(outcome.details) == {"handlerCode": "TAKEN"}


def test_fail_code_refuses_what_is_none() -> None:
    assert answered((0, 5), (8, 8)) == 0
    for bad in ((48, 9), (0, 0)):
        assert answered(bad) == -4
    for bad in ((64, 3), (64, 5_000)):
        assert answered((0, 5), bad) == -4


def test_fail_code_means_nothing_for_other_endings() -> None:
    outcome = failed(make_program(f"(drop {fail_code((0, 5))}) unreachable", data=CODED))
    assert (outcome.reason, outcome.details) == (Reason.TRAP, b"{}")
    completed(make_program(f"(drop {fail_code((0, 5))}) (i32.const 0)", data=CODED).run(make_task()))


def test_log_is_kept_for_failed_and_completed_jobs_and_cut_at_its_limit() -> None:
    program = make_program(
        "(call $log (i32.const 2) (i32.const 0) (i32.const 5)) (i32.const 0)", data={0: "hello"}
    )
    assert [(line.level, line.text) for line in completed(program.run(make_task())).log] == [(2, "hello")]
    lines = completed(program.run(make_task(limits={"log_bytes": 3}))).log
    assert lines[0].text == "hel"
    assert len(lines) == 2


def test_wasi_writes_go_to_the_log_and_files_do_not_exist() -> None:
    program = make_program(
        "(i32.store (i32.const 100) (i32.const 0)) (i32.store (i32.const 104) (i32.const 3))"
        "(drop (call $fd_write (i32.const 1) (i32.const 100) (i32.const 1) (i32.const 200)))"
        "(drop (call $fd_write (i32.const 2) (i32.const 100) (i32.const 1) (i32.const 200)))"
        "(i32.add (i32.sub (i32.load (i32.const 200)) (i32.const 3)) (i32.sub (call $fd_read (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 8)))",
        data={0: "out"},
    )
    assert [(line.level, line.text) for line in completed(program.run(make_task())).log] == [
        (1, "out"),
        (3, "out"),
    ]


@pytest.mark.parametrize(("status", "reason"), [(0, None), (3, Reason.HANDLER_ERROR)])
def test_proc_exit_ends_the_job(status: int, reason: Reason | None) -> None:
    outcome = make_program(f"(call $proc_exit (i32.const {status})) unreachable").run(make_task()).outcome
    assert (outcome.reason if isinstance(outcome, Failed) else None) is reason


# -- bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "limits", "reason"),
    [
        ("(loop (br 0)) (i32.const 0)", {"fuel": 100_000}, Reason.FUEL_EXHAUSTED),
        ("(loop (br 0)) (i32.const 0)", {"deadline_ms": 30, "fuel": 1 << 40}, Reason.TIMEOUT),
        ("unreachable", {}, Reason.TRAP),
        ("(call $f) (i32.const 0)", {}, Reason.STACK_OVERFLOW),
        ("(i32.load (i32.const 70000))", {}, Reason.TRAP),
        ("(loop (drop (call $now_ms)) (br 0)) (i32.const 0)", {"host_calls": 100}, Reason.LIMIT_EXCEEDED),
        (
            "(loop (drop (call $emit (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1))) (br 0)) (i32.const 0)",
            {"events": 10},
            Reason.LIMIT_EXCEEDED,
        ),
        (
            "(loop (drop (call $emit (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1))) (br 0)) (i32.const 0)",
            {"output_bytes": 10},
            Reason.LIMIT_EXCEEDED,
        ),
        (
            "(loop (br_if 0 (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))) unreachable",
            {"memory_bytes": 1 << 21},
            Reason.MEMORY_LIMIT,
        ),
        ("(i32.const 1)", {}, Reason.HANDLER_ERROR),
        ("(i32.const -9)", {}, Reason.HANDLER_ERROR),
        ("(call $random (i32.const 0) (i32.const 1000000)) (i32.const 0)", {}, Reason.LIMIT_EXCEEDED),
    ],
)
def test_job_ends_with_the_reason_and_changes_nothing(
    body: str, limits: dict[str, int], reason: Reason
) -> None:
    first = "(drop (call $state_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)))"
    program = make_program(first + body, data={0: "k1"}, extra="(func $f (call $f))")
    outcome = failed(program, make_task(limits=limits))
    assert outcome.reason is reason
    completed(make_program("(i32.const 0)").run(make_task()))


def test_fuel_is_reported_where_it_is_known() -> None:
    spin = make_program("(loop (br 0)) (i32.const 0)")
    assert failed(spin, make_task(limits={"fuel": 5_000})).usage.fuel == 5_000
    assert failed(spin, make_task(limits={"fuel": 1 << 40, "deadline_ms": 20})).usage.fuel == -1


def test_module_that_needs_more_memory_than_its_limit_says_so() -> None:
    source = '(module (memory (export "memory") 40) (func (export "alloc") (param i32) (result i32) (i32.const 0)) (func (export "handle") (param i32 i32) (result i32) (i32.const 0)))'
    program = WasmProgram(HOST, wasmtime.Module(ENGINE, source), "handle")
    assert failed(program, make_task(limits={"memory_bytes": 1 << 20})).reason is Reason.MEMORY_LIMIT


def test_message_of_a_handler_that_ran_out_of_memory_keeps_its_bound() -> None:
    program = make_program("(call $fail (i32.const 0) (i32.const 65536)) (i32.const 0)")
    failure = failed(program, make_task(limits={"memory_bytes": 1 << 20}))
    assert failure.reason is Reason.MEMORY_LIMIT
    assert len(failure.message) == MAX_MESSAGE_CHARS
    assert failure.message.endswith("of memory in use)")


def test_alloc_that_lies_ends_the_job() -> None:
    source = '(module (memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const -1)) (func (export "handle") (param i32 i32) (result i32) (i32.const 0)))'
    program = WasmProgram(HOST, wasmtime.Module(ENGINE, source), "handle")
    assert failed(program).reason is Reason.TRAP


NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 65_535, 65_536, 65_537, 0x7FFF_FFFF, -0x8000_0000, 8_192]),
    st.integers(-(2**31), 2**31 - 1),
)
CALLS = {
    "state_get": 4,
    "state_set": 4,
    "state_delete": 2,
    "state_has": 2,
    "state_keys": 2,
    "emit": 4,
    "emit_to": 6,
    "view": 6,
    "ext_call": 6,
    "result": 2,
    "fail": 2,
    "fail_code": 4,
    "log": 3,
    "random": 2,
    "fd_write": 4,
    "random_get": 2,
}
_probes: dict[str, WasmProgram] = {}


def probe(name: str) -> WasmProgram:
    """A program that calls one import with numbers from its arguments, which are raw little-endian i32."""
    if name not in _probes:
        loads = "".join(f"(i32.load offset={4 * n} (local.get $ptr))" for n in range(CALLS[name]))
        call = f"(call ${name} {loads})"
        body = call if name in ("result", "fail", "log", "random") else f"(drop {call})"
        _probes[name] = make_program(f"{body} (i32.const 0)", data={0: "k1{}\\ff"})
    return _probes[name]


@given(st.sampled_from(sorted(CALLS)), st.lists(NUMBERS, min_size=6, max_size=6))
def test_imports_survive_any_numbers(name: str, numbers: list[int]) -> None:
    args = b"".join(number.to_bytes(4, "little", signed=True) for number in numbers)
    task = make_task(
        args=args,
        state={"k": b"1"},
        capabilities=("state:read:*", "state:write:*", "events:emit:*", "view:update:*", "ext:*"),
    )
    outcome = probe(name).run(task).outcome
    if isinstance(outcome, Completed):
        json.loads(outcome.mutations)
        json.loads(outcome.return_value)
        json.loads(outcome.view_commands)
        for event in outcome.events:
            json.loads(event)
    else:
        assert isinstance(outcome, Failed)
        assert outcome.reason in (
            Reason.TRAP,
            Reason.INVALID_RESULT,
            Reason.HANDLER_ERROR,
            Reason.LIMIT_EXCEEDED,
        )


@pytest.mark.parametrize("leaving", ["(call $proc_exit (i32.const 0))", "unreachable"])
def test_handler_that_said_it_fails_has_failed_however_it_leaves(leaving: str) -> None:
    body = (
        "(drop (call $state_set (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 1)))"
        f"(call $fail (i32.const 16) (i32.const 3)) {leaving} (i32.const 0)"
    )
    execution = make_program(body, data={0: "k", 8: "1", 16: "why"}).run(make_task())
    assert isinstance(execution.outcome, Failed)
    assert (execution.outcome.reason, execution.outcome.message) == (Reason.HANDLER_ERROR, "why")
    assert execution.changes == {}


# -- calls that hand over a whole memory -------------------------------------------------------------

_ALL_OF_IT = "(i32.const 0) (i32.mul (memory.size) (i32.const 65536))"


def test_log_and_message_are_cut_before_they_are_decoded() -> None:
    grown = "(drop (memory.grow (i32.const 100)))"
    execution = make_program(f"{grown} (call $log (i32.const 1) {_ALL_OF_IT}) (i32.const 0)").run(make_task())
    assert isinstance(execution.outcome, Completed)
    assert len(execution.outcome.log[0].text) <= make_task().limits.log_bytes
    assert len(execution.outcome.log) == 2
    outcome = make_program(f"{grown} (call $fail {_ALL_OF_IT}) (i32.const 0)").run(make_task()).outcome
    assert isinstance(outcome, Failed)
    assert len(outcome.message) == 4_096


def test_value_above_all_output_is_refused_before_it_is_read() -> None:
    program = make_program(f"(drop (memory.grow (i32.const 100))) (call $result {_ALL_OF_IT}) (i32.const 0)")
    assert failed(program).reason is Reason.LIMIT_EXCEEDED


def test_name_of_a_whole_memory_is_none() -> None:
    body = f"(block (result i32) (drop (memory.grow (i32.const 100))) (call $state_has {_ALL_OF_IT}))"
    assert code(body) == -4


def test_guest_that_calls_its_host_a_lot_lets_the_other_thread_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pause no thread that waits for the interpreter's lock ever gets it in time."""
    now_s, pauses = [100.0], list[float]()
    monkeypatch.setattr(effects, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(effects, "sleep", pauses.append)
    job = effects.Effects(make_task())
    for _ in range(16):
        job.count_call()
    assert pauses == []
    now_s[0] += 0.01
    for _ in range(16):
        job.count_call()
    assert len(pauses) == 1
