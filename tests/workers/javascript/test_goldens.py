"""Images of this build and of others have two verdicts: they load and finish rightly, or they are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panels_shared.outcome import Completed, Failed, Reason
from tests.workers.builders import make_task
from tests.workers.javascript.goldens import FOLDER, GOLDENS, build
from tests.workers.javascript.suspensions import MAY_CALL

IMAGES = sorted(FOLDER.glob("*.image"))


@pytest.mark.parametrize("path", IMAGES, ids=[path.stem for path in IMAGES])
def test_golden_image_loads_in_its_build_and_is_refused_in_others(path: Path) -> None:
    name, _, made_by = path.stem.rpartition("-")
    golden = GOLDENS[name]
    task = make_task(capabilities=MAY_CALL)
    outcome = golden.load().resume(task, path.read_bytes(), golden.after).outcome
    if made_by == build():
        assert isinstance(outcome, Completed), outcome
        assert json.loads(outcome.return_value) == golden.returns
    else:
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.RESUME_FAILED
        assert "another build" in outcome.message


def test_corpus_has_every_handler_in_this_build_and_one_of_another() -> None:
    builds = {
        name: {path.stem.rpartition("-")[2] for path in FOLDER.glob(f"{name}-*.image")} for name in GOLDENS
    }
    remedy = "write them: python -m tests.workers.javascript.goldens"
    assert all(build() in found for found in builds.values()), remedy
    assert any(found - {build()} for found in builds.values())
