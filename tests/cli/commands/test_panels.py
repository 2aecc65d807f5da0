"""`panels ls`, `get`, `state`, `history`, `revert`, `fork` and `rm` against a gateway."""

from __future__ import annotations

from tests.cli.conftest import Terminal


def test_panels_are_listed_page_by_page(panels: Terminal, panel: str) -> None:
    panels("fork", panel, "q")
    assert [found["id"] for found in panels("ls", "--json").json["panels"]] == ["p", "q"]
    first = panels("ls", "--limit", "1")
    assert first.out.splitlines()[0].split() == ["ID", "SEQ", "CLIENTS", "KIND", "TITLE"]
    assert "panels ls --after p" in first.err
    assert [found["id"] for found in panels("ls", "--after", "p", "--json").json["panels"]] == ["q"]


def test_panel_is_shown_with_its_tools(panels: Terminal, panel: str) -> None:
    shown = panels("get", panel)
    assert shown.code == 0
    assert "title    T\n" in shown.out
    assert {"do", "fail", "wait"} <= {line.split(" ")[0] for line in shown.out.splitlines()}
    assert panels("get", panel, "--json").json["id"] == "p"


def test_state_and_history_are_read_and_reverted(panels: Terminal, panel: str) -> None:
    panels("call", panel, "do", '{"set": {"n": 2}, "emit": {"seen": 1}}')
    panels("call", panel, "do", '{"delete": ["n"]}')
    assert panels("state", panel).out == "{}\n"
    assert panels("state", panel, "--seq", "1", "--json").json["state"] == {"n": 2}
    shown = panels("history", panel).out.splitlines()
    assert shown[1].startswith("1 ")
    assert shown[1].endswith("n !seen")
    assert shown[2].endswith("-n")
    assert panels("history", panel, "--since", "1", "--json").json["commits"][0]["seq"] == 2
    assert "--since 1" in panels("history", panel, "--limit", "1").err
    by_key = panels("history", panel, "--key", "n").out.splitlines()
    assert by_key[1].endswith("deleted")
    assert panels("revert", panel, "1").out == "p is at version 3, with the state of version 1\n"
    assert panels("revert", panel, "0", "--json").json["seq"] == 4
    assert panels("state", panel, "--json").json["state"] == {"n": 1}


def test_panel_is_deleted_only_with_a_yes(panels: Terminal, panel: str) -> None:
    asked = panels("rm", panel)
    assert asked.code == 2
    assert "--yes" in asked.err
    assert panels("fork", panel, "q", "--seq", "0").out == "made q from p\n"
    assert panels("rm", "q", "--yes").out == "deleted q\n"
    assert panels("rm", panel, "--yes", "--json").json == {"id": "p", "deleted": True}
    gone = panels("get", panel)
    assert gone.code == 1
    assert "(PANEL_NOT_FOUND)" in gone.err
