"""The key that seals handlers that wait: made once, kept from others, and never taken for another."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from panels_gateway.journal.journal import CorruptError, JournalError
from panels_gateway.journal.opening import SEAL_KEY_BYTES, load_seal_key


def test_seal_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    made = load_seal_key(tmp_path)
    assert len(made) == SEAL_KEY_BYTES
    assert load_seal_key(tmp_path) == made
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_seal_key_that_was_half_written_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "seal.new").write_bytes(b"half")
    assert len(load_seal_key(tmp_path)) == SEAL_KEY_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["seal.key"]


def test_seal_keys_differ(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert load_seal_key(tmp_path / "a") != load_seal_key(tmp_path / "b")


def test_seal_key_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "seal.key").write_bytes(b"short")
    with pytest.raises(CorruptError, match="expected 32 bytes, got 5"):
        load_seal_key(tmp_path)


def test_seal_key_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="expected a key that can be read, got: No such file"):
        load_seal_key(tmp_path / "missing")
