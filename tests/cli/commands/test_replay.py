"""`panels replay` against a gateway."""

from __future__ import annotations

from panels_shared.outcome import Failed, Outcome, Reason, Usage
from tests.cli.conftest import Terminal
from tests.support.gateway import Call, Gateway, follow


def test_replay_says_that_the_same_came_of_it(panels: Terminal, panel: str) -> None:
    panels("call", panel, "do", '{"set": {"n": 2}}')
    shown = panels("replay", panel, "1")
    assert shown.code == 0
    assert shown.out == "version 1 of p, by do: completed as before, with 7 fuel and the same effects\n"
    assert panels("replay", panel, "1", "--json").json["equal"] is True
    assert panels("state", panel, "--json").json["seq"] == 1


def test_replay_shows_what_is_not_the_same_and_ends_with_1(
    panels: Terminal, panel: str, gateway: Gateway
) -> None:
    panels("call", panel, "do", '{"set": {"n": 2}}')

    def respond(call: Call) -> Outcome:
        return follow(call._replace(args={"set": {"n": 3}}))

    gateway.respond = respond
    other = panels("replay", panel, "1")
    assert other.code == 1
    assert "not the same again" in other.out
    assert "  ~ mutations[0].value 2 → 3" in other.out.splitlines()
    gateway.respond = lambda call: Failed(Usage(fuel=1), Reason.HANDLER_ERROR, "no\x1b[31m")
    failed = panels("replay", panel, "1")
    assert '  ~ outcome "completed" → "failed"' in failed.out.splitlines()
    assert '  + message "no\\u001b[31m"' in failed.out.splitlines()


def test_replay_of_what_no_trigger_made_is_refused(panels: Terminal, panel: str) -> None:
    refused = panels("replay", panel, "1")
    assert refused.code == 1
    assert "(INVALID_REQUEST)" in refused.err
