"""Scripts, run in the guest under our host as jobs run them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from panels_shared.messages import Language, Refusal
from panels_shared.outcome import Completed, Failed
from panels_worker.guest.task import Execution
from panels_worker.javascript import prepare
from panels_worker.javascript.engines import QUICKJS, TRANSFORM, compile_engine
from panels_worker.javascript.guest import JavaScriptGuest
from panels_worker.javascript.program import JavaScriptProgram
from panels_worker.javascript.script import decode
from tests.workers.builders import ENGINE, make_task


@cache
def engines() -> dict[str, bytes]:
    """The compiled engines; a second or two, once per process."""
    return {name: compile_engine(name, ENGINE) for name in (QUICKJS, TRANSFORM)}


@cache
def guest() -> JavaScriptGuest:
    """The guest that all programs of the tests share."""
    return JavaScriptGuest.load(ENGINE, engines()[QUICKJS])


@cache
def program(source: str | bytes, language: Language = "javascript", entry: str = "") -> JavaScriptProgram:
    """A prepared handler, loaded."""
    prepared = prepare(language, entry, source.encode() if isinstance(source, str) else source, engines())
    assert isinstance(prepared, bytes), prepared
    return JavaScriptProgram(guest(), decode(prepared))


def refusal(source: str | bytes, language: Language = "javascript") -> Refusal:
    """Why a script is refused."""
    prepared = prepare(language, "", source.encode() if isinstance(source, str) else source, engines())
    assert isinstance(prepared, Refusal), "expected a refusal, and it compiled"
    return prepared


def run(
    source: str | bytes,
    *,
    language: Language = "javascript",
    state: Any = None,
    args: Any = None,
    **task: Any,
) -> Execution:
    """One job."""
    replica = {key: json.dumps(value, separators=(",", ":")).encode() for key, value in (state or {}).items()}
    return program(source, language).run(make_task(state=replica, args=json.dumps(args).encode(), **task))


def value(source: str | bytes, **job: Any) -> Any:
    """What a script returns."""
    outcome = run(source, **job).outcome
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.return_value)


def failure(source: str | bytes, **job: Any) -> Failed:
    """How a script fails."""
    execution = run(source, **job)
    assert isinstance(execution.outcome, Failed), execution.outcome
    assert execution.changes == {}
    return execution.outcome


def changes(source: str | bytes, **job: Any) -> dict[str, Any]:
    """What a script changes, None for a deleted key."""
    execution = run(source, **job)
    assert isinstance(execution.outcome, Completed), execution.outcome
    found = {key: None if text is None else json.loads(text) for key, text in execution.changes.items()}
    told = {mutation["key"]: mutation.get("value") for mutation in json.loads(execution.outcome.mutations)}
    assert found == told
    return found
