"""The hidden folder of `panels up`, and the panel folders below the folder that it was given."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from panels_cli import workspace
from panels_cli.faults import UsageError


def test_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    with workspace.opened(tmp_path) as space:
        secret = space.secret()
        assert len(secret) >= 32
        assert space.secret() == secret
        assert stat.S_IMODE(space.secret_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(space.hidden.stat().st_mode) == 0o700
        assert (space.hidden / ".gitignore").read_text() == "*\n"
    with workspace.opened(tmp_path) as space:
        assert space.secret() == secret


def test_second_one_in_the_same_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with workspace.opened(tmp_path), pytest.raises(UsageError, match=r"there already, as process \d+"):
        workspace.opened(tmp_path).__enter__()
    with workspace.opened(tmp_path):
        pass


def test_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder that can be read: No such file"):
        workspace.opened(tmp_path / "none").__enter__()


def test_file_in_the_hidden_folders_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / workspace.HIDDEN).write_text("")
    with pytest.raises(UsageError, match="expected a folder to write to"):
        workspace.opened(tmp_path).__enter__()


def test_panel_folders_are_found_but_not_in_hidden_ones_nor_within_each_other(tmp_path: Path) -> None:
    for name in ("b", "a/c", "a/c/inner", ".hidden", "node_modules/x", "empty"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        if name != "empty":
            (tmp_path / name / "panel.toml").write_text("")
    assert workspace.panel_folders(tmp_path, "panel.toml") == [tmp_path / "a/c", tmp_path / "b"]
    (tmp_path / "panel.toml").write_text("")
    assert workspace.panel_folders(tmp_path, "panel.toml") == [tmp_path]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert workspace.panel_folders(tmp_path, "panel.toml") == []


def test_too_many_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "MAX_FOLDERS", 1)
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "panel.toml").write_text("")
    with pytest.raises(UsageError, match="expected at most 1 panel folders"):
        workspace.panel_folders(tmp_path, "panel.toml")


@pytest.mark.parametrize(
    ("folder", "name"), [("/x/shop", "up-shop"), ("/x/my shop", "up-my-shop"), ("/", "up")]
)
def test_context_name_is_a_name(folder: str, name: str) -> None:
    assert workspace.context_name(Path(folder)) == name
