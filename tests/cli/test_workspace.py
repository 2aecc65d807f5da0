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


@pytest.mark.parametrize(
    ("folder", "name"), [("/x/shop", "up-shop"), ("/x/my shop", "up-my-shop"), ("/", "up")]
)
def test_context_name_is_a_name(folder: str, name: str) -> None:
    assert workspace.context_name(Path(folder)) == name
