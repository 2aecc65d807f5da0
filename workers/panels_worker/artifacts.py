"""Compiled handlers on disk, by digest, each with a keyed digest that is checked before every load.

A serialized module is native code and wasmtime trusts it, so a file counts only when its HMAC-SHA-256 was made with this
installation's key over everything that it depends on. Only the pool process writes; a sandbox may read the folder and
nothing else. What this does not protect against: somebody who can read the key (mode 0600) and write the folder.

    <cache-dir>/key             32 random bytes
    <cache-dir>/<digest hex>    mac (32 bytes) │ kind (1 byte) │ payload
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import hmac
import importlib.metadata
import logging
import os
import platform
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from panels_shared.limits import MIB

logger = logging.getLogger(__name__)

#: One artifact, in bytes: a 2 MiB module compiles to about 10 MiB.
MAX_ARTIFACT_BYTES: Final = 64 * MIB
#: All artifacts together; above it those not used for longest are removed.
MAX_CACHE_BYTES: Final = 2_048 * MIB

_KEY_BYTES: Final = 32
_MAC_BYTES: Final = 32
#: Goes up when the engine's flags or an artifact's meaning change, so that older files are compiled again.
_FORMAT: Final = 2


class Kind(enum.IntEnum):
    """What an artifact holds."""

    MODULE = 1  #: a module serialized by this version of wasmtime with our flags
    SCRIPT = 2  #: what ``javascript.prepare`` made


@dataclass(frozen=True, slots=True)
class Artifact:
    """A prepared handler."""

    kind: Kind
    payload: bytes


class ArtifactStore:
    """The folder. ``create`` makes it and its key (the pool); ``open`` only reads (a sandbox)."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        self._context = "\0".join(
            (
                "panels artifact",
                str(_FORMAT),
                importlib.metadata.version("wasmtime"),
                platform.machine(),
            )
        ).encode()

    @classmethod
    def create(cls, folder: Path) -> ArtifactStore:
        """The store in ``folder``, which is made, with a new key, where it is not there yet. Raises ``OSError``."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        path = folder / "key"
        with contextlib.suppress(FileExistsError):
            fresh = folder / f"key.{secrets.token_hex(8)}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
            finally:
                os.close(descriptor)
            try:
                os.link(fresh, path)  # whoever comes first decides
            finally:
                fresh.unlink()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, key: bytes | None = None) -> ArtifactStore:
        """The store in ``folder``; the key is read from it unless given. Raises ``OSError``, ``ValueError``."""
        found = (folder / "key").read_bytes() if key is None else key
        if len(found) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes in {folder.name}/key, got {len(found)}")
        return cls(folder, found)

    @property
    def key(self) -> bytes:
        """The key, for a sandbox that may not read the file."""
        return self._key

    def put(self, digest: bytes, artifact: Artifact) -> None:
        """Writes an artifact, whole or not at all. Raises ``OSError``, ``ValueError`` for one above its bound."""
        if len(artifact.payload) > MAX_ARTIFACT_BYTES:
            raise ValueError(f"expected at most {MAX_ARTIFACT_BYTES} bytes, got {len(artifact.payload)}")
        body = bytes((artifact.kind,)) + artifact.payload
        fresh = self._folder / f"new.{secrets.token_hex(8)}"
        try:
            with fresh.open("xb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(self._mac(digest, body))
                file.write(body)
            fresh.replace(self._path(digest))
        finally:
            fresh.unlink(missing_ok=True)

    def get(self, digest: bytes) -> Artifact | None:
        """The artifact, or None when there is none that is whole and ours."""
        try:
            with self._path(digest).open("rb") as file:
                data = file.read(_MAC_BYTES + 1 + MAX_ARTIFACT_BYTES + 1)
        except OSError:
            return None
        mac, body = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not body or not hmac.compare_digest(mac, self._mac(digest, body)):
            logger.warning(
                "artifact %s is not authentic, or of another version: it will be compiled again", digest.hex()
            )
            return None
        try:
            return Artifact(Kind(body[0]), body[1:])
        except ValueError:
            return None

    def touch(self, digest: bytes) -> bool:
        """Whether there is a good artifact; marks it as used."""
        if self.get(digest) is None:
            return False
        with contextlib.suppress(OSError):
            os.utime(self._path(digest))
        return True

    def trim(self, max_bytes: int = MAX_CACHE_BYTES) -> int:
        """Removes what was not used for longest until all fits into ``max_bytes``; how many files went."""
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            if len(path.name) == 64:
                with contextlib.suppress(OSError):
                    stat = path.stat()
                    files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        removed = 0
        for _, size, path in sorted(files):
            if total <= max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
            removed += 1
        return removed

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()

    def _mac(self, digest: bytes, body: bytes) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (self._context, digest):
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        mac.update(body)
        return mac.digest()
