"""`panels suspensions` against a gateway with a handler that waits."""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.cli.conftest import ISSUER, Terminal
from tests.support.system import eventually
from tests.support.waiting import ASK

SCRIPT = {"calls": [list(ASK)], "then": {"set": {"done": True}}}


@pytest.fixture
def waiting(panels: Terminal, panel: str, url: str) -> str:
    """The id of a suspension of p."""
    headers = {"authorization": f"Bearer {ISSUER.mint()}"}

    def trigger() -> None:
        httpx.post(f"{url}/panels/p/trigger/wait", json={"args": SCRIPT}, headers=headers, trust_env=False)

    threading.Thread(target=trigger, daemon=True).start()
    found = eventually(lambda: panels("suspensions", "ls", panel, "--json").json["suspensions"])
    return str(found[0]["id"])


def test_question_is_listed_and_answered_once(panels: Terminal, panel: str, waiting: str) -> None:
    listed = panels("suspensions", "ls", panel)
    assert waiting in listed.out
    assert "human.ask" in listed.out
    assert panels("suspensions", "answer", panel, waiting, "nonsense").code == 2
    assert (
        panels("suspensions", "answer", panel, waiting, '"yes"', "--call", "1").out == f"answered {waiting}\n"
    )
    again = panels("suspensions", "answer", panel, waiting, '"yes"', "--json")
    assert again.code == 1


def test_handler_is_cancelled_only_with_a_yes(panels: Terminal, panel: str, waiting: str) -> None:
    assert panels("suspensions", "cancel", panel, waiting).code == 2
    assert panels("suspensions", "cancel", panel, waiting, "--yes").out == f"cancelled {waiting}\n"
    assert panels("suspensions", "ls", panel, "--json").json["suspensions"] == []
