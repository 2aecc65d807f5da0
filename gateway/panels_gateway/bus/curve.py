"""The CURVE keys of the workers' endpoint, read from files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import zmq

from panels_gateway.access.keys import read_key_file
from panels_gateway.configuration.config import WorkersConfig
from panels_shared.endpoint import MAX_KEY_FILE_BYTES, CurveKeys, parse_keys, parse_one_key
from panels_shared.errors import ConfigError

_OWN: Final = "curve-secret-key-file"
_WORKERS: Final = "curve-worker-keys-file"


def load_curve_keys(config: WorkersConfig) -> CurveKeys | None:
    """The gateway's pair and the workers' public keys, None where none are configured.

    Raises ``ConfigError``.
    """
    secret_file, workers_file = config.curve_secret_key_file, config.curve_worker_keys_file
    if secret_file is None or workers_file is None:
        return None
    secret = parse_one_key(_content(secret_file, _OWN), option=_OWN, path=str(secret_file))
    workers = parse_keys(_content(workers_file, _WORKERS), option=_WORKERS, path=str(workers_file))
    if not workers:
        raise ConfigError(f"{_WORKERS}: expected a worker's public key a line in {workers_file}, got none")
    return CurveKeys(public=zmq.curve_public(secret), secret=secret, peers=frozenset(workers))


def _content(path: Path, option: str) -> bytes:
    return read_key_file(path, option, MAX_KEY_FILE_BYTES, secret=option == _OWN)
