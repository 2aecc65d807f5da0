"""Programs from artifacts, and what becomes of a job whose artifact is gone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import wasmtime

from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.messages import Job, Missing, Result, Snapshot, Tool, ToWorker
from panels_shared.outcome import Completed
from panels_worker.artifacts import Artifact, ArtifactStore, Kind
from panels_worker.guest.wasm import WasmProgram
from panels_worker.javascript import prepare
from panels_worker.javascript.engines import QUICKJS, engine_digest
from panels_worker.javascript.program import JavaScriptProgram
from panels_worker.sandbox.loader import ArtifactLoader
from panels_worker.sandbox.replica import Replicas
from panels_worker.sandbox.sandbox import Sandbox
from tests.workers.builders import ENGINE
from tests.workers.javascript.scripts import engines
from tests.workers.modules import GOOD

DIGEST = b"d" * 32
LIMITS = (10**9, 5_000, 1 << 25, 10_000, 1 << 20, 1_000, 1 << 16)
MODULE = Artifact(Kind.MODULE, bytes(wasmtime.Module(ENGINE, GOOD).serialize()))
TOOL = Tool(1, DIGEST, "wasm", "handle", "t", LIMITS, DEFAULT_CAPABILITIES)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.create(tmp_path)


def script(source: str) -> Artifact:
    payload = prepare("javascript", "", source.encode(), engines())
    assert isinstance(payload, bytes)
    return Artifact(Kind.SCRIPT, payload)


def test_loader_loads_a_module(store: ArtifactStore) -> None:
    loader = ArtifactLoader(store)
    assert loader.load(TOOL) is None
    store.put(DIGEST, MODULE)
    assert isinstance(loader.load(TOOL), WasmProgram)


def test_loader_loads_scripts_into_one_guest(store: ArtifactStore) -> None:
    loader = ArtifactLoader(store)
    store.put(DIGEST, script("return 1"))
    assert loader.load(TOOL) is None, "the script engine is not there yet"
    store.put(engine_digest(QUICKJS), Artifact(Kind.MODULE, engines()[QUICKJS]))
    assert isinstance(loader.load(TOOL), JavaScriptProgram)
    guest = loader._guest(QUICKJS)
    assert isinstance(loader.load(TOOL), JavaScriptProgram)
    assert loader._guest(QUICKJS) is guest


@pytest.mark.parametrize("kind", list(Kind))
def test_loader_has_no_program_for_what_does_not_load(store: ArtifactStore, kind: Kind) -> None:
    store.put(engine_digest(QUICKJS), Artifact(Kind.MODULE, engines()[QUICKJS]))
    store.put(DIGEST, Artifact(kind, b"neither a module nor a script"))
    assert ArtifactLoader(store).load(TOOL) is None


def answers(sandbox: Sandbox, *messages: ToWorker) -> list[Result | Missing]:
    sandbox.accept(messages)
    found: list[Result | Missing] = []
    while sandbox.queue:
        answer = sandbox.run_next()
        if answer is not None:
            found.append(answer)
    return found


def job(number: int, index: int) -> Job:
    return Job(number, 1, 1, index, -1, 1, b"{}", b"{}", 0.0, 1)


def test_sandbox_misses_an_artifact_that_was_trimmed_and_runs_it_when_it_is_there_again(
    store: ArtifactStore,
) -> None:
    sandbox = Sandbox(ArtifactLoader(store), replicas=Replicas())
    store.put(DIGEST, MODULE)
    store.trim(max_bytes=0)
    assert answers(sandbox, TOOL, Snapshot(1, 1, {}), job(7, 0)) == [Missing(7, "artifact")]
    store.put(DIGEST, MODULE)
    (result,) = answers(sandbox, job(8, 0))
    assert isinstance(result, Result)
    assert isinstance(result.outcome, Completed)


def test_sandbox_that_has_loaded_a_program_runs_on_when_its_artifact_is_trimmed(
    store: ArtifactStore,
) -> None:
    sandbox = Sandbox(ArtifactLoader(store), replicas=Replicas())
    store.put(DIGEST, MODULE)
    answers(sandbox, TOOL, Snapshot(1, 1, {}), job(1, 0))
    store.trim(max_bytes=0)
    (result,) = answers(sandbox, job(2, 1))
    assert isinstance(result, Result)


def test_sandbox_runs_or_misses_while_the_pool_trims(store: ArtifactStore, tmp_path: Path) -> None:
    done = threading.Event()

    def put_and_trim() -> None:
        while not done.is_set():
            store.put(DIGEST, MODULE)
            done.wait(0.001)
            store.trim(max_bytes=0)

    reader = ArtifactStore.open(tmp_path, store.key)
    sandbox = Sandbox(ArtifactLoader(reader), replicas=Replicas())
    thread = threading.Thread(target=put_and_trim)
    thread.start()
    try:
        answers(sandbox, TOOL, Snapshot(1, 1, {}))
        found: list[Result | Missing] = []
        index = number = 0
        # until both threads have had a turn between the steps of the other
        while number < 400 or not index:
            (answer,) = answers(sandbox, job(number, index))
            found.append(answer)
            index += isinstance(answer, Result)
            number += 1
            sandbox._programs.clear()  # so that the next job loads it again
    finally:
        done.set()
        thread.join()
    assert {answer.what for answer in found if isinstance(answer, Missing)} <= {"artifact"}
    results = [answer for answer in found if isinstance(answer, Result)]
    assert results
    assert all(isinstance(result.outcome, Completed) for result in results)
    assert not sandbox.defect
