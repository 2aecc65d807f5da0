"""The gateway's bus key: made, kept, refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from panels_gateway.bus.keyfile import load_bus_key
from panels_gateway.configuration.config import WorkersConfig
from panels_shared.buskey import format_bus_key
from panels_shared.errors import ConfigError


def config(endpoint: str, key_file: Path | None = None) -> WorkersConfig:
    return WorkersConfig(
        endpoint=endpoint, curve_secret_key_file=None, curve_worker_keys_file=None, bus_key_file=key_file
    )


def test_key_is_made_beside_the_socket_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir(mode=0o700)
    endpoint = f"ipc://{tmp_path}/new/w.sock"
    key = load_bus_key(config(endpoint))
    path = tmp_path / "new" / "w.sock.key"
    assert len(key) == 32
    assert path.read_bytes() == format_bus_key(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert load_bus_key(config(endpoint)) == key
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    path.unlink()
    assert load_bus_key(config(endpoint)) != key


@pytest.mark.parametrize("named", [False, True])
def test_endpoint_in_a_directory_that_is_missing_is_refused_and_nothing_is_made(
    tmp_path: Path, named: bool
) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(format_bus_key(b"k" * 32))
    with pytest.raises(
        ConfigError, match=rf"directory for the socket at {tmp_path}/no/such, got none; make it"
    ):
        load_bus_key(config(f"ipc://{tmp_path}/no/such/w.sock", key if named else None))
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_key_is_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(format_bus_key(b"k" * 32))
    assert load_bus_key(config(f"ipc://{tmp_path}/w.sock", path)) == b"k" * 32
    assert load_bus_key(config("tcp://127.0.0.1:1", path)) == b"k" * 32
    assert not (tmp_path / "w.sock.key").exists()


def test_key_file_that_is_missing_or_open_or_bad_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match=rf"readable file at {path}.*openssl rand -hex 32"):
        load_bus_key(config("tcp://127.0.0.1:1", path))
    path.write_bytes(format_bus_key(b"k" * 32))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="got mode 644"):
        load_bus_key(config("tcp://127.0.0.1:1", path))
    path.chmod(0o600)
    path.write_bytes(b"no key")
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        load_bus_key(config("tcp://127.0.0.1:1", path))


def test_key_beside_the_socket_that_others_could_read_is_refused_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.sock.key"
    path.write_bytes(format_bus_key(b"k" * 32))
    path.chmod(0o604)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_bus_key(config(f"ipc://{tmp_path}/w.sock"))
    assert path.read_bytes() == format_bus_key(b"k" * 32)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.sock.key"
    path.write_bytes(format_bus_key(b"k" * 32))
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigError, match="got user 65534"):
        load_bus_key(config(f"ipc://{tmp_path}/w.sock"))
