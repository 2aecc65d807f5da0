"""Attempts at files, sockets, the environment, processes and clocks through WASI."""

from __future__ import annotations

from typing import Final

from benchmarks.isolation.attack import RETURNED, Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import module, wasi_import
from panels_worker.guest import wasi

FAMILY: Final = "WASI"
_OPERANDS: Final = {"i": "(i32.const {})", "I": "(i64.const {})"}
EBADF: Final = 8
ENOSYS: Final = 52

#: Calls of which the errno is known from docs/abi.md; all others reach nothing by answering 0 with nothing.
DENIED: Final = {
    name: ENOSYS if name.startswith(("path_", "poll_", "proc_", "sock_")) else EBADF
    for name in wasi.IMPORTS
    if name.startswith(("path_", "poll_", "sock_", "fd_")) or name == "proc_raise"
    if name not in ("fd_write", "fd_fdstat_get")
}
_PATHS: Final = (
    "/etc/passwd",
    "../../../../etc/shadow",
    "/proc/self/environ",
    "/proc/1/mem",
    "/dev/mem",
    ".",
)


def attacks() -> list[Attack]:
    """The family."""
    return [
        attack(FAMILY, "every call that is denied", [_denied(name) for name in DENIED]),
        attack(FAMILY, "files by path", [_opening(path) for path in _PATHS]),
        attack(FAMILY, "descriptors", [_writing(descriptor) for descriptor in (0, 3, 4, 5, 7, 9, 63, -1)]),
        attack(FAMILY, "arguments and environment", _sizes()),
        attack(FAMILY, "clocks", _clocks()),
        attack(FAMILY, "the end of the process", _exits()),
    ]


def _denied(name: str) -> Call:
    operands = " ".join(_OPERANDS[letter].format(16) for letter in wasi.IMPORTS[name])
    body = f"(call $number (call ${name} {operands}))"
    return call(name, module(body, imports=wasi_import(name)), RETURNED, returns=DENIED[name])


def _opening(path: str) -> Call:
    body = f"""(call $number (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const {len(path)})
      (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 4096)))"""
    made = module(body, imports=wasi_import("path_open"), fields=f'(data (i32.const 1024) "{path}")')
    return call(path, made, RETURNED, returns=ENOSYS)


def _writing(descriptor: int) -> Call:
    body = f"""(i32.store (i32.const 4096) (i32.const 16)) (i32.store (i32.const 4100) (i32.const 4))
      (call $number (call $fd_write (i32.const {descriptor}) (i32.const 4096) (i32.const 1) (i32.const 64)))"""
    made = module(body, imports=wasi_import("fd_write"))
    return call(f"write to {descriptor}", made, RETURNED, returns=EBADF)


def _sizes() -> list[Call]:
    made: list[Call] = []
    for name in ("args_sizes_get", "environ_sizes_get"):
        body = f"""(i32.store (i32.const 4096) (i32.const -1)) (i32.store (i32.const 4100) (i32.const -1))
          (drop (call ${name} (i32.const 4096) (i32.const 4100)))
          (call $number (i32.add (i32.load (i32.const 4096)) (i32.load (i32.const 4100))))"""
        made.append(call(name, module(body, imports=wasi_import(name)), RETURNED, returns=0))
    for name in ("args_get", "environ_get"):
        body = f"""(drop (call ${name} (i32.const 4096) (i32.const 12288)))
          (call $number (i32.add (i32.load (i32.const 4096)) (i32.load (i32.const 12288))))"""
        made.append(call(name, module(body, imports=wasi_import(name)), RETURNED, returns=0))
    return made


def _clocks() -> list[Call]:
    """A clock that moves within a job, or that differs between its kinds, would be one to measure with."""
    made: list[Call] = []
    read = "(drop (call $clock_time_get (i32.const {0}) (i64.const 0) (i32.const {1})))"
    spin = "(local.set $n (i32.const 5000000)) (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    for clock in range(4):
        body = f"""{read.format(0, 4096)} {spin} {read.format(clock, 4104)}
          (call $number (i64.ne (i64.load (i32.const 4096)) (i64.load (i32.const 4104))))"""
        made.append(
            call(f"clock {clock}", module(body, imports=wasi_import("clock_time_get")), RETURNED, returns=0)
        )
    body = f"""{read.format(0, 4096)}
      (call $number (i64.ne (i64.rem_u (i64.load (i32.const 4096)) (i64.const 1000000)) (i64.const 0)))"""
    made.append(
        call(
            "finer than a millisecond",
            module(body, imports=wasi_import("clock_time_get")),
            RETURNED,
            returns=0,
        )
    )
    return made


def _exits() -> list[Call]:
    made = [
        call(
            f"proc_exit({code})",
            module(f"(call $proc_exit (i32.const {code}))", imports=wasi_import("proc_exit")),
            RETURNED if code == 0 else "HANDLER_ERROR",
        )
        for code in (0, 1, -1, 139)
    ]
    made.append(
        call(
            "proc_exit in a start function",
            module(
                "",
                fields="(func $s (call $proc_exit (i32.const 3))) (start $s)",
                imports=wasi_import("proc_exit"),
            ),
            "HANDLER_ERROR",
            "TRAP",
        )
    )
    return made  # fmt: skip
