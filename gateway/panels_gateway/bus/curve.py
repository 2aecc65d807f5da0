"""The CURVE keys of the workers' endpoint, read from files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import zmq

from panels_gateway.access.keys import read_key_file
from panels_gateway.bus.broker import CurveKeys
from panels_gateway.configuration.config import WorkersConfig
from panels_gateway.configuration.errors import ConfigError
from panels_shared.limits import KIB

MAX_FILE_BYTES: Final = 64 * KIB
_Z85_KEY: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_HINT: Final = 'make a pair with: python -c "import zmq; print(*zmq.curve_keypair())"'


def load_curve_keys(config: WorkersConfig) -> CurveKeys | None:
    """The keys, None where none are configured. Raises ``ConfigError``."""
    if config.curve_secret_key_file is None or config.curve_worker_keys_file is None:
        return None
    secrets = _keys_in(config.curve_secret_key_file, "curve-secret-key-file")
    if len(secrets) != 1:
        raise ConfigError(
            f"curve-secret-key-file: expected one key in {config.curve_secret_key_file}, got {len(secrets)}; {_HINT}"
        )
    allowed = _keys_in(config.curve_worker_keys_file, "curve-worker-keys-file")
    if not allowed:
        raise ConfigError(
            f"curve-worker-keys-file: expected a worker's public key a line in {config.curve_worker_keys_file}, got none"
        )
    return CurveKeys(public=zmq.curve_public(secrets[0]), secret=secrets[0], allowed=frozenset(allowed))


def _keys_in(path: Path, option: str) -> list[bytes]:
    """The keys in a file, one a line; empty lines and those that begin with `# ` are not looked at."""
    lines = [line.strip() for line in read_key_file(path, option, MAX_FILE_BYTES).splitlines()]
    keys = [line for line in lines if line and not line.startswith(b"# ")]
    for number, key in enumerate(keys, 1):
        if _Z85_KEY.fullmatch(key) is None:
            raise ConfigError(f"{option}: expected 40 characters of Z85 as key {number} of {path}; {_HINT}")
    return keys
