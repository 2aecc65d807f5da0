"""What the prelude may ask of the host: functions that take strings and return a handle of the guest.

They belong to the prelude alone, which takes them off the global object before a handler is compiled; they
trust it in nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from panels_shared import jsonvalue
from panels_worker.guest.effects import Denied, Effects, InvalidName


class GuestValues(Protocol):
    """The instance that asks: the effects of its job, and ways to make values in it."""

    @property
    def effects(self) -> Effects:
        """What the job has done so far."""
        ...

    def call(self, name: bytes, *args: int) -> int:
        """Calls an export that returns a handle."""
        ...

    def new_string(self, data: bytes) -> int:
        """A handle to a string."""
        ...


HostFunction = Callable[..., int]


def _state_get(run: GuestValues, key: str = "") -> int:
    try:
        value = run.effects.get(key)
    except Denied:
        return run.call(b"new_null")
    return run.call(b"new_undefined") if value is None else run.new_string(value)


def _state_has(run: GuestValues, key: str = "") -> int:
    try:
        return run.call(b"new_bool", 1 if run.effects.has(key) else 0)
    except Denied:
        return run.call(b"new_null")


def _state_keys(run: GuestValues) -> int:
    return run.new_string(jsonvalue.encode(run.effects.keys()))


def _log(run: GuestValues, level: str = "1", text: str = "") -> int:
    run.effects.write_log(int(level) if level in "0123" and level else 1, text)
    return run.call(b"new_undefined")


def _scope(run: GuestValues) -> int:
    return run.new_string(run.effects.task.scope)


def _now(run: GuestValues) -> int:
    return run.new_string(repr(run.effects.task.now_ms).encode())


def _seed(run: GuestValues) -> int:
    number = run.effects.task.seed
    return run.new_string(b"[%d,%d,%d]" % (number & 0x7FFF_FFFF, number >> 31 & 0x7FFF_FFFF, number >> 33))


def _ext_call(run: GuestValues, extension: str = "", method: str = "", args: str = "[]") -> int:
    try:
        number = run.effects.call_extension(extension, method, args.encode())
    except Denied:
        return run.call(b"new_null")
    except InvalidName:
        return run.call(b"new_undefined")
    return run.new_string(b"%d" % number)


#: By the names of the globals that the prelude finds them under.
HOST_FUNCTIONS: Final[Mapping[bytes, HostFunction]] = {
    b"h_state_get": _state_get,
    b"h_state_has": _state_has,
    b"h_state_keys": _state_keys,
    b"h_log": _log,
    b"h_scope": _scope,
    b"h_now": _now,
    b"h_seed": _seed,
    b"h_ext_call": _ext_call,
}
