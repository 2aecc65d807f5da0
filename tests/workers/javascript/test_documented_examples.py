"""Runs every script in docs/handlers.md: its comments say the state, the arguments and what comes of it.

``// waits:`` are the calls that the script waits for, with their arguments, and ``// answers:`` what they are
answered with; an object with a code is an error.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from panels_shared.messages import Language
from tests.workers.javascript.scripts import failure, value
from tests.workers.javascript.suspensions import Life, bad, good

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
    if (answers := comment(source, "answers:")) is not None:
        check_waiting(source, job["state"], job["args"], json.loads(answers))
        return
    expected, fails = comment(source, "→"), comment(source, "fails:")
    assert (expected is None) != (fails is None), "an example says what comes of it"
    if fails is not None:
        outcome = failure(source, **job)
        reason, _, text = fails.partition(" ")
        assert outcome.reason.value == reason
        assert text in outcome.message
    else:
        assert value(source, **job) == json.loads(expected or "")


def check_waiting(source: str, state: dict[str, Any], args: Any, answers: list[Any]) -> None:
    """Runs a script up to its calls and, with their answers, to its end."""
    life = Life(source, {key: json.dumps(value).encode() for key, value in state.items()}).begin(args)
    shown = " ".join(f"{call.extension}.{call.method} {call.args.decode()}" for call in life.calls)
    assert shown == comment(source, "waits:")
    numbered = zip(life.calls, answers, strict=True)
    life.answer(
        *(
            bad(call.call, **answer)
            if isinstance(answer, dict) and "code" in answer
            else good(call.call, answer)
            for call, answer in numbered
        )
    )
    assert life.returned() == json.loads(comment(source, "→") or "")
