"""The keeper of compile children, with real ones."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from panels_shared.handlers import handler_digest
from panels_shared.messages import Language, Prepare, Refusal
from panels_worker.artifacts import ArtifactStore
from panels_worker.compiling.child import TIMEOUT_S
from panels_worker.compiling.compiler import Compiler
from panels_worker.javascript.engines import QUICKJS, engine_digest

WAT = """(module (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 0))
  (func (export "handle") (param i32 i32) (result i32) (i32.const %d)))"""
#: Later than any deadline.
MUCH_LATER_S = 10_000.0


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.create(tmp_path / "cache")


@pytest.fixture
def compiler(store: ArtifactStore) -> Iterator[Compiler]:
    compiler = Compiler(store)
    yield compiler
    compiler.close()


def prepare(source: str, language: Language = "wat") -> Prepare:
    data = source.encode()
    return Prepare(handler_digest(language, "handle", data), language, "handle", data)


def await_answers(compiler: Compiler, count: int = 1) -> list[tuple[bytes, Refusal | None]]:
    answers = compiler.collect(0.0)
    give_up_s = time.monotonic() + 40
    while len(answers) < count:
        assert time.monotonic() < give_up_s
        select.select(compiler.filenos(), [], [], 5)
        answers += compiler.collect(0.0)
    return answers


def test_handler_is_compiled_into_the_store(compiler: Compiler, store: ArtifactStore) -> None:
    request = prepare(WAT % 0)
    compiler.submit(request, 0.0)

    assert await_answers(compiler) == [(request.digest, None)]
    assert store.get(request.digest) is not None


def test_handler_that_is_there_is_answered_at_once(compiler: Compiler) -> None:
    request = prepare(WAT % 0)
    compiler.submit(request, 0.0)
    await_answers(compiler)
    compiler.submit(request, 0.0)

    assert compiler.filenos() == []
    assert compiler.collect(0.0) == [(request.digest, None)]


def test_refusal_is_remembered(compiler: Compiler) -> None:
    request = prepare("(module (nonsense))")
    compiler.submit(request, 0.0)
    first = await_answers(compiler)
    compiler.submit(request, 0.0)

    assert compiler.filenos() == []
    assert compiler.collect(0.0) == first
    assert isinstance(first[0][1], Refusal)
    assert first[0][1].code == "syntax"


def test_child_that_was_given_no_cpu_is_not_held_against_its_handler(compiler: Compiler) -> None:
    """On a busy machine the wall clock says nothing of a handler; a refusal that is remembered would be for
    ever.
    """
    request = prepare(WAT % 0)
    compiler.submit(request, 0.0)
    assert compiler.next_deadline() == TIMEOUT_S

    [(digest, refusal)] = compiler.collect(MUCH_LATER_S)
    assert digest == request.digest
    assert refusal is not None
    assert refusal.code == "unavailable"

    compiler.submit(request, 0.0)
    assert await_answers(compiler) == [(request.digest, None)]


def test_engine_may_take_longer_than_a_handler(compiler: Compiler) -> None:
    """Handlers wait for it meanwhile; those that need none are served."""
    script, module = prepare("return 1", "javascript"), prepare(WAT % 0)
    compiler.submit(script, 0.0)
    deadline_s = compiler.next_deadline()
    assert deadline_s is not None
    assert deadline_s > 10 * TIMEOUT_S
    compiler.submit(module, 0.0)

    assert sorted(await_answers(compiler, 2)) == sorted([(script.digest, None), (module.digest, None)])


def test_artifact_that_cannot_be_written_is_not_held_against_its_handler(
    compiler: Compiler, tmp_path: Path
) -> None:
    request = prepare(WAT % 0)
    compiler.submit(request, 0.0)
    (tmp_path / "cache").rename(tmp_path / "gone")
    [(_, refusal)] = await_answers(compiler)
    (tmp_path / "gone").rename(tmp_path / "cache")
    compiler.submit(request, 0.0)

    assert refusal is not None
    assert refusal.code == "unavailable"
    assert await_answers(compiler) == [(request.digest, None)]


def test_engine_that_somebody_removed_is_written_again(compiler: Compiler, store: ArtifactStore) -> None:
    """Without it every sandbox would miss the script, however often that is prepared."""
    script = prepare("return 1", "javascript")
    compiler.submit(script, 0.0)
    await_answers(compiler)
    store.trim(keep={script.digest}, max_bytes=0)
    assert not store.holds(engine_digest(QUICKJS))
    compiler.submit(script, 0.0)

    assert compiler.collect(0.0) == [(script.digest, None)]
    assert store.get(engine_digest(QUICKJS)) is not None


def test_handlers_above_the_bound_are_refused_for_now(store: ArtifactStore) -> None:
    compiler = Compiler(store, max_children=0, max_waiting=1)
    compiler.submit(prepare(WAT % 0), 0.0)
    compiler.submit(prepare(WAT % 0), 0.0)
    assert compiler.collect(0.0) == []
    compiler.submit(prepare(WAT % 1), 0.0)
    [(_, refusal)] = compiler.collect(0.0)
    assert refusal is not None
    assert refusal.code == "unavailable"
    compiler.close()


def test_handler_that_nobody_waits_for_is_abandoned_and_can_be_asked_for_again(compiler: Compiler) -> None:
    requests = [prepare(WAT % number) for number in range(4)]
    for request in requests:
        compiler.submit(request, 0.0)
    compiler.abandon(requests[0].digest)  # it runs
    compiler.abandon(requests[3].digest)  # it waits
    compiler.abandon(b"unknown")
    found = dict(await_answers(compiler, 4))
    codes = {digest: refusal.code for digest, refusal in found.items() if refusal is not None}
    assert codes == {requests[0].digest: "abandoned", requests[3].digest: "abandoned"}
    compiler.submit(requests[0], 0.0)
    assert await_answers(compiler) == [(requests[0].digest, None)]


def test_cost_is_the_cpu_time_of_the_child_and_told_once(compiler: Compiler) -> None:
    request = prepare(WAT % 0)
    compiler.submit(request, 0.0)
    await_answers(compiler)
    assert 0 < compiler.take_cost_ms(request.digest) < 60_000
    assert compiler.take_cost_ms(request.digest) == 0
    compiler.submit(request, 0.0)
    await_answers(compiler)
    assert compiler.take_cost_ms(request.digest) == 0  # it was known
