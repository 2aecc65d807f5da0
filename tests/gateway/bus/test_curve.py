"""The gateway's CURVE key files."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from panels_gateway.bus.curve import load_curve_keys
from panels_gateway.configuration.config import WorkersConfig
from panels_shared.errors import ConfigError

PUBLIC, SECRET = zmq.curve_keypair()
ANN, BOB = zmq.curve_keypair()[0], zmq.curve_keypair()[0]


def configured(folder: Path, secret: bytes | None, workers: bytes | None) -> WorkersConfig:
    files: list[Path | None] = []
    for name, content in (("secret", secret), ("workers", workers)):
        if content is not None:
            folder.joinpath(name).write_bytes(content)
        files.append(None if content is None else folder / name)
    return WorkersConfig(
        endpoint="tcp://127.0.0.1:1", curve_secret_key_file=files[0], curve_worker_keys_file=files[1]
    )


def test_keys_are_none_where_no_files_are_configured(tmp_path: Path) -> None:
    assert load_curve_keys(configured(tmp_path, None, None)) is None


def test_keys_are_the_pair_and_all_workers(tmp_path: Path) -> None:
    keys = load_curve_keys(configured(tmp_path, SECRET + b"\n", b"# ann\n" + ANN + b"\n\n# bob\n" + BOB))
    assert keys is not None
    assert (keys.public, keys.secret, keys.peers) == (PUBLIC, SECRET, frozenset([ANN, BOB]))


@pytest.mark.parametrize(
    ("secret", "workers", "expected"),
    [
        pytest.param(b"", ANN, "curve-secret-key-file: expected one key in .*, got 0", id="no secret"),
        pytest.param(SECRET + b"\n" + SECRET, ANN, "expected one key in .*, got 2", id="two secrets"),
        pytest.param(
            SECRET, b"# none\n", "curve-worker-keys-file: expected a worker's public key", id="no worker"
        ),
        pytest.param(SECRET, ANN + b"\nx", "curve-worker-keys-file: expected .* as key 2", id="not a key"),
        pytest.param(SECRET, b"\n" * 70_000, "expected at most 65536 bytes", id="large"),
    ],
)
def test_keys_are_refused_in_one_line(tmp_path: Path, secret: bytes, workers: bytes, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        load_curve_keys(configured(tmp_path, secret, workers))
    assert SECRET.decode() not in str(caught.value)


def test_keys_are_refused_in_a_file_that_everybody_can_write(tmp_path: Path) -> None:
    config = configured(tmp_path, SECRET, ANN)
    tmp_path.joinpath("workers").chmod(0o666)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_curve_keys(config)


def test_keys_are_refused_in_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = configured(tmp_path, SECRET, ANN)
    tmp_path.joinpath("secret").unlink()
    with pytest.raises(ConfigError, match="curve-secret-key-file: expected a readable file"):
        load_curve_keys(config)
