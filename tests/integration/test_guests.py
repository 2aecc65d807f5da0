"""The counter in C and in AssemblyScript does what the one in WebAssembly text does, through a
real gateway and worker.
"""

from __future__ import annotations

import base64
import os
import subprocess
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from tests.integration.guests import ROOT
from tests.support.system import System

LANGUAGES = ("c", "assemblyscript")
TOOLCHAIN_MISSING = 3


@pytest.fixture(scope="module", params=LANGUAGES)
def guest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A tool ``count`` whose module was built just now.

    Skips without a toolchain, but where that must be there.
    """
    built = subprocess.run(
        [ROOT / "scripts" / "build-examples", request.param], capture_output=True, text=True, timeout=300
    )
    if built.returncode == TOOLCHAIN_MISSING and os.environ.get("CI_TOOLCHAIN") != "1":
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    module = (ROOT / "build" / "examples" / f"{request.param}.wasm").read_bytes()
    return {
        "name": "count",
        "handler": {"language": "wasm", "source": base64.b64encode(module).decode()},
    }


@dataclass(frozen=True)
class Case:
    """What a panel begins with, and what its tool may do and is asked."""

    asks: tuple[object, ...] = ({},)
    state: dict[str, Any] = field(default_factory=dict)
    capabilities: tuple[str, ...] | None = None


WHOLE = "expected count to be a whole number of at most 16 characters"
CASES = {
    "counts": Case(
        asks=(
            {},
            {"by": 5},
            {"note": "by", "by": 3},
            None,
            {"by": 1234567},
            {"by": -2000000},
            [],
            {"by": "x"},
        ),
        state={"count": 10, "other": "stays"},
    ),
    "begins": Case(asks=({}, {}, {"by": 2})),
    "goes_below_zero": Case(asks=({"by": -1}, {"by": -9}, {"by": 20}), state={"count": 0}),
    "counts_far": Case(state={"count": 1234567890123456}, asks=({"by": 1}, {"by": 9007199254740993})),
    "takes_large_arguments": Case(asks=({"text": "x" * 200_000, "by": 7},)),
    "too_long": Case(state={"count": 12345678901234567890}),
    "not_a_number": Case(state={"count": "ten"}),
    "not_whole": Case(state={"count": 1.5}),
    "may_not_read": Case(state={"count": 1}, capabilities=("state:write:*", "events:emit:*")),
    "may_not_write": Case(state={"count": 1}, capabilities=("state:read:*", "events:emit:*")),
    "may_not_emit": Case(state={"count": 1}, capabilities=("state:read:*", "state:write:*")),
}


def play(system: System, tool: dict[str, Any], case: Case) -> list[object]:
    """What the tool answers to all that it is asked, and the state that it leaves."""
    if case.capabilities is not None:
        tool = {**tool, "capabilities": list(case.capabilities)}
    panel = system.make_panel(tool, state=case.state)
    found: list[object] = []
    with system.connect(panel) as client:
        for args in case.asks:
            answer = client.trigger("count", args)
            if answer.final["type"] == "RESULT":
                events = [(event["name"], event["payload"]) for event in answer.result["events"]]
                found.append((answer.value, answer.result["stateMutations"], events))
            else:
                found.append((answer.reason, answer.final["message"]))
    return [*found, system.state(panel)]


@pytest.fixture(scope="module")
def text() -> dict[str, Any]:
    """The same tool as WebAssembly text."""
    source = (ROOT / "examples" / "wat" / "increment.wat").read_text()
    return {"name": "count", "handler": {"language": "wat", "source": source}}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_counter_does_what_the_one_in_text_does(
    system: System, guest: dict[str, Any], text: dict[str, Any], name: str
) -> None:
    assert play(system, guest, CASES[name]) == play(system, text, CASES[name])


@pytest.mark.timeout(300)
def test_counter_adds_what_it_is_asked_to(system: System, guest: dict[str, Any]) -> None:
    case = Case(asks=({}, {"by": 5}), state={"count": 10})
    assert play(system, guest, case) == [
        (11, [{"op": "set", "key": "count", "value": 11}], [("incremented", 11)]),
        (16, [{"op": "set", "key": "count", "value": 16}], [("incremented", 16)]),
        {"count": 16},
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("too_long", WHOLE),
        ("not_a_number", WHOLE),
        ("not_whole", WHOLE),
        ("may_not_read", WHOLE),
        ("may_not_write", "expected to be allowed to set count"),
    ],
)
def test_counter_that_fails_says_why_and_changes_nothing(
    system: System, guest: dict[str, Any], name: str, why: str
) -> None:
    (reason, message), state = cast("list[Any]", play(system, guest, CASES[name]))
    assert reason == "HANDLER_ERROR"
    assert why in message
    assert state == CASES[name].state
