"""The bus key, and what is proved with it: who may speak on the socket between gateway and workers, and as
what.

The key is 32 random bytes that the gateway and its pools share. No sandbox has it. A pool proves that it
knows the key by a code over its own routing id. A sandbox is given a *ticket* by its pool: a code over the
sandbox's routing id and the pool's. Either proves one routing id in one role and nothing else, so whoever
sees it gains nothing: under another routing id it is wrong, and one that is connected cannot be taken over.

A sandbox has a second socket, for heartbeats. Its routing id follows from the first one's.

Nothing in this module does I/O; both programs read the file themselves.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

from panels_shared.errors import ConfigError

BUS_KEY_BYTES: Final = 32
#: Bytes of a pool's or sandbox's routing id.
ROUTING_ID_BYTES: Final = 16
#: The most bytes of a file with the key. A security limit.
MAX_BUS_KEY_FILE_BYTES: Final = 1_024
#: How an operator makes a key, for error messages.
BUS_KEY_HINT: Final = "make one with: openssl rand -hex 32 > FILE; chmod 600 FILE"

_BEAT: Final = b"~"
_HEX_KEY: Final = re.compile(rb"[0-9a-fA-F]{64}")


def pool_proof(key: bytes, pool: bytes) -> bytes:
    """What the pool with the routing id ``pool`` proves itself with, 32 bytes."""
    return hmac.digest(key, b"panels pool" + pool, "sha256")


def sandbox_ticket(key: bytes, worker: bytes, pool: bytes) -> bytes:
    """What the sandbox with the routing id ``worker`` of ``pool`` proves itself with, 32 bytes.

    Both ids have ``ROUTING_ID_BYTES``, so that no other pair makes the same text.
    """
    return hmac.digest(key, b"panels sandbox" + worker + pool, "sha256")


def beat_id(worker: bytes) -> bytes:
    """The routing id of the socket on which the sandbox ``worker`` sends its heartbeats."""
    return worker + _BEAT


def key_file_beside(endpoint: str) -> str:
    """Where the key of an ``ipc://`` endpoint lies unless another file is named: beside the socket."""
    return endpoint.removeprefix("ipc://") + ".key"


def format_bus_key(key: bytes) -> bytes:
    """The content of a file with ``key``: one line of hexadecimal digits."""
    return key.hex().encode() + b"\n"


def parse_bus_key(content: bytes, *, path: str) -> bytes:
    """The key in a file's ``content``. Raises ``ConfigError``, never quoting what may be a secret."""
    line = content.strip()
    if _HEX_KEY.fullmatch(line) is None:
        raise ConfigError(
            f"bus-key-file: expected one line of 64 hexadecimal digits in {path}, got {len(content)} bytes "
            f"of another form; {BUS_KEY_HINT}"
        )
    return bytes.fromhex(line.decode())


def check_bus_key_mode(mode: int, *, path: str) -> None:
    """Refuses a file that others than its owner may read or change. ``mode`` is that of stat(2).

    The group may read it, because a service manager shows credentials to a service that way. Raises
    ``ConfigError``.
    """
    if mode & 0o027:
        raise ConfigError(
            f"bus-key-file: expected a file for its owner alone, got mode {mode & 0o777:03o} on {path}; "
            "chmod 600"
        )
