"""Where gateway and workers meet, and the CURVE keys that they prove themselves with there.

An endpoint is ``ipc:///path`` (a Unix socket, guarded by its directory) or ``tcp://host:port`` (which needs
CURVE keys). Both programs parse and check it here. Reading files and deriving a public key are the programs'
own: nothing in this module does I/O.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import Final

import msgspec

from panels_shared.errors import ConfigError

#: What fits into ``sockaddr_un`` besides the final NUL (unix(7)).
MAX_IPC_PATH_BYTES: Final = 107
#: Bytes of a file with CURVE keys. A security limit.
MAX_KEY_FILE_BYTES: Final = 64 * 1024
#: How an operator makes a pair, for error messages.
KEY_HINT: Final = 'make a pair with: python -c "import zmq; print(*zmq.curve_keypair())"'

_MAX_SHOWN_CHARS: Final = 160
_TCP: Final = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_Z85_KEY: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


class CurveKeys(msgspec.Struct, frozen=True):
    """The CURVE keys of one end of a tcp connection, each 40 characters of Z85.

    ``public`` and ``secret`` are this end's own pair. ``peers`` are the public keys that may be at the other
    end: the gateway has one for each worker that may connect, a worker has the gateway's only.
    """

    public: bytes
    secret: bytes
    peers: frozenset[bytes]

    def __repr__(self) -> str:
        return f"CurveKeys(public={self.public!r})"  # a secret never reaches a log by way of a repr


def is_tcp(endpoint: str) -> bool:
    """Whether the endpoint is reached over a network and therefore needs CURVE keys."""
    return endpoint.startswith("tcp://")


def parse_endpoint(text: str, *, option: str, directory: str | None = None, any_port: bool = False) -> str:
    """The endpoint that ``text`` writes, in one spelling.

    A relative ipc path is relative to ``directory``; None refuses one.
    ``any_port`` allows port 0, which takes a free one when it is bound. Raises
    ``ConfigError``, naming ``option``.
    """
    if text.startswith("ipc://"):
        return f"ipc://{_ipc_path(text, option=option, directory=directory)}"
    match = _TCP.fullmatch(text)
    if match is None or not (0 if any_port else 1) <= int(match[2]) <= 65_535:
        raise ConfigError(
            f"{option}: expected ipc:///path or tcp://host:port, got {text[:_MAX_SHOWN_CHARS]!r}"
        )
    return text


def _ipc_path(text: str, *, option: str, directory: str | None) -> str:
    path = text.removeprefix("ipc://")
    if not path or "\0" in path:
        raise ConfigError(
            f"{option}: expected a path of 1 to {MAX_IPC_PATH_BYTES} bytes after ipc://, "
            f"got {text[:_MAX_SHOWN_CHARS]!r}"
        )
    if not path.startswith("/"):
        if directory is None:
            raise ConfigError(
                f"{option}: expected an absolute path like ipc:///run/panels/workers, "
                f"got {text[:_MAX_SHOWN_CHARS]!r}"
            )
        path = posixpath.join(directory, path)
    if len(os.fsencode(path)) > MAX_IPC_PATH_BYTES:
        raise ConfigError(
            f"{option}: expected a path of 1 to {MAX_IPC_PATH_BYTES} bytes, the longest name that a Unix "
            f"socket can have, got {len(os.fsencode(path))}; choose a shorter path"
        )
    return path


def listens_everywhere(endpoint: str) -> bool:
    """Whether a tcp endpoint to bind means every interface of the machine."""
    match = _TCP.fullmatch(endpoint)
    return match is not None and match[1] in ("0.0.0.0", "[::]", "[::0]")  # noqa: S104 - asked about, never bound


def parse_keys(content: bytes, *, option: str, path: str) -> list[bytes]:
    """The keys in a file's ``content``, one a line.

    Empty lines and lines that begin with ``# `` are comments.

    Raises ``ConfigError``, naming ``option`` and ``path`` and never quoting what may be a secret.
    """
    lines = [line.strip() for line in content.splitlines()]
    keys = [line for line in lines if line and not line.startswith(b"# ")]
    for number, key in enumerate(keys, 1):
        if _Z85_KEY.fullmatch(key) is None:
            raise ConfigError(
                f"{option}: expected 40 characters of Z85 as key {number} of {path}; {KEY_HINT}"
            )
    return keys


def parse_one_key(content: bytes, *, option: str, path: str) -> bytes:
    """The only key in a file's ``content``. Raises ``ConfigError`` as ``parse_keys`` does."""
    keys = parse_keys(content, option=option, path=path)
    if len(keys) != 1:
        raise ConfigError(f"{option}: expected one key in {path}, got {len(keys)}; {KEY_HINT}")
    return keys[0]
