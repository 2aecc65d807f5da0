"""What the prelude may ask of the host: functions that get strings and return a handle of the guest.

They are the prelude's alone (it takes them off the global object before a handler is compiled), and trust it in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from panels_shared import jsonvalue
from panels_worker.guest.effects import Denied

if TYPE_CHECKING:
    from panels_worker.javascript.guest import GuestRun

HostFunction = Callable[..., int]


def _state_get(run: GuestRun, key: str = "") -> int:
    try:
        value = run.effects.get(key)
    except Denied:
        return run.call(b"new_null")
    return run.call(b"new_undefined") if value is None else run.new_string(value)


def _state_has(run: GuestRun, key: str = "") -> int:
    try:
        return run.call(b"new_bool", 1 if run.effects.has(key) else 0)
    except Denied:
        return run.call(b"new_null")


def _state_keys(run: GuestRun) -> int:
    return run.new_string(jsonvalue.encode(run.effects.keys()))


def _log(run: GuestRun, level: str = "1", text: str = "") -> int:
    run.effects.write_log(int(level) if level in "0123" and level else 1, text)
    return run.call(b"new_undefined")


def _scope(run: GuestRun) -> int:
    return run.new_string(run.effects.task.scope)


def _now(run: GuestRun) -> int:
    return run.new_string(repr(run.effects.task.now_ms).encode())


def _seed(run: GuestRun) -> int:
    number = run.effects.task.seed
    return run.new_string(b"[%d,%d,%d]" % (number & 0x7FFF_FFFF, number >> 31 & 0x7FFF_FFFF, number >> 33))


#: By the names of the globals that the prelude finds them under.
HOST_FUNCTIONS: Final[Mapping[bytes, HostFunction]] = {
    b"h_state_get": _state_get,
    b"h_state_has": _state_has,
    b"h_state_keys": _state_keys,
    b"h_log": _log,
    b"h_scope": _scope,
    b"h_now": _now,
    b"h_seed": _seed,
}
