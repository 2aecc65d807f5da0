"""The pool's bus key, read from its file. The pool alone reads it: a sandbox is given a ticket."""

from __future__ import annotations

import os
from pathlib import Path

from panels_shared.buskey import (
    BUS_KEY_HINT,
    MAX_BUS_KEY_FILE_BYTES,
    check_bus_key_mode,
    key_file_beside,
    parse_bus_key,
)
from panels_shared.errors import ConfigError
from panels_worker.settings import PoolConfig


def bus_key_path(config: PoolConfig) -> Path:
    """The file that holds the key: the one that is named, else the one that an ipc gateway makes."""
    return config.bus_key_file or Path(key_file_beside(config.gateway))


def read_bus_key(config: PoolConfig) -> bytes:
    """The key. Raises ``ConfigError`` where there is none (yet), or one that others could have read."""
    path = bus_key_path(config)
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            content = stream.read(MAX_BUS_KEY_FILE_BYTES + 1)
    except OSError as exc:
        whose = (
            f"copy the gateway's; {BUS_KEY_HINT}"
            if config.bus_key_file is not None
            else "the gateway makes it when it starts; give --bus-key-file if it is elsewhere"
        )
        raise ConfigError(
            f"bus-key-file: expected a readable file at {path}, got: {exc.strerror}; {whose}"
        ) from None
    check_bus_key_mode(found.st_mode, path=str(path))
    # root reads the file of the gateway's user
    if os.geteuid() != 0 and found.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"bus-key-file: expected {path} to belong to root or to the pool's user ({os.geteuid()}), got "
            f"user {found.st_uid}; run the pool as root or as the gateway's user, or give it a copy"
        )
    return parse_bus_key(content, path=str(path))
