"""Compiled handlers on disk, by digest, each with a keyed digest that is checked before every load.

A serialized module is native code and wasmtime trusts it, so a file counts only when its HMAC-SHA-256 was
made with this installation's key over everything that it depends on. Only the pool process writes; a sandbox
may read the folder and nothing else. This does not protect against somebody who can read the key (mode 0600)
and write to the folder.

    <cache-dir>/key             32 random bytes
    <cache-dir>/<digest hex>    mac (32 bytes) │ kind (1 byte) │ payload

The pool keeps the folder below ``MAX_CACHE_BYTES`` (``trim``): it removes the artifacts that were not used
for longest. An artifact was last used when it was last written, prepared or loaded. A confined sandbox may
not set a file's times, so its loads show in the access time, which a file system mounted with relatime keeps
to within a day.

A sandbox may load an artifact while the pool removes it. It then has either the whole file, which stays
readable through the open descriptor, or no file; in that case it answers Missing, and the gateway has the
handler prepared again.
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
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from panels_shared.limits import MIB

logger = logging.getLogger("panels.worker.artifacts")

#: One artifact, in bytes: a 2 MiB module compiles to about 10 MiB.
MAX_ARTIFACT_BYTES: Final = 64 * MIB
#: All artifacts together, in bytes; above it those not used for longest are removed.
MAX_CACHE_BYTES: Final = 2_048 * MIB
#: A file occupies whole blocks of this many bytes, so a million tiny scripts are not free.
BLOCK_BYTES: Final = 4_096
#: A half-written file that is older than this was abandoned by a pool that was killed.
ABANDONED_S: Final = 3_600.0

_KEY_BYTES: Final = 32
_MAC_BYTES: Final = 32
#: The hexadecimal digits of a digest.
_NAME_CHARS: Final = 64
#: Goes up when the engine's flags or an artifact's meaning change, so that older files are compiled again.
_FORMAT: Final = 3


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
    """The folder. ``create`` makes it and its key (the pool); ``open`` only reads (a sandbox).

    One process writes at a time; any number may read meanwhile. Digests are 32 bytes.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        #: What the folder holds, in bytes, counting only what this process wrote since it last looked; None
        #: before.
        self._size_bytes: int | None = None
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
        """The store in ``folder``; a folder that does not exist is made, with a new key.

        Raises ``OSError``.
        """
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
                os.link(fresh, path)  # the first one to get here decides
            finally:
                fresh.unlink()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, key: bytes | None = None) -> ArtifactStore:
        """The store in ``folder``, whose key is read unless it is given.

        Raises ``OSError``, ``ValueError``.
        """
        found = (folder / "key").read_bytes() if key is None else key
        if len(found) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes in {folder.name}/key, got {len(found)}")
        return cls(folder, found)

    @property
    def key(self) -> bytes:
        """The key, for a sandbox that may not read the file."""
        return self._key

    def put(self, digest: bytes, artifact: Artifact) -> None:
        """Writes an artifact, whole or not at all. Raises ``OSError``, and ``ValueError`` above the bound."""
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
        if self._size_bytes is not None:
            self._size_bytes += _occupied_bytes(_MAC_BYTES + len(body))

    def get(self, digest: bytes) -> Artifact | None:
        """The artifact, marked as used; None when there is none that is whole and ours."""
        try:
            with self._path(digest).open("rb") as file:
                data = file.read(_MAC_BYTES + 1 + MAX_ARTIFACT_BYTES + 1)
                with contextlib.suppress(OSError):  # a confined sandbox may not
                    os.utime(file.fileno())
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

    def holds(self, digest: bytes) -> bool:
        """Whether there is a file for ``digest``. It is neither checked nor marked as used."""
        return self._path(digest).exists()

    def trim(self, *, keep: Collection[bytes] = (), max_bytes: int = MAX_CACHE_BYTES) -> int:
        """Makes room when the artifacts occupy more than ``max_bytes``; returns how many were removed.

        What was not used for longest goes first, until an eighth of ``max_bytes`` is free; digests in
        ``keep`` stay. The folder is read by the first call, and later only when what this process wrote since
        may have exceeded the bound, so a call usually costs nothing. Files that a killed pool left
        half-written go too. Never raises for a file that vanishes or is used meanwhile. Raises ``OSError``
        when the folder itself cannot be read.
        """
        if self._size_bytes is not None and self._size_bytes <= max_bytes:
            return 0
        files = self._files()
        total = sum(size for _, size, _ in files)
        kept = {digest.hex() for digest in keep}
        target = max_bytes - max_bytes // 8 if total > max_bytes else total
        removed = 0
        for used_s, size, path in sorted(files):
            if total <= target:
                break
            if path.name in kept or not _remove(path, used_s):
                continue
            total -= size
            removed += 1
        self._size_bytes = total
        if removed:
            logger.info("removed %d artifacts that were not used for longest", removed)
        return removed

    def _files(self) -> list[tuple[float, int, Path]]:
        """Every artifact as (time of last use, bytes occupied, path). Removes abandoned files."""
        files: list[tuple[float, int, Path]] = []
        abandoned_before_s = time.time() - ABANDONED_S
        for path in self._folder.iterdir():
            with contextlib.suppress(OSError):
                found = path.stat()
                if len(path.name) == _NAME_CHARS:
                    files.append((_used_s(found), _occupied_bytes(found.st_size), path))
                elif path.name.startswith(("new.", "key.")) and found.st_mtime < abandoned_before_s:
                    path.unlink()
        return files

    def _path(self, digest: bytes) -> Path:
        return self._folder / digest.hex()

    def _mac(self, digest: bytes, body: bytes) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (self._context, digest):
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        mac.update(body)
        return mac.digest()


def _occupied_bytes(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _used_s(found: os.stat_result) -> float:
    return max(found.st_mtime, found.st_atime)


def _remove(path: Path, used_s: float) -> bool:
    """Removes a file that was last used at ``used_s``; False when it was used since, or cannot be removed."""
    try:
        if _used_s(path.stat()) > used_s:
            return False
        path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
