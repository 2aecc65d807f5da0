"""Lying pointers, lengths and alignments in every argument of every call from a guest to its host."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from benchmarks.isolation.attack import RETURNED, Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import END, TEXT, module, wasi_import
from panels_worker.guest import abi

FAMILY: Final = "pointers"

#: Ranges that do not lie in memory: (address, bytes).
LIES: Final = (
    (-1, 10),
    (0, -1),
    (-8, 8),
    (-8, 16),
    (END, 1),
    (END - 1, 2),
    (0, END + 1),
    (0x7FFF_FFFF, 0x7FFF_FFFF),
    (-(2**31), -(2**31)),
    (1, 0x7FFF_FFFF),
)
#: Where pairs of address and length begin among a call's parameters; the others are numbers.
_RANGES: Final[dict[str, tuple[int, ...]]] = {
    "state_get": (0, 2),
    "state_set": (0, 2),
    "state_delete": (0,),
    "state_has": (0,),
    "state_keys": (0,),
    "emit": (0, 2),
    "emit_to": (0, 2, 4),
    "view": (0, 2, 4),
    "result": (0,),
    "fail": (0,),
    "fail_code": (0, 2),
    "log": (1,),
    "random": (0,),
    "ext_call": (0, 2, 4),
}
#: Calls of WASI with one address that is a lie.
_WASI: Final = {
    "args_sizes_get": "{} (i32.const 64)",
    "environ_sizes_get": "(i32.const 64) {}",
    "clock_res_get": "(i32.const 0) {}",
    "clock_time_get": "(i32.const 0) (i64.const 0) {}",
    "fd_fdstat_get": "(i32.const 1) {}",
    "random_get": "{} (i32.const 64)",
    "fd_write": "(i32.const 1) {} (i32.const 1) (i32.const 64)",
}


def attacks() -> list[Attack]:
    """The family: an attack for every import that takes a range."""
    made = [attack(FAMILY, name, _lies(name)) for name in _RANGES]
    made.append(attack(FAMILY, "WASI", _wasi()))
    made.append(attack(FAMILY, "alloc and arguments", _allocs()))
    made.append(attack(FAMILY, "odd addresses", _odd(), commits=True))
    return made


def covered() -> set[str]:
    """The imports from ``panels`` whose ranges are lied about."""
    return set(_RANGES)


def _calling(name: str, values: list[int]) -> str:
    operands = " ".join(f"(i32.const {value})" for value in values)
    made = f"(call ${name} {operands})"
    return f"(drop {made})" if abi.IMPORTS[name][1] else made


def _values(name: str) -> list[int]:
    """Arguments with which all is well."""
    values = [1] * len(abi.IMPORTS[name][0])
    for at in _RANGES[name]:
        values[at : at + 2] = TEXT
    return values


def _lies(name: str) -> list[Call]:
    made: list[Call] = []
    for at in _RANGES[name]:
        for pointer, length in LIES:
            values = _values(name)
            values[at : at + 2] = [pointer, length]
            made.append(
                call(f"{pointer}+{length} at {at}", module(_calling(name, values)), "TRAP", "LIMIT_EXCEEDED")
            )
    return made


def _wasi() -> list[Call]:
    made = [
        call(
            f"{name} to {pointer}",
            module(
                f"(drop (call ${name} {operands.format(f'(i32.const {pointer})')}))",
                imports=wasi_import(name),
            ),
            "TRAP",
        )
        for name, operands in _WASI.items()
        for pointer in (-1, END - 1, 0x7FFF_FFFF)
    ]
    parts = "(drop (call $fd_write (i32.const 1) (i32.const 4096) (i32.const {}) (i32.const 64)))"
    store = "(i32.store (i32.const 4096) (i32.const {})) (i32.store (i32.const 4100) (i32.const {}))"
    imports = wasi_import("fd_write")
    made += [
        call(
            f"fd_write of {pointer}+{length}",
            module(store.format(pointer, length) + parts.format(1), imports=imports),
            "TRAP", RETURNED,
        )
        for pointer, length in LIES
    ]  # fmt: skip
    made.append(
        call("fd_write of 4 thousand million parts", module(parts.format(-1), imports=imports), RETURNED)
    )
    made.append(
        call(
            "random_get of 4 GiB",
            module(
                "(drop (call $random_get (i32.const 0) (i32.const -1)))", imports=wasi_import("random_get")
            ),
            RETURNED,
        )
    )
    return made  # fmt: skip


def _allocs() -> list[Call]:
    return [
        call(f"alloc gives {address}", module("", alloc=f"(i32.const {address})"), "TRAP", args="x" * 1_000)
        for address in (-1, -16, END, END - 1, 0x7FFF_FFFF, -(2**31))
    ]


def _odd() -> list[Call]:
    """What is unusual and allowed: addresses without alignment, empty ranges, ranges that overlap."""
    copy = "(memory.copy (i32.const {0}) (i32.const 16) (i32.const 4))"
    made = [
        call(
            f"{name} at {at}",
            module(
                copy.format(at)
                + _calling(name, [at if value == TEXT[0] else value for value in _values(name)])
            ),
            RETURNED, "HANDLER_ERROR",
        )
        for name in _RANGES
        for at in (4097, 4099, END - 4)
    ]  # fmt: skip
    made += [
        call(
            f"unaligned {first}", module(f"(drop ({first}.load align=1 (i32.const 1)))"), RETURNED
        )
        for first, _ in pairwise(("i32", "i64", "f32", "f64", ""))
    ]  # fmt: skip
    return made
