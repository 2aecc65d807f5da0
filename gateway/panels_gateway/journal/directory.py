"""A data directory: who may write it, and whether history was lost since the last time.

    lock      held by flock while a gateway uses the directory; its text is that gateway's process id
    meta      one line of JSON and its checksum, replaced whole: identity, fence, incarnation, how it was left
    log/      segments (segments.py)

The store of folded batches lies beside them and is no affair of this module, but for the position that it has
folded.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from zlib import crc32

import msgspec

from panels_gateway.journal.journal import CorruptError, FencedError, InUseError, JournalError
from panels_gateway.journal.segments import Segment, Tail, cut, examine, segment_paths
from panels_gateway.journal.syncing import sync_folder

#: The version of ``meta`` and of what lies where.
DIRECTORY_VERSION: Final = 1
#: The file of what is known of the directory, and the folder of segments.
META: Final = "meta"
LOG: Final = "log"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

Durability = Literal["process", "power"]


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a directory.

    - ``store``: 16 bytes in hexadecimal, the store's id; each segment repeats them;
    - ``fence``: of the last writer; each takes the next one;
    - ``incarnation``: goes up whenever history may have been lost, by a random step, so that two restores of
      one backup do not end up with the same;
    - ``boot``: the machine's boot id when it was opened; ``durability``: the mode that it was opened in;
    - ``closed``: the last position if it was closed, None while it is open or after a crash.
    """

    version: int
    store: str
    fence: int
    incarnation: int
    boot: str
    durability: Durability
    closed: int | None


class _Version(msgspec.Struct):
    version: int


@dataclass(frozen=True, slots=True)
class Opening:
    """What a writer begins with. ``last`` is the last position there is, ``unfolded`` what the store does not
    know yet.

    ``notices`` are sentences for the log: what was cut, what was lost.
    """

    store: bytes
    fence: int
    incarnation: int
    last: int
    unfolded: list[Segment]
    notices: list[str]


def boot_id() -> str:
    """A word that changes with each start of the machine."""
    return _BOOT_ID.read_text().strip()


def encode_meta(meta: Meta) -> bytes:
    """A line of JSON and a line with its CRC-32 in hexadecimal."""
    line = msgspec.json.encode(meta)
    return b"%s\n%08x\n" % (line, crc32(line))


def decode_meta(data: bytes) -> Meta:
    """The meta in ``data``. Raises ``CorruptError`` with a sentence for what is damaged, foreign or newer."""
    line, _, rest = data.partition(b"\n")
    if rest != b"%08x\n" % crc32(line):
        raise CorruptError("expected a line of JSON and its checksum, got something else")
    try:
        version = msgspec.json.decode(line, type=_Version).version
        if version > DIRECTORY_VERSION:
            raise CorruptError(
                f"expected at most version {DIRECTORY_VERSION}, got {version}: a newer program wrote it"
            )
        return msgspec.json.decode(line, type=Meta)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"expected what is known of a journal, got something else: {error}") from None


def _write(path: Path, meta: Meta) -> None:
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(encode_meta(meta))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(path.parent)


def raised(incarnation: int) -> int:
    """A higher incarnation, which no other directory that comes from the same history gets."""
    return incarnation + 1 + secrets.randbelow(1 << 31)


def read_meta(directory: Path) -> Meta | None:
    """What is known of ``directory``, None where it has no journal.

    Raises ``CorruptError`` for what is damaged, foreign or newer, and ``OSError``.
    """
    path = directory / META
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if segment_paths(directory / LOG):
            raise CorruptError(f"{path}: expected this file beside a log, got none") from None
        return None
    try:
        return decode_meta(data)
    except CorruptError as error:
        raise CorruptError(f"{path}: {error}") from None


def tail_of(meta: Meta | None, *, boot: str | None = None) -> Tail:
    """What the end of the log may look like, by how the directory was left. ``boot`` is the machine's boot
    id, None to ask.

    A directory that is open at the moment looks as one whose gateway died.
    """
    if meta is None or meta.closed is not None:
        return Tail.WHOLE
    if meta.boot == (boot or boot_id()):
        return Tail.TORN
    return Tail.UNSYNCED if meta.durability == "power" else Tail.LOST


