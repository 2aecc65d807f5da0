"""`panels init` and `panels apply` against a gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import FOLDER, Terminal


def test_second_apply_sends_nothing(panels: Terminal, panel: str, folder: Path) -> None:
    again = panels("apply", str(folder), "--json").json
    assert (again["request"], again["applied"], again["tools"]) == (None, False, [])
    assert panels("apply", str(folder)).out == "p is as the folder says\n"


def test_change_is_shown_and_sent_and_the_state_stays(panels: Terminal, panel: str, folder: Path) -> None:
    panels("call", panel, "do", '{"set": {"n": 9}}')
    (folder / "do.js").write_text("return 2;\n")
    shown = panels("apply", str(folder), "--dry-run")
    assert "  ~ do  " in shown.out
    assert "up to date" not in shown.out
    assert panels("apply", str(folder)).out.endswith("p is up to date now\n")
    assert panels("state", panel, "--json").json["state"] == {"n": 9}
    assert panels("apply", str(folder), "--json").json["request"] is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('title = "T"', 'title = "U"'),
        ('capabilities = ["ext:human"]', ""),
        ("[initialState]", "[metadata]\na = 1\n[initialState]"),
        ("[tools.fail]", "limits = { fuel = 1000 }\n[tools.fail]"),
    ],
)
def test_every_setting_is_noticed_there_and_back(
    panels: Terminal, panel: str, folder: Path, old: str, new: str
) -> None:
    for text in (FOLDER.replace(old, new), FOLDER):
        (folder / "panel.toml").write_text(text)
        changed = panels("apply", str(folder), "--json").json
        assert (changed["request"], changed["applied"]) == ("PUT", True)
        assert panels("apply", str(folder), "--json").json["request"] is None


def test_tools_are_removed_only_by_prune(panels: Terminal, panel: str, folder: Path) -> None:
    (folder / "panel.toml").write_text(FOLDER.split("[tools.fail]")[0])
    refused = panels("apply", str(folder))
    assert refused.code == 1
    assert "fail, wait; --prune removes them" in refused.err
    assert panels("apply", str(folder), "--prune").code == 0
    assert [tool["name"] for tool in panels("get", panel, "--json").json["tools"]] == ["do"]


def test_refused_definition_names_file_and_tool(panels: Terminal, panel: str, folder: Path) -> None:
    (folder / "panel.toml").write_text(FOLDER + "limits = { fuel = 0 }\n")
    refused = panels("apply", str(folder))
    assert refused.code == 1
    assert f"{folder}/panel.toml: tools.wait.limits.fuel: expected" in refused.err


@pytest.mark.parametrize("template", ["js", "ts", "wasm"])
def test_new_folder_can_be_applied(panels: Terminal, url: str, tmp_path: Path, template: str) -> None:
    path = tmp_path / f"new-{template}"
    assert panels("init", str(path), "--template", template, "--json").json["files"][0] == "panel.toml"
    assert panels("apply", str(path)).code == 0
    assert panels("init", str(path)).code == 2
