"""Handlers that were suspended in the build of the release before go on after an upgrade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from panels_shared.messages import Tool
from panels_shared.outcome import Completed, Failed, Reason, Suspended
from panels_worker.artifacts import Artifact, ArtifactStore, Kind
from panels_worker.javascript import builds
from panels_worker.javascript.assets import QUICKJS
from panels_worker.javascript.builds import PREVIOUS, carried, frozen, parse, prelude_of
from panels_worker.javascript.engines import compile_engine, engine_digest
from panels_worker.javascript.guest import JavaScriptGuest
from panels_worker.javascript.prelude import prelude
from panels_worker.javascript.program import JavaScriptProgram
from panels_worker.javascript.script import encode
from panels_worker.sandbox.loader import ArtifactLoader
from tests.workers.builders import ENGINE, make_task
from tests.workers.javascript.scripts import engines, guest, program
from tests.workers.javascript.suspensions import MAY_CALL, good

DIGEST = b"d" * 32
#: Waits twice, so that it waits in its old build again after it went on there.
SOURCE = "const a = await $ext.shop.price('x'); const b = await $ext.shop.price('y'); return [a, b]"
OLDER = prelude().replace(b'"use strict";', b'"use strict";\nconst older = [1, 2, 3];', 1)


@pytest.fixture(scope="module")
def older() -> Iterator[bytes]:
    """The compiled guest of an older build, which is carried while this fixture is in use."""
    assert prelude() != OLDER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builds, "previous", lambda: OLDER)
        engine_digest.cache_clear()
        yield compile_engine(PREVIOUS, ENGINE)
    engine_digest.cache_clear()


def older_guest(compiled: bytes) -> JavaScriptGuest:
    return JavaScriptGuest.load(ENGINE, compiled, PREVIOUS)


def suspended(made: JavaScriptProgram) -> bytes:
    outcome = made.run(make_task(capabilities=MAY_CALL)).outcome
    assert isinstance(outcome, Suspended), outcome
    return outcome.image


def finish(made: JavaScriptProgram, image: bytes) -> Completed | Failed | Suspended:
    outcome = made.resume(make_task(capabilities=MAY_CALL), image, [good(1, 1)]).outcome
    if isinstance(outcome, Suspended):
        outcome = made.resume(make_task(capabilities=MAY_CALL), outcome.image, [good(2, 2)]).outcome
    return outcome


def test_image_of_the_build_before_goes_on_in_that_build(older: bytes) -> None:
    script = program(SOURCE)._script
    image = suspended(JavaScriptProgram(older_guest(older), script, DIGEST))
    upgraded = JavaScriptProgram(guest(), script, DIGEST, lambda: older_guest(older))
    outcome = finish(upgraded, image)
    assert isinstance(outcome, Completed), outcome
    assert json.loads(outcome.return_value) == [1, 2]
    # what begins now begins in the present build
    assert isinstance(finish(JavaScriptProgram(guest(), script, DIGEST), suspended(upgraded)), Completed)


def test_image_of_a_build_that_is_not_carried_is_refused(older: bytes) -> None:
    script = program(SOURCE)._script
    image = suspended(JavaScriptProgram(older_guest(older), script, DIGEST))
    for previous in (None, lambda: None, guest):
        outcome = finish(JavaScriptProgram(guest(), script, DIGEST, previous), image)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.RESUME_FAILED
        assert "another build" in outcome.message


def test_image_of_nonsense_is_refused_where_a_build_is_carried(older: bytes) -> None:
    upgraded = JavaScriptProgram(guest(), program(SOURCE)._script, DIGEST, lambda: older_guest(older))
    for image in (b"", b"x" * 40, b"x" * 400):
        outcome = finish(upgraded, image)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.RESUME_FAILED


def test_loader_finds_the_build_before_in_the_store(older: bytes, tmp_path: Path) -> None:
    store = ArtifactStore.create(tmp_path)
    script = program(SOURCE)._script
    store.put(DIGEST, Artifact(Kind.SCRIPT, encode(script)))
    store.put(engine_digest(QUICKJS), Artifact(Kind.MODULE, engines()[QUICKJS]))
    image = suspended(JavaScriptProgram(older_guest(older), script, DIGEST))
    limits = (10**9, 5_000, 1 << 25, 10_000, 1 << 20, 1_000, 1 << 16)
    tool = Tool(1, DIGEST, "javascript", "", "t", limits, ())

    loaded = ArtifactLoader(store).load(tool)
    assert isinstance(loaded, JavaScriptProgram)
    assert isinstance(finish(loaded, image), Failed), "the artifact of the build before is not there yet"

    store.put(engine_digest(PREVIOUS), Artifact(Kind.MODULE, older))
    loaded = ArtifactLoader(store).load(tool)
    assert isinstance(loaded, JavaScriptProgram)
    assert isinstance(finish(loaded, image), Completed)


def test_build_keeps_its_digest_when_it_becomes_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    engine_digest.cache_clear()
    present = engine_digest(QUICKJS)
    released = prelude()
    monkeypatch.setattr(builds, "previous", lambda: released)
    monkeypatch.setattr(builds, "prelude", lambda: released + b"// changed since")
    engine_digest.cache_clear()
    try:
        assert engine_digest(PREVIOUS) == present
        assert engine_digest(QUICKJS) != present
        assert carried() == (QUICKJS, PREVIOUS)
    finally:
        engine_digest.cache_clear()


def test_frozen_prelude_is_carried_once_the_prelude_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, released = frozen(), prelude()
    assert parse(stored) is None, "it is the present build"
    monkeypatch.setattr(builds, "prelude", lambda: b"changed")
    assert parse(stored) == released


@pytest.mark.parametrize(
    "stored", [b"", b"()=>1", b"// for the guest x\n()=>1", b"// for the guest " + b"0" * 64 + b"\n()=>1"]
)
def test_prelude_for_another_engine_is_not_carried(stored: bytes) -> None:
    assert parse(stored) is None


def test_builds_that_are_not_carried_have_no_prelude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "previous", lambda: None)
    assert carried() == (QUICKJS,)
    assert prelude_of(QUICKJS) == prelude()
    for name in (PREVIOUS, "other"):
        with pytest.raises(KeyError):
            prelude_of(name)
