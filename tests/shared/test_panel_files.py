"""Panel folders on disk: which there are, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from panels_shared import panel_files
from panels_shared.panel_folder import FolderError


def test_panel_folders_are_found_but_not_in_hidden_ones_nor_within_each_other(tmp_path: Path) -> None:
    for name in ("b", "a/c", "a/c/inner", ".hidden", "node_modules/x", "empty"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        if name != "empty":
            (tmp_path / name / "panel.toml").write_text("")
    assert panel_files.panel_folders(tmp_path) == [tmp_path / "a/c", tmp_path / "b"]
    (tmp_path / "panel.toml").write_text("")
    assert panel_files.panel_folders(tmp_path) == [tmp_path]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert panel_files.panel_folders(tmp_path) == []


def test_too_many_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_files, "MAX_FOLDERS", 1)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "panel.toml").write_text("")
    with pytest.raises(FolderError, match="expected at most 1 panel folders"):
        panel_files.panel_folders(tmp_path)


def test_empty_file_is_refused_where_files_may_be_half_written(tmp_path: Path) -> None:
    (tmp_path / "panel.toml").write_text('id = "p"\nkind = "k"\n[tools.a]\nhandler = "a.js"\n')
    (tmp_path / "a.js").write_text("\n")
    assert panel_files.load(tmp_path).id == "p"
    with pytest.raises(FolderError, match=r"^p/a\.js: expected something in it"):
        panel_files.load(tmp_path, shown=Path("p"), filled=True)


def test_broken_toml_is_shown_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "panel.toml").write_text("id = \"p\"\nkind 'k'\n")
    with pytest.raises(FolderError, match=r"^p/panel\.toml:2:6: expected TOML: ") as caught:
        panel_files.load(tmp_path, shown=Path("p"))
    assert caught.value.snippet == ("kind 'k'", "     ^")


def test_file_outside_is_not_read_through_a_link(tmp_path: Path) -> None:
    base = tmp_path / "p"
    base.mkdir()
    (tmp_path / "secret").write_text("s")
    (base / "a.js").symlink_to(tmp_path / "secret")
    (base / "loop.js").symlink_to("loop.js")
    (base / "b.js").write_text("12")
    (base / "d.js").mkdir()
    assert panel_files.read_file(base, "b.js", 2) == b"12"
    for name, maximum, said in (
        ("a.js", 9, "leads out"),
        ("b.js", 1, "at most 1 bytes"),
        ("d.js", 9, "expected a file"),
        ("c.js", 9, "found none"),
        ("loop.js", 9, "loop.js: "),
    ):
        with pytest.raises(FolderError, match=said):
            panel_files.read_file(base, name, maximum)
    with pytest.raises(FolderError, match=f"^{tmp_path}/p/panel.toml: "):
        panel_files.load(base)
