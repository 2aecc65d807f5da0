"""Why a guest stopped before its function returned: traps, and the stops that a host function asks for.

    Exception
     ├── GuestTrap                  the guest trapped; for kind HOST, ``__cause__`` is the HostStop
     ├── InstantiationError         the module does not fit within the limits of its store
     └── HostStop                   a host function stops the guest
          ├── BadPointerError       the guest passed a range outside its memory
          ├── ExitError             the guest called WASI's ``proc_exit``
          └── InvalidResultError    the guest returned something that is not JSON

``endings`` turns each of these into the outcome of a job.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class TrapKind(Enum):
    """Why a guest stopped, as far as jobs tell the difference."""

    FUEL = "out of fuel"
    INTERRUPT = "interrupted by its deadline"
    STACK = "call stack exhausted"
    MEMORY = "out of bounds memory access"
    UNREACHABLE = "unreachable executed"
    HOST = "stopped by the host"
    OTHER = "trapped"


# wasmtime_trap_code_t; codes newer than this table are OTHER
_KINDS: Final = {
    0: TrapKind.STACK,
    1: TrapKind.MEMORY,
    9: TrapKind.UNREACHABLE,
    10: TrapKind.INTERRUPT,
    11: TrapKind.FUEL,
}
_WORDS: Final = {
    2: "misaligned atomic access",
    3: "out of bounds table access",
    4: "indirect call to null",
    5: "indirect call type mismatch",
    6: "integer overflow",
    7: "integer divide by zero",
    8: "invalid conversion to integer",
}


class GuestTrap(Exception):  # noqa: N818 - a trap is its name in the field
    """The guest trapped. ``text`` is a few words without inner detail; the store must be closed, not used
    again.
    """

    def __init__(self, kind: TrapKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class InstantiationError(Exception):
    """The module could not be instantiated within its limits."""


def trap_of(code: int | None) -> GuestTrap:
    """The exception for a wasmtime trap code; None stands for a trap without a code."""
    if code is None:
        return GuestTrap(TrapKind.OTHER, TrapKind.OTHER.value)
    kind = _KINDS.get(code, TrapKind.OTHER)
    return GuestTrap(kind, _WORDS.get(code, kind.value))


class HostStop(Exception):  # noqa: N818 - control flow, not an error
    """A host function raises this to stop the guest; ``Store.call`` then raises a trap of kind HOST."""


class BadPointerError(HostStop):
    """The guest passed a pointer and a length that do not lie within its memory."""


class ExitError(HostStop):
    """The guest asked WASI to exit with ``code``."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class InvalidResultError(HostStop):
    """The guest's return value is not JSON. The text is written for the client."""
