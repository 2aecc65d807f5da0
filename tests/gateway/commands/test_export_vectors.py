"""The test vectors of exported panels: files that must come back as they were, and files that must be
refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from panels_gateway.commands.exits import EXIT_DATA
from tests.gateway.commands.builders import command, fill, load, read_json

FILE = Path(__file__).resolve().parents[2] / "vectors" / "panels" / "export.json"
VECTORS: list[dict[str, Any]] = read_json(FILE)


@pytest.mark.parametrize("vector", [v for v in VECTORS if not v["problem"]], ids=lambda v: v["name"])
def test_good_vector_comes_back_as_it_was(tmp_path: Path, vector: dict[str, Any]) -> None:
    fill(tmp_path / "data")
    (tmp_path / "in.json").write_text(json.dumps(vector["export"]))
    assert command(tmp_path / "data", "import", tmp_path / "in.json") == 0
    assert load(tmp_path / "data", vector["export"]["id"]) is not None
    assert command(tmp_path / "data", "export", vector["export"]["id"], tmp_path / "out.json") == 0
    # the epoch and the time are the new panel's own
    own = {name: vector["export"][name] for name in ("epoch", "createdMs")}
    found = read_json(tmp_path / "out.json")
    assert found["epoch"] != own["epoch"]
    assert {**found, **own} == vector["export"]


@pytest.mark.parametrize("vector", [v for v in VECTORS if v["problem"]], ids=lambda v: v["name"])
def test_bad_vector_is_refused_with_its_sentence(
    tmp_path: Path, vector: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "data")
    (tmp_path / "in.json").write_text(json.dumps(vector["export"]))
    assert command(tmp_path / "data", "import", tmp_path / "in.json") == EXIT_DATA
    assert vector["problem"] in capsys.readouterr().err
