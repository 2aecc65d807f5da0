"""The counter in C and in AssemblyScript does what the one in WebAssembly text does, through a real gateway and worker."""

from __future__ import annotations

import base64
import os
import subprocess
from typing import Any

import pytest

from tests.integration.guests import ROOT
from tests.support.system import System

LANGUAGES = ("c", "assemblyscript")
TOOLCHAIN_MISSING = 3


@pytest.fixture(scope="module", params=LANGUAGES)
def guest(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A tool ``count`` whose module was built just now. Skips without a toolchain, but where that must be there."""
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


@pytest.mark.timeout(300)
def test_counter_does_what_the_one_in_text_does(system: System, guest: dict[str, Any]) -> None:
    asks: list[object] = [{}, {"by": 5}, {"note": "by", "by": 3}, None, {"by": 1234567}]
    found = []
    text = (ROOT / "examples" / "wat" / "increment.wat").read_text()
    for tool in ({"name": "count", "handler": {"language": "wat", "source": text}}, guest):
        panel = system.make_panel(tool, state={"count": 10})
        with system.connect(panel) as client:
            answers = [client.trigger("count", args) for args in asks]
        found.append(
            [
                (
                    answer.value,
                    answer.result["stateMutations"],
                    [event["name"] for event in answer.result["events"]],
                )
                for answer in answers
            ]
        )
        assert system.state(panel) == {"count": answers[-1].value}
    assert found[0] == found[1]
    assert found[0][-1][0] == 10 + 1 + 5 + 3 + 1 + 1234567


def test_counter_begins_where_there_is_none(system: System, guest: dict[str, Any]) -> None:
    panel = system.make_panel(guest)
    with system.connect(panel) as client:
        assert [client.call("count") for _ in range(3)] == [1, 2, 3]


def test_counter_that_fails_says_why_and_changes_nothing(system: System, guest: dict[str, Any]) -> None:
    state = {"count": 12345678901234567890}
    panel = system.make_panel(guest, state=state)
    with system.connect(panel) as client:
        answer = client.trigger("count")
        assert answer.reason == "HANDLER_ERROR"
        assert "expected a count of at most 16 digits" in answer.final["message"]
    assert system.state(panel) == state
