"""Runs every script in docs/handlers.md: its comments say the state, the arguments and what comes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import cast

import pytest

from panels_shared.messages import Language
from tests.workers.javascript.scripts import failure, value

DOCUMENT = Path(__file__).parents[3] / "docs" / "handlers.md"
EXAMPLES = re.findall(r"```(js|ts)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def comment(source: str, name: str) -> str | None:
    match = re.search(rf"^// {name} (.*)$", source, re.MULTILINE)
    return match[1] if match else None


@pytest.mark.parametrize(("language", "source"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_documented_example_does_what_it_says(language: str, source: str) -> None:
    job = {
        "language": cast(Language, {"js": "javascript", "ts": "typescript"}[language]),
        "state": json.loads(comment(source, "state:") or "{}"),
        "args": json.loads(comment(source, "args:") or "null"),
    }
    expected, fails = comment(source, "→"), comment(source, "fails:")
    assert (expected is None) != (fails is None), "an example says what comes of it"
    if fails is not None:
        outcome = failure(source, **job)
        reason, _, text = fails.partition(" ")
        assert outcome.reason.value == reason
        assert text in outcome.message
    else:
        assert value(source, **job) == json.loads(expected or "")
