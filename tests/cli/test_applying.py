"""The plan for a folder: what differs, and what is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_cli.applying import ToolChange, explained, plan
from panels_cli.faults import RefusedError
from panels_shared import panel_folder as folder
from panels_shared.panel_folder import FINGERPRINT, Folder

TOML = b"""\
id = "p"
kind = "k"
[tools.a]
handler = "a.js"
limits = { fuel = 5 }
"""


def loaded(toml: bytes = TOML, source: bytes = b"1") -> Folder:
    return folder.load(lambda name, maximum: toml if name == "panel.toml" else source)


def shown(found: Folder, **changes: Any) -> dict[str, Any]:
    """The panel as the gateway shows it after the folder was applied."""
    tool = {
        "name": "a",
        "description": None,
        "digest": found.tools[0].digest,
        "exclusive": False,
        "capabilities": list(found.tools[0].fields["capabilities"]),
        "trigger": {"type": "manual"},
        "limits": {"fuel": 5, "timeoutMs": 1000},
        "quota": None,
        **changes,
    }
    return {"kind": "k", "title": None, "tools": [tool], "metadata": {FINGERPRINT: found.fingerprint}}


def test_missing_panel_is_made_and_an_equal_one_left_alone() -> None:
    found = loaded()
    made = plan(found, None)
    assert (made.method, made.body) == ("POST", found.made)
    assert made.tools == (ToolChange("a", "added", new_digest=found.tools[0].digest),)
    assert plan(found, shown(found)).method is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("digest", "00"),
        ("description", "d"),
        ("exclusive", True),
        ("capabilities", []),
        ("trigger", {"type": "mount"}),
        ("limits", {"fuel": 6}),
    ],
)
def test_each_field_that_differs_is_named(name: str, value: object) -> None:
    (change,) = plan(loaded(), shown(loaded(), **{name: value})).tools
    assert change.verdict == "changed"
    assert change.fields == (() if name == "digest" else (name,))


def test_tools_that_only_the_panel_has_are_removed() -> None:
    found = loaded()
    panel = shown(found)
    panel["tools"].append({"name": "b", "digest": "ff"})
    assert plan(found, panel).removed == ("b",)


def test_line_that_was_taken_out_is_noticed_by_the_fingerprint() -> None:
    before, after = loaded(), loaded(TOML.replace(b"limits = { fuel = 5 }\n", b""))
    changed = plan(after, shown(before))
    assert (changed.method, changed.fields, changed.tools) == ("PUT", ("settings",), ())
    assert "limits" not in json.loads(changed.body)["tools"][0]


def test_kind_and_title_are_compared() -> None:
    found = loaded()
    assert plan(found, {**shown(found), "kind": "other", "title": "T"}).fields == ("kind", "title")


def test_errors_name_file_and_tool() -> None:
    refused = RefusedError("INVALID_HANDLER", "broken", {"tool": "a", "line": 2, "column": 3})
    assert str(explained(loaded(), "d", refused)).startswith("d/a.js:2:3: broken")
    named = RefusedError("INVALID_REQUEST", "tools[0].limits: no; tools[7]: no")
    assert str(explained(loaded(), "d", named)).startswith("d/panel.toml: tools.a.limits: no; tools[7]: no")
    other = RefusedError("FORBIDDEN", "no")
    assert explained(loaded(), "d", other) is other
