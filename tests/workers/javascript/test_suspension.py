"""Handlers that wait for extensions."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panels_shared.limits import MAX_CALLS, MIB
from panels_shared.outcome import Completed, ExtensionCall, Failed, Reason, Suspended
from panels_worker.guest import image as images
from panels_worker.guest.pages import PAGE_BYTES
from panels_worker.javascript.program import JavaScriptProgram
from tests.workers.builders import make_task
from tests.workers.javascript.scripts import guest, program, refusal
from tests.workers.javascript.suspensions import MAY_CALL, Life, bad, begun, good, run_with

GET = 'const r = await $ext.http.get("https://example.org", { accept: "json" }); return r.status;'


def test_await_suspends_with_the_call_and_goes_on_with_its_answer() -> None:
    life = begun(GET)
    assert life.calls == (ExtensionCall(1, "http", "get", b'["https://example.org",{"accept":"json"}]'),)
    assert life.answer(good(1, {"status": 200})).returned() == 200


def test_effects_of_a_segment_leave_with_it() -> None:
    source = """$state.n = 1; $emit("one", 1); $view.focus("v"); $log.info("first"); await $ext.a.b();
      $state.n++; $emit("two", 2); $log.info("second"); return $state.n"""
    life = begun(source, capabilities=(*MAY_CALL, "view:update:*"))
    first = life.last
    assert isinstance(first, Suspended)
    assert json.loads(first.mutations) == [{"op": "set", "key": "n", "value": 1}]
    assert [json.loads(event)["name"] for event in first.events] == ["one"]
    assert json.loads(first.view_commands) == [
        {"viewId": "v", "command": "focus", "params": {"target": None}}
    ]
    assert [line.text for line in first.log] == ["first"]
    assert life.state == {"n": b"1"}
    second = life.answer(good(1)).last
    assert isinstance(second, Completed)
    assert [json.loads(event)["name"] for event in second.events] == ["two"]
    assert (life.state, second.view_commands, len(second.log)) == ({"n": b"2"}, b"[]", 1)


def test_state_time_chance_and_scope_are_those_of_the_segment() -> None:
    source = """const see = () => [$state.n ?? null, $time.now(), Math.random(), $scope.sub, Object.keys($state), Date.now()];
      const before = see(); await $ext.a.b(); return [before, see()]"""
    life = begun(source, scope=b'{"sub":"ada"}', seed=1)
    life.state = {"n": b"5", "late": b"1"}
    life.task.pop("scope")
    before, after = life.answer(good(1), now_ms=7.0, seed=2, scope=b'{"sub":"bob"}').returned()
    assert before[0] is None
    assert (after[0], after[1], after[3], after[4], after[5]) == (5, 7, "bob", ["late", "n"], 7)
    assert before[2] != after[2]
    again = begun(source, scope=b'{"sub":"ada"}', seed=1).answer(good(1), seed=2).returned()
    assert (again[0][2], again[1][2]) == (before[2], after[2])


def test_what_was_read_before_is_not_written_after() -> None:
    source = "const todo = $state.todo; await $ext.a.b(); todo.done = true; return $state.todo"
    life = Life(source, {"todo": b'{"by":"me"}'}).begin()
    life.state = {"todo": b'{"by":"somebody else"}'}
    assert life.answer(good(1)).returned() == {"by": "somebody else"}
    assert life.state == {"todo": b'{"by":"somebody else"}'}


@pytest.mark.parametrize(
    ("source", "answers", "expected"),
    [
        ("return await Promise.all([$ext.a.b(1), $ext.a.b(2)])", [good(2, "y"), good(1, "x")], ["x", "y"]),
        ("return await Promise.race([$ext.a.b(1), $ext.a.b(2)])", [good(2, "y"), good(1, "x")], "y"),
        ("return await Promise.any([$ext.a.b(1), $ext.a.b(2)])", [bad(1), good(2, "y")], "y"),
        (
            "return (await Promise.allSettled([$ext.a.b(1), $ext.a.b(2)])).map((r) => r.status)",
            [bad(1), good(2, "y")],
            ["rejected", "fulfilled"],
        ),
        ("return $ext.a.b(1)", [good(1, {"then": 1})], {"then": 1}),
        ("return [await $ext.a.b(1), await 2]", [good(1)], [None, 2]),
        ("const p = $ext.a.b(); await null; await null; return await p", [good(1, 3)], 3),
    ],
)
def test_promises_are_combined_as_others_are(source: str, answers: list[Any], expected: Any) -> None:
    assert begun(source).answer(*answers).returned() == expected


def test_answers_may_come_one_by_one_and_the_rest_never() -> None:
    life = begun("const f = await Promise.race([$ext.a.b(), $ext.a.c()]); return [f, await $ext.a.d()]")
    life.answer(good(2, "second"))
    assert [call.call for call in life.calls] == [3]
    life.answer(good(3, "third"))
    assert life.returned() == ["second", "third"]
    assert isinstance(life.last, Completed)
    assert "dropped" in life.last.log[-1].text


def test_handler_that_still_waits_is_suspended_again_without_calls() -> None:
    life = begun("return await Promise.all([$ext.a.b(), $ext.a.b()])").answer(good(1, 1))
    assert life.calls == ()
    assert life.answer(good(1, "twice"), good(9, "never made"), good(2, 2)).returned() == [1, 2]


def test_failed_call_throws_an_error_with_code_message_and_place() -> None:
    source = "try { await $ext.a.b() } catch (e) { return [e instanceof Error, e.code, e.message, Object.keys(e)] }"
    assert begun(source).answer(bad(1, "timeout", "late")).returned() == [True, "timeout", "late", ["code"]]
    outcome = begun("const x = 1;\nawait $ext.a.b();").answer(bad(1, "timeout", "late")).failure()
    assert (outcome.reason, outcome.message) == (Reason.HANDLER_ERROR, "late")
    assert outcome.line == 2


def test_rejection_that_is_handled_in_a_later_segment_is_not_lost() -> None:
    source = "const b = $ext.x.b(), a = $ext.x.a(); await a; try { await b } catch (e) { return e.code }"
    assert begun(source).answer(bad(1, "early")).answer(good(2)).returned() == "early"
    source = "const p = Promise.reject(7); await $ext.a.b(); return await p.catch((v) => v)"
    assert begun(source).answer(good(1)).returned() == 7


def test_rejection_that_nobody_ever_handles_fails_the_last_segment() -> None:
    life = begun("$ext.x.b(); await $ext.x.a(); return 1").answer(bad(1, "lost", "is lost"))
    assert life.calls == ()
    assert life.answer(good(2)).failure().message == "is lost"


def test_calls_that_nobody_waits_for_are_dropped_with_a_line_in_the_log() -> None:
    for source in ("$ext.a.b(); return 1", "$ext.a.b(); await null; return 1"):
        life = begun(source)
        assert life.returned() == 1
        assert isinstance(life.last, Completed)
        assert "dropped" in life.last.log[-1].text


def test_handler_that_waits_for_nothing_still_fails() -> None:
    life = begun("await $ext.a.b(); await new Promise(() => {})").answer(good(1))
    assert "never settles" in life.failure().message


@pytest.mark.parametrize(
    ("capabilities", "allowed"),
    [
        (("ext:http",), True),
        (("ext:http.get",), True),
        (("ext:*",), True),
        (("ext:ht*",), True),
        ((), False),
        (("ext:http.post",), False),
        (("ext:htt",), False),
        (("ext:get",), False),
    ],
)
def test_call_needs_a_capability(capabilities: tuple[str, ...], allowed: bool) -> None:
    life = begun(GET, capabilities=capabilities)
    if allowed:
        assert len(life.calls) == 1
    else:
        assert life.failure().reason is Reason.PERMISSION_DENIED
        assert "ext:http" in life.failure().message


def test_denied_call_can_be_caught_and_is_not_made() -> None:
    source = "try { await $ext.no.x() } catch (e) { return [e.name, await $ext.yes.y()] }"
    life = begun(source, capabilities=("ext:yes",))
    assert [call.extension for call in life.calls] == ["yes"]
    assert life.answer(good(1, 1)).returned() == ["PermissionDenied", 1]


@pytest.mark.parametrize(
    ("call", "reason", "words"),
    [
        ("$ext.a.b(NaN)", Reason.INVALID_RESULT, "$ext.a.b[0]"),
        ("$ext.a.b({ f() {} })", Reason.INVALID_RESULT, "$ext.a.b[0].f"),
        ("$ext.a.b(undefined, 1)", Reason.INVALID_RESULT, "$ext.a.b[0]"),
        ("$ext['a.b'].c()", Reason.HANDLER_ERROR, "names of an extension"),
        ("$ext[''].c()", Reason.HANDLER_ERROR, "names of an extension"),
        ("$ext.a['é']()", Reason.HANDLER_ERROR, "names of an extension"),
        ("$ext.a['x'.repeat(65)]()", Reason.HANDLER_ERROR, "names of an extension"),
        ("Promise.all(Array.from({ length: 65 }, () => $ext.a.b()))", Reason.LIMIT_EXCEEDED, "64"),
        ("$ext.a.b('x'.repeat(2 ** 20))", Reason.LIMIT_EXCEEDED, "bytes"),
    ],
)
def test_call_that_is_not_one_fails_where_it_is_made(call: str, reason: Reason, words: str) -> None:
    outcome = begun(f"await {call}").failure()
    assert outcome.reason is reason
    assert words in outcome.message


def test_open_calls_are_bounded_over_all_segments() -> None:
    life = begun("for (;;) await Promise.race(Array.from({ length: 64 }, () => $ext.a.b()))")
    for first in range(1, 4 * MAX_CALLS, MAX_CALLS):
        life.answer(good(first))
    assert life.failure().reason is Reason.LIMIT_EXCEEDED


def test_top_level_of_a_module_cannot_call() -> None:
    refused = refusal("$ext.a.b(); export default () => 1")
    assert "cannot call extensions" in refused.message


def test_answer_that_is_not_json_fails_the_handler() -> None:
    for text, ok in ((b"{", True), (b"", True), (b"NaN", True), (b"1", False), (b'{"code":1}', False)):
        outcome = begun(GET).answer(msgspec.structs.replace(good(1), value=text, ok=ok)).failure()
        assert outcome.reason is Reason.INVALID_RESULT


def test_handler_that_tampers_with_the_world_still_waits() -> None:
    source = """for (const name of ["get", "set", "delete"]) Map.prototype[name] = () => { throw 1 };
      Promise.reject = JSON.parse = undefined; Object.prototype.code = 1;
      try { return await $ext.a.b() } catch (e) { return e.code + (await $ext.a.c()) }"""
    assert begun(source).answer(bad(1, "c")).answer(good(2, "d")).returned() == "cd"


def test_memory_that_grew_comes_along() -> None:
    source = "const a = Array.from({ length: 2e5 }, (_, i) => i * 1.5); await $ext.a.b(); return a.at(-1)"
    life = begun(source)
    assert life.last.usage.memory_used_bytes > 3 * MIB
    assert life.answer(good(1)).returned() == 299998.5


def test_large_answers_leave_nothing_behind() -> None:
    life = begun("for (;;) { const r = await $ext.a.b(); if (r === 'end') return 1 }")
    sizes = []
    for number in range(1, 13):
        life.answer(good(number, "x" * 300_000))
        sizes.append(life.last.usage.memory_used_bytes)
    assert len(set(sizes[2:])) == 1
    assert life.answer(good(13, "end")).returned() == 1


def test_thousand_awaits_cost_what_the_first_ones_did() -> None:
    life = begun("let n = 0; while (n < 1000) { n += (await $ext.a.b(n)).one; $state.n = n } return n")
    run_with(life, lambda call: good(call.call, {"one": 1, "pad": ["x"] * 20}))
    assert life.returned() == 1000
    segments = [outcome for outcome in life.outcomes if isinstance(outcome, Suspended)]
    assert len(segments) == 1000
    early, late = segments[1:11], segments[-10:]
    assert max(s.usage.fuel for s in late) <= 1.2 * min(s.usage.fuel for s in early)
    assert max(len(s.image) for s in late) <= 1.2 * max(len(s.image) for s in early)
    assert late[-1].usage.memory_used_bytes == early[0].usage.memory_used_bytes


def test_handler_that_grows_for_ever_runs_into_its_memory_limit() -> None:
    source = "const kept = []; for (;;) { kept.push(Array.from({ length: 1e5 }, (_, i) => i + 0.5)); await $ext.a.b() }"
    life = begun(source, limits={"memory_bytes": 8 * MIB})
    for number in range(1, 50):
        if isinstance(life.last, Failed):
            break
        life.answer(good(number))
    assert life.failure().reason is Reason.MEMORY_LIMIT


def test_handler_whose_image_is_too_large_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panels_worker.guest.image.MAX_IMAGE_BYTES", 1_000)
    outcome = begun("$state.n = 1; await $ext.a.b()").failure()
    assert outcome.reason is Reason.LIMIT_EXCEEDED
    assert "at most 1000 bytes" in outcome.message


def test_segment_has_fuel_of_its_own() -> None:
    source = "for (let i = 0; i < 5; i++) { for (let j = 0; j < 2000; j++); await $ext.a.b() } return 1"
    whole = sum(outcome.usage.fuel for outcome in run_with(begun(source), lambda c: good(c.call)).outcomes)
    life = run_with(begun(source, limits={"fuel": whole // 3}), lambda call: good(call.call))
    assert life.returned() == 1
    starved = begun("await $ext.a.b(); for (;;);", limits={"fuel": 5_000_000}).answer(good(1)).failure()
    assert (starved.reason, starved.usage.fuel) == (Reason.FUEL_EXHAUSTED, 5_000_000)


def test_image_is_small_and_its_handler_can_go_on_again_and_again() -> None:
    life = begun(GET)
    assert isinstance(life.last, Suspended)
    assert len(life.last.image) <= 32 * 1024
    image = life.last.image
    task = make_task(capabilities=MAY_CALL)
    outcomes = [life.program.resume(task, image, [good(1, {"status": n})]).outcome for n in (1, 2, 1)]
    assert [o.return_value for o in outcomes if isinstance(o, Completed)] == [b"1", b"2", b"1"]


def test_same_handler_elsewhere_takes_the_image() -> None:
    life = begun(GET)
    assert isinstance(life.last, Suspended)
    elsewhere = JavaScriptProgram(guest(), life.program._script)
    outcome = elsewhere.resume(make_task(), life.last.image, [good(1, {"status": 3})]).outcome
    assert isinstance(outcome, Completed)
    assert outcome.return_value == b"3"


def resumed(image: bytes, source: str = GET) -> Failed | Completed | Suspended:
    return program(source).resume(make_task(), image, [good(1, {"status": 1})]).outcome


def suspended_image(source: str = GET) -> bytes:
    outcome = begun(source).last
    assert isinstance(outcome, Suspended)
    return outcome.image


@given(st.data())
@settings(deadline=None)
def test_flipped_bit_never_gets_into_an_instance(data: st.DataObject) -> None:
    image = bytearray(suspended_image())
    image[data.draw(st.integers(0, len(image) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    outcome = resumed(bytes(image))
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.RESUME_FAILED


@given(st.integers(0, 3_000))
@settings(deadline=None)
def test_image_that_is_cut_off_is_refused(length: int) -> None:
    outcome = resumed(suspended_image()[:length])
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.RESUME_FAILED


@given(st.data())
@settings(deadline=None)
def test_forged_heap_harms_nobody(data: st.DataObject) -> None:
    """Whoever forges the digests too gets a broken heap, in a guest that is confined as ever."""
    identity, baseline = program(GET).fits()
    image = images.unpack(suspended_image(), identity, baseline, memory_bytes=32 * MIB)
    runs = [(at, bytearray(page)) for at, page in image.runs]
    for _ in range(data.draw(st.integers(1, 40))):
        _, page = runs[data.draw(st.integers(0, len(runs) - 1))]
        at = data.draw(st.integers(0, len(page) // 4 - 1)) * 4
        page[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    forged = images.Image(
        image.calls_made,
        image.open_calls,
        image.memory_bytes,
        image.globals,
        tuple((at, bytes(page)) for at, page in runs),
    )
    task = make_task(limits={"fuel": 20_000_000})
    program(GET).resume(task, images.pack(forged, identity, baseline), [good(1, {"status": 1})])
    assert begun(GET).answer(good(1, {"status": 5})).returned() == 5


def test_forged_stack_is_refused() -> None:
    identity, baseline = program(GET).fits()
    image = images.unpack(suspended_image(), identity, baseline, memory_bytes=32 * MIB)
    for kept in ((), (0,), (image.globals[0] - PAGE_BYTES,), (2**64 - 1,), (*image.globals, 1)):
        forged = images.Image(image.calls_made, image.open_calls, image.memory_bytes, kept, image.runs)
        outcome = resumed(images.pack(forged, identity, baseline))
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.RESUME_FAILED


@pytest.mark.parametrize("other", ["return 1", GET + " ", "const q = 1; " + GET])
def test_image_of_another_handler_is_refused(other: str) -> None:
    outcome = resumed(suspended_image(), other)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.RESUME_FAILED
    assert "another handler" in outcome.message


def test_image_of_another_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    image = suspended_image()
    monkeypatch.setattr("panels_worker.javascript.suspension.engine_digest", lambda name: b"another")
    outcome = JavaScriptProgram(guest(), program(GET)._script).resume(make_task(), image, [good(1)]).outcome
    assert isinstance(outcome, Failed)
    assert (outcome.reason, "another build" in outcome.message) == (Reason.RESUME_FAILED, True)
