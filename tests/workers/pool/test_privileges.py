from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from panels_shared.errors import ConfigError
from panels_worker.pool import privileges
from panels_worker.pool.privileges import admit_group, sandbox_user, system_call_filter
from panels_worker.settings import ConfinementMode, PoolConfig


def config(*, user: str = "nobody", confinement: ConfinementMode = "auto") -> PoolConfig:
    return PoolConfig(
        gateway="ipc:///s", processes=1, cache_dir=Path("/c"), user=user, confinement=confinement
    )


@pytest.fixture
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_sandbox_user_is_the_pools_own_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert sandbox_user(config()) == (-1, -1)


@pytest.mark.usefixtures("_root")
def test_sandbox_user_may_be_a_number_without_an_entry() -> None:
    assert sandbox_user(config(user="123456")) == (123456, 123456)
    assert sandbox_user(config(confinement="off")) == (-1, -1)


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("user", ["root", "0", "no-such-user", "99999999999999999999"])
def test_sandbox_user_refuses_root_and_unknown_users(user: str) -> None:
    with pytest.raises(ConfigError, match=r"give (another )?--user"):
        sandbox_user(config(user=user))


def test_system_call_filter_is_none_where_it_is_off_or_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert system_call_filter(config(confinement="off")) is None
    monkeypatch.setattr(privileges, "build_filter", lambda: b"filter")
    assert system_call_filter(config()) == b"filter"

    def missing() -> bytes:
        raise OSError(38, "libseccomp is not there")

    monkeypatch.setattr(privileges, "build_filter", missing)
    assert system_call_filter(config()) is None


def test_admit_group_lets_a_group_open_files_but_not_list_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    admit_group(tmp_path, -1)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    admit_group(tmp_path, os.getgid())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o710