class DataDirectory:
    """A data directory, locked from construction to ``release``.

    Creates the directory where there is none. Raises ``JournalError`` where it cannot be used, or is in use,
    and ``CorruptError`` where what is there is not a journal's.
    """

    def __init__(self, path: Path, *, boot: str | None = None) -> None:
        self.path = path
        self.log = path / LOG
        self._boot = boot
        self._meta_path = path / META
        self._lock: int | None = None
        self.meta: Meta | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            self._acquire(self._lock)
            self.meta = read_meta(path)
        except OSError as error:
            self.release()
            raise JournalError(f"{path}: the data directory cannot be used: {error.strerror}") from error
        except JournalError:
            self.release()
            raise

    def _acquire(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise InUseError(
                f"{self.path}: expected a data directory that nobody uses, but the process {holder} has it "
                "open"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    @property
    def tail(self) -> Tail:
        """What the end of the log may look like, by how the directory was left."""
        return tail_of(self.meta, boot=self._boot)

    def begin(self, durability: Durability, *, store: bytes, folded: int) -> Opening:
        """Examines and cuts the log, and takes the next fence. ``store`` is the id that the store has,
        ``folded`` the position as far as it has folded.

        Raises ``CorruptError`` for what must not be forgiven, and ``JournalError`` if the disk fails.
        """
        meta, tail = self.meta, self.tail
        if meta is None and folded:
            raise CorruptError(f"{self._meta_path}: expected this file beside a store, got none")
        if meta is not None and meta.store != store.hex():
            raise CorruptError(
                f"{self.path}: expected store {meta.store}, got {store.hex()}: files of two journals"
            )
        examined = examine(self.log, store=store, folded=folded, tail=tail)
        last = examined.last(folded)
        if meta is not None and meta.closed is not None and last != meta.closed:
            raise CorruptError(f"{self.log}: expected position {meta.closed} as the last, got {last}")
        notices = [examined.cut.reason] if examined.cut is not None else []
        incarnation = meta.incarnation if meta is not None else 0
        if tail is Tail.LOST:
            incarnation = raised(incarnation)
            notices.append(
                "the machine went down and history may have been lost: all panels get another epoch"
            )
        try:
            self.log.mkdir(mode=0o700, exist_ok=True)
            # cut first: after a crash between the two, the old meta still says why a cut is allowed
            cut(examined)
            if durability == "power":
                self.sync()
            fence = (meta.fence if meta is not None else 0) + 1
            self._replace(
                Meta(
                    version=DIRECTORY_VERSION,
                    store=store.hex(),
                    fence=fence,
                    incarnation=incarnation,
                    boot=self._boot or boot_id(),
                    durability=durability,
                    closed=None,
                )
            )
        except OSError as error:
            raise JournalError(
                f"{self.path}: the data directory cannot be written: {error.strerror}"
            ) from error
        return Opening(store, fence, incarnation, last, examined.segments, notices)

    def check_fence(self) -> None:
        """Raises ``FencedError`` if another writer has opened the directory, where a lock does not keep it
        out.
        """
        try:
            found = decode_meta(self._meta_path.read_bytes())
        except OSError as error:
            raise JournalError(f"{self._meta_path}: cannot be read: {error.strerror}") from error
        if self.meta is None or found.fence != self.meta.fence or found.store != self.meta.store:
            raise FencedError(
                f"{self.path}: another writer has taken the directory, under fence {found.fence}"
            )

    def sync(self) -> None:
        """Puts the log on the disk. Raises ``OSError``.

        The store is synced by whoever writes it, and must not be touched here: closing any descriptor of a
        database takes away the locks of all connections that this process has to it (POSIX), and SQLite then
        loses its way.
        """
        for _, path in segment_paths(self.log):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_folder(self.log)
        sync_folder(self.path)

    def closed(self, last: int) -> None:
        """Records that everything as far as position ``last`` is on the disk and nothing more comes. Raises
        ``JournalError``.
        """
        assert self.meta is not None
        try:
            self.sync()
            self._replace(msgspec.structs.replace(self.meta, closed=last))
        except OSError as error:
            raise JournalError(
                f"{self.path}: the data directory cannot be closed: {error.strerror}"
            ) from error

    def adopt(self, durability: Durability, *, store: bytes, position: int) -> None:
        """Makes a new journal of a directory that has only a store, restored from a backup: ``store`` is its
        id, ``position`` as far as it is folded.

        All panels get another epoch. Raises ``JournalError`` if the directory has been a journal's before.
        """
        if self.meta is not None:
            raise JournalError(f"{self.path}: expected an empty directory to restore into, got a journal's")
        try:
            self.log.mkdir(mode=0o700, exist_ok=True)
            self._replace(
                Meta(
                    version=DIRECTORY_VERSION,
                    store=store.hex(),
                    fence=0,
                    incarnation=raised(0),
                    boot=self._boot or boot_id(),
                    durability=durability,
                    closed=position,
                )
            )
        except OSError as error:
            raise JournalError(
                f"{self.path}: the data directory cannot be written: {error.strerror}"
            ) from error

    def _replace(self, meta: Meta) -> None:
        _write(self._meta_path, meta)
        self.meta = meta

    def release(self) -> None:
        """Lets others use the directory. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
