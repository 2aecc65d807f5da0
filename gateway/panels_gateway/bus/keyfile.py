"""The gateway's bus key: read from its file, or made beside the socket where workers connect."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from panels_gateway.configuration.config import WorkersConfig
from panels_shared.buskey import (
    BUS_KEY_BYTES,
    BUS_KEY_HINT,
    MAX_BUS_KEY_FILE_BYTES,
    check_bus_key_mode,
    format_bus_key,
    key_file_beside,
    parse_bus_key,
)
from panels_shared.endpoint import is_tcp
from panels_shared.errors import ConfigError

_log = logging.getLogger("panels.gateway.bus")


def load_bus_key(config: WorkersConfig) -> bytes:
    """The key that pools have to know.

    With an ``ipc://`` endpoint and no file named, it is the one beside the socket, which is made if it is
    missing and kept if it is good. Raises ``ConfigError``.
    """
    if not is_tcp(config.endpoint):
        _require_directory(config.endpoint)
    if config.bus_key_file is not None:
        return _read(config.bus_key_file)
    path = Path(key_file_beside(config.endpoint))
    try:
        if not path.exists():
            _make(path)
    except OSError as exc:
        raise ConfigError(
            f"workers-endpoint: expected to make the bus key {path}, got: {exc.strerror}; name one with "
            f"--bus-key-file; {BUS_KEY_HINT}"
        ) from None
    return _read(path)


def _require_directory(endpoint: str) -> None:
    """A path that is mistyped must not become a tree of directories, made by root and left behind."""
    directory = Path(endpoint.removeprefix("ipc://")).parent
    if not directory.is_dir():
        raise ConfigError(
            f"workers-endpoint: expected a directory for the socket at {directory}, got none; make it for "
            "the "
            f"gateway's user alone: install -d -m 700 {directory}"
        )


def _make(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(format_bus_key(secrets.token_bytes(BUS_KEY_BYTES)))
    draft.rename(path)  # a pool that looks for it finds all of it or nothing
    _log.info("made a bus key for workers: %s", path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            content = stream.read(MAX_BUS_KEY_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(
            f"bus-key-file: expected a readable file at {path}, got: {exc.strerror}; {BUS_KEY_HINT}"
        ) from None
    check_bus_key_mode(found.st_mode, path=str(path))
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"bus-key-file: expected {path} to belong to root or to the gateway's user "
            f"({os.geteuid()}), got user {found.st_uid}; chown it, or remove it to have a new one made"
        )
    return parse_bus_key(content, path=str(path))
