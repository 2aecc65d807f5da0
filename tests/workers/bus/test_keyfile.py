"""The pool's bus key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from panels_shared.buskey import format_bus_key
from panels_shared.errors import ConfigError
from panels_worker.bus.keyfile import read_bus_key
from panels_worker.settings import PoolConfig

KEY = b"k" * 32


def config(gateway: str, key_file: Path | None = None) -> PoolConfig:
    return PoolConfig(gateway=gateway, processes=1, cache_dir=Path("/nowhere"), bus_key_file=key_file)


def write(path: Path, *, mode: int = 0o600) -> Path:
    path.write_bytes(format_bus_key(KEY))
    path.chmod(mode)
    return path


def test_key_is_beside_the_socket_or_where_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "w.sock.key")
    assert read_bus_key(config(f"ipc://{tmp_path}/w.sock")) == KEY
    assert read_bus_key(config("tcp://h:1", write(tmp_path / "named"))) == KEY


def test_missing_key_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"at {tmp_path}/w.sock.key, got: No such.*gateway makes it"):
        read_bus_key(config(f"ipc://{tmp_path}/w.sock"))
    with pytest.raises(ConfigError, match=rf"at {tmp_path}/named, .*copy the gateway's"):
        read_bus_key(config("tcp://h:1", tmp_path / "named"))


def test_key_that_others_could_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_bus_key(config("tcp://h:1", write(tmp_path / "named", mode=0o604)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_pool_of_root_reads_the_key_of_the_gateways_user(tmp_path: Path) -> None:
    path = write(tmp_path / "w.sock.key")
    os.chown(path, 65534, 65534)
    assert read_bus_key(config(f"ipc://{tmp_path}/w.sock")) == KEY
