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


def test_file_outside_is_not_read_through_a_link(tmp_path: Path) -> None:
    base = tmp_path / "p"
    base.mkdir()
    (tmp_path / "secret").write_text("s")
    (base / "a.js").symlink_to(tmp_path / "secret")
    (base / "loop.js").symlink_to("loop.js")
    (base / "b.js").write_text("12")
    (base / "d.js").mkdir()
    assert folder_files.read_file(base, "b.js", 2) == b"12"
    for name, maximum, said in (
        ("a.js", 9, "leads out"),
        ("b.js", 1, "at most 1 bytes"),
        ("d.js", 9, "expected a file"),
        ("c.js", 9, "found none"),
        ("panel.toml", 9, "panels init"),
        ("loop.js", 9, "loop.js: "),
    ):
        with pytest.raises(UsageError, match=said):
            folder_files.read_file(base, name, maximum)
    with pytest.raises(UsageError, match=f"^{tmp_path}/p/panel.toml: "):
        folder_files.load(base)
