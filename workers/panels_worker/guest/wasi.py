"""WASI preview 1, as a stub that denies: so that modules of ordinary toolchains load, and reach nothing.

No files, no sockets, no environment, no arguments. What is written to stdout and stderr goes to the handler's
log; clock and random come from the job. Everything else answers ``ENOSYS`` or ``EBADF``; ``proc_exit(0)``
ends the job well, any other code as a failure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from wasmtime import ValType

from panels_shared.limits import KIB
from panels_worker.guest.linker import HostLinker, Signature
from panels_worker.guest.run import WasmRun
from panels_worker.guest.traps import ExitError

MODULE: Final = "wasi_snapshot_preview1"

ESUCCESS: Final = 0
EBADF: Final = 8
EINVAL: Final = 28
ENOSYS: Final = 52

#: Parts of one write, and bytes of it: security limits.
_MAX_IOVECS: Final = 1_024
_MAX_WRITE_BYTES: Final = 64 * KIB
_MAX_RANDOM_BYTES: Final = 64 * KIB

_I32, _I64 = ValType.i32(), ValType.i64()

#: name → parameters (i: i32, I: i64) and the errno that is all there is to say
_DENIED: Final[dict[str, tuple[str, int]]] = {
    "fd_advise": ("iIIi", EBADF),
    "fd_allocate": ("iII", EBADF),
    "fd_close": ("i", EBADF),
    "fd_datasync": ("i", EBADF),
    "fd_fdstat_set_flags": ("ii", EBADF),
    "fd_fdstat_set_rights": ("iII", EBADF),
    "fd_filestat_get": ("ii", EBADF),
    "fd_filestat_set_size": ("iI", EBADF),
    "fd_filestat_set_times": ("iIIi", EBADF),
    "fd_pread": ("iiiIi", EBADF),
    "fd_prestat_get": ("ii", EBADF),
    "fd_prestat_dir_name": ("iii", EBADF),
    "fd_pwrite": ("iiiIi", EBADF),
    "fd_read": ("iiii", EBADF),
    "fd_readdir": ("iiiIi", EBADF),
    "fd_renumber": ("ii", EBADF),
    "fd_seek": ("iIii", EBADF),
    "fd_sync": ("i", EBADF),
    "fd_tell": ("ii", EBADF),
    "path_create_directory": ("iii", ENOSYS),
    "path_filestat_get": ("iiiii", ENOSYS),
    "path_filestat_set_times": ("iiiiIIi", ENOSYS),
    "path_link": ("iiiiiii", ENOSYS),
    "path_open": ("iiiiiIIii", ENOSYS),
    "path_readlink": ("iiiiii", ENOSYS),
    "path_remove_directory": ("iii", ENOSYS),
    "path_rename": ("iiiiii", ENOSYS),
    "path_symlink": ("iiiii", ENOSYS),
    "path_unlink_file": ("iii", ENOSYS),
    "poll_oneoff": ("iiii", ENOSYS),
    "proc_raise": ("i", ENOSYS),
    "sched_yield": ("", ESUCCESS),
    "sock_accept": ("iii", ENOSYS),
    "sock_recv": ("iiiiii", ENOSYS),
    "sock_send": ("iiiii", ENOSYS),
    "sock_shutdown": ("ii", ENOSYS),
}

_STUBBED: Final[dict[str, str]] = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "fd_fdstat_get": "ii",
    "fd_write": "iiii",
    "proc_exit": "i",
    "random_get": "ii",
}

#: Every import that a module may have from WASI, with its parameters; all but ``proc_exit`` return an i32.
IMPORTS: Final[dict[str, str]] = {name: params for name, (params, _) in _DENIED.items()} | _STUBBED


def define(linker: HostLinker, current: Callable[[], WasmRun]) -> None:
    """Registers all of ``IMPORTS``; ``current`` gives the job that is running."""
    stub = _Stub(current)
    for name, params in IMPORTS.items():
        types = [_I32 if letter == "i" else _I64 for letter in params]
        if name in _DENIED:
            function = stub.denied(_DENIED[name][1])
        else:
            function = stub.counted(getattr(stub, name))
        linker.define(MODULE, name, types, [] if name == "proc_exit" else [_I32], function, Signature.I32)


class _Stub:
    """The functions that do something. Raw values are 16 bytes apart: an i32 index steps by 4."""

    def __init__(self, current: Callable[[], WasmRun]) -> None:
        self._current = current

    def denied(self, errno: int) -> Callable[[Any], None]:
        def call(raw: Any) -> None:
            self._current().effects.count_call()
            raw[0] = errno

        return call

    def counted(self, function: Callable[[WasmRun, Any], int | None]) -> Callable[[Any], None]:
        def call(raw: Any) -> None:
            run = self._current()
            run.effects.count_call()
            errno = function(run, raw)
            if errno is not None:
                raw[0] = errno

        return call

    @staticmethod
    def args_get(run: WasmRun, raw: Any) -> int:
        return ESUCCESS

    environ_get = args_get

    @staticmethod
    def args_sizes_get(run: WasmRun, raw: Any) -> int:
        run.write(raw[0], bytes(4))
        run.write(raw[4], bytes(4))
        return ESUCCESS

    environ_sizes_get = args_sizes_get

    @staticmethod
    def clock_res_get(run: WasmRun, raw: Any) -> int:
        run.write(raw[4], struct.pack("<Q", 1_000_000))
        return ESUCCESS

    @staticmethod
    def clock_time_get(run: WasmRun, raw: Any) -> int:
        run.write(raw[8], struct.pack("<Q", int(run.effects.task.now_ms) * 1_000_000))
        return ESUCCESS

    @staticmethod
    def fd_fdstat_get(run: WasmRun, raw: Any) -> int:
        if raw[0] not in (1, 2):
            return EBADF
        # a character device without rights to do more than write
        run.write(raw[4], struct.pack("<BxHxxxxQQ", 2, 0, 1 << 6, 0))
        return ESUCCESS

    @staticmethod
    def fd_write(run: WasmRun, raw: Any) -> int:
        descriptor, vectors, count, written = raw[0], raw[4], raw[8] & 0xFFFF_FFFF, raw[12]
        if descriptor not in (1, 2):
            return EBADF
        if count > _MAX_IOVECS:
            return EINVAL
        data = b""
        for number in range(count):
            pointer, length = struct.unpack("<II", run.read((vectors & 0xFFFF_FFFF) + 8 * number, 8))
            data += run.read(pointer, min(length, _MAX_WRITE_BYTES - len(data)))
            if len(data) >= _MAX_WRITE_BYTES:
                break
        run.write(written, struct.pack("<I", len(data)))
        if text := data.decode("utf-8", "replace").rstrip("\n"):
            run.effects.write_log(1 if descriptor == 1 else 3, text)
        return ESUCCESS

    @staticmethod
    def random_get(run: WasmRun, raw: Any) -> int:
        count = raw[4] & 0xFFFF_FFFF
        if count > _MAX_RANDOM_BYTES:
            return EINVAL
        run.write(raw[0], run.effects.random_bytes(count))
        return ESUCCESS

    @staticmethod
    def proc_exit(run: WasmRun, raw: Any) -> None:
        raise ExitError(raw[0])
