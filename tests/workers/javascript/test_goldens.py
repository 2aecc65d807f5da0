"""Images have two verdicts: those of the builds that are carried finish rightly, and others are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panels_shared.outcome import Completed, Failed, Reason
from tests.workers.builders import make_task
from tests.workers.javascript.goldens import FOLDER, GOLDENS, builds
from tests.workers.javascript.suspensions import MAY_CALL

IMAGES = sorted(FOLDER.glob("*.image"))


@pytest.mark.parametrize("path", IMAGES, ids=[path.stem for path in IMAGES])
def test_golden_image_loads_if_its_build_is_carried_and_is_refused_otherwise(path: Path) -> None:
    name, _, made_by = path.stem.rpartition("-")
    golden = GOLDENS[name]
    task = make_task(capabilities=MAY_CALL)
    outcome = golden.load().resume(task, path.read_bytes(), golden.after).outcome
    if made_by in builds():
        assert isinstance(outcome, Completed), outcome
        assert json.loads(outcome.return_value) == golden.returns
    else:
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.RESUME_FAILED
        assert "another build" in outcome.message


def test_corpus_has_every_handler_in_all_builds_that_are_carried_and_one_of_another() -> None:
    carried = builds()
    made = {
        name: {path.stem.rpartition("-")[2] for path in FOLDER.glob(f"{name}-*.image")} for name in GOLDENS
    }
    remedy = "write them: python -m tests.workers.javascript.goldens"
    assert all(carried <= found for found in made.values()), remedy
    assert any(found - carried for found in made.values())
