"""Which modes expose a secret."""

from __future__ import annotations

import pytest

from panels_shared.keyfiles import exposure


@pytest.mark.parametrize("mode", [0o100600, 0o100400, 0o100640, 0o100660])
def test_file_of_owner_and_group_is_not_exposed(mode: int) -> None:
    assert exposure(mode, option="jwt-secret-file", path="/s") is None


@pytest.mark.parametrize("mode", [0o100644, 0o100604, 0o100444])
def test_file_that_everybody_can_read_is_named_with_what_to_do(mode: int) -> None:
    text = exposure(mode, option="jwt-secret-file", path="/s")
    assert text is not None
    assert text.startswith("jwt-secret-file: expected a file that only its owner can read")
    assert f"{mode & 0o777:03o}" in text
    assert text.endswith("chmod 600 /s")
