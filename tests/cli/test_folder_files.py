"""Files of a folder on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from panels_cli import folder_files
from panels_cli.faults import UsageError
from panels_cli.folder_files import Template


@pytest.mark.parametrize("template", ["js", "ts", "wasm"])
def test_new_folder_can_be_loaded(tmp_path: Path, template: Template) -> None:
    path = tmp_path / "n"
    assert folder_files.create(path, template)[0] == "panel.toml"
    loaded = folder_files.load(path)
    assert loaded.id == "n"
    assert [tool.name for tool in loaded.tools] == ["add"]
    with pytest.raises(UsageError, match="there already"):
        folder_files.create(path, template)


def test_names_and_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a name"):
        folder_files.create(tmp_path / "a b", "js")
    with pytest.raises(UsageError, match="cannot be made"):
        folder_files.create(tmp_path / "no" / "n", "js")


def test_folder_without_a_definition_names_the_file_and_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path}/panel.toml: .*found none; panels init NAME makes"):
        folder_files.load(tmp_path)
