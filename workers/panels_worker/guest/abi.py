"""The host functions of *panels ABI v1* (docs/abi.md), which modules import from ``panels``.

They are registered once per process and find the job they serve in ``WasmHost.run``, because one process runs
one job at a time. Every pointer and length that a guest passes is checked against its memory; one that lies
outside ends the job as a trap would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wasmtime import Engine, ValType

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.failure import CODE_FIELD, DETAILS_FIELD, is_code, read_details
from panels_shared.limits import KIB, MAX_HANDLER_DETAILS_BYTES
from panels_worker.guest import wasi
from panels_worker.guest.capi import I64_STEP
from panels_worker.guest.effects import Denied, InvalidValue, LimitReached
from panels_worker.guest.linker import HostFunction, HostLinker, Signature
from panels_worker.guest.run import WasmRun
from panels_worker.guest.traps import HostStop, InvalidResultError

MODULE: Final = "panels"

#: What host functions return to a guest in place of a length.
ABSENT: Final = -1
DENIED: Final = -2
INVALID: Final = -4

#: The most random bytes for one call: a security limit.
MAX_RANDOM_BYTES: Final = 64 * KIB
#: Characters of a failure's message: a security limit.
MAX_MESSAGE_CHARS: Final = 4_096
_MAX_CHAR_BYTES: Final = 4

_TYPES: Final = {"i": ValType.i32(), "I": ValType.i64(), "F": ValType.f64()}

#: Every import that a module may have from ``panels``: name → (parameters, result); i is i32, I is i64, F is
#: f64.
IMPORTS: Final[dict[str, tuple[str, str]]] = {
    "state_get": ("iiii", "i"),
    "state_set": ("iiii", "i"),
    "state_delete": ("ii", "i"),
    "state_has": ("ii", "i"),
    "state_keys": ("ii", "i"),
    "emit": ("iiii", "i"),
    "emit_to": ("iiiiii", "i"),
    "view": ("iiiiii", "i"),
    "result": ("ii", ""),
    "fail": ("ii", ""),
    "fail_code": ("iiii", "i"),
    "log": ("iii", ""),
    "now_ms": ("", "F"),
    "random": ("ii", ""),
    "ext_call": ("iiiiii", "I"),
}


class WasmHost:
    """The imports of every module, and the job that they serve.

    Set ``run`` before the guest is entered and back to None afterwards: a host function that is called in
    between jobs stops the guest. Host functions raise ``LimitReached``, and ``HostStop`` for a guest that
    broke the ABI; both end the job. Denied and invalid calls only return a negative number.
    """

    def __init__(self, engine: Engine) -> None:
        self.run: WasmRun | None = None
        self.linker = HostLinker(engine)
        functions: dict[str, Callable[[WasmRun, Any], int | None]] = {
            "state_get": _state_get,
            "state_set": _state_set,
            "state_delete": _state_delete,
            "state_has": _state_has,
            "state_keys": _state_keys,
            "emit": _emit,
            "emit_to": _emit_to,
            "view": _view,
            "result": _result,
            "fail": _fail,
            "fail_code": _fail_code,
            "log": _log,
            "random": _random,
        }
        for name, function in functions.items():
            self._define(name, self._guarded(function))
        self._define("now_ms", self._now_ms, Signature.F64)
        self._define("ext_call", self._ext_call, Signature.I64)
        wasi.define(self.linker, self._current)

    def _define(self, name: str, function: HostFunction, index: Signature = Signature.I32) -> None:
        params, results = ([_TYPES[letter] for letter in letters] for letters in IMPORTS[name])
        self.linker.define(MODULE, name, params, results, function, index)

    def _current(self) -> WasmRun:
        run = self.run
        if run is None:
            raise HostStop("no job is running")
        return run

    def _guarded(self, function: Callable[[WasmRun, Any], int | None]) -> Callable[[Any], None]:
        """``function`` with its call counted, and with the failures that a guest may handle as negative
        numbers.
        """

        def call(raw: Any) -> None:
            run = self.run
            if run is None:
                raise HostStop("no job is running")
            run.effects.count_call()
            try:
                answer = function(run, raw)
            except Denied:
                answer = DENIED
            except InvalidValue:
                answer = INVALID
            if answer is not None:
                raw[0] = answer

        return call

    def _now_ms(self, raw: Any) -> None:
        run = self._current()
        run.effects.count_call()
        raw[0] = run.effects.task.now_ms

    def _ext_call(self, raw: Any) -> None:
        run = self._current()
        run.effects.count_call()
        values = [raw[at * I64_STEP] & 0xFFFF_FFFF for at in range(6)]
        try:
            extension, method = run.read_text(*values[0:2]), run.read_text(*values[2:4])
            raw[0] = run.effects.call_extension(extension, method, run.read_value(*values[4:6]))
        except Denied:
            raw[0] = DENIED
        except InvalidValue:
            raw[0] = INVALID


# Raw values are 16 bytes apart, so an i32 index steps by 4: a slice takes several arguments at once.


def _state_get(run: WasmRun, raw: Any) -> int:
    key, key_length, pointer, room = raw[0:16:4]
    run.check(pointer, room)
    value = run.effects.get(run.read_text(key, key_length))
    if value is None:
        return ABSENT
    if len(value) <= room & 0xFFFF_FFFF:
        run.write(pointer, value)
    return len(value)


def _state_set(run: WasmRun, raw: Any) -> int:
    key, key_length, pointer, length = raw[0:16:4]
    run.effects.set(run.read_text(key, key_length), run.read_value(pointer, length))
    return 0


def _state_delete(run: WasmRun, raw: Any) -> int:
    return 0 if run.effects.delete(run.read_text(raw[0], raw[4])) else ABSENT


def _state_has(run: WasmRun, raw: Any) -> int:
    return 1 if run.effects.has(run.read_text(raw[0], raw[4])) else 0


def _state_keys(run: WasmRun, raw: Any) -> int:
    pointer, room = raw[0], raw[4]
    run.check(pointer, room)
    keys = jsonvalue.encode(run.effects.keys())
    if len(keys) <= room & 0xFFFF_FFFF:
        run.write(pointer, keys)
    return len(keys)


def _emit(run: WasmRun, raw: Any) -> int:
    name, name_length, pointer, length = raw[0:16:4]
    run.effects.emit(run.read_text(name, name_length), run.read_value(pointer, length))
    return 0


def _emit_to(run: WasmRun, raw: Any) -> int:
    payload = run.read_value(raw[8], raw[12])
    run.effects.emit(run.read_text(raw[0], raw[4]), payload, run.read_text(raw[16], raw[20]))
    return 0


def _view(run: WasmRun, raw: Any) -> int:
    params = run.read_value(raw[16], raw[20])
    run.effects.view(run.read_text(raw[0], raw[4]), run.read_text(raw[8], raw[12]), params)
    return 0


def _result(run: WasmRun, raw: Any) -> None:
    try:
        run.effects.returns(run.read_value(raw[0], raw[4]))
    except InvalidValue as exc:
        raise InvalidResultError(str(exc)) from None


def _fail(run: WasmRun, raw: Any) -> None:
    text = _read_some(run, raw[0], raw[4], _MAX_CHAR_BYTES * MAX_MESSAGE_CHARS)
    run.failure = text[:MAX_MESSAGE_CHARS]


def _fail_code(run: WasmRun, raw: Any) -> int:
    pointer, length, details, details_length = raw[0:16:4]
    code = run.read_text(pointer, length)
    found: dict[str, object] = {CODE_FIELD: code}
    run.check(details, details_length)
    size = details_length & 0xFFFF_FFFF
    if not is_code(code) or size > MAX_HANDLER_DETAILS_BYTES:
        return INVALID
    if size:
        try:
            found[DETAILS_FIELD] = read_details(run.read(details, size))
        except InvalidJsonError:
            return INVALID
    run.failure_details = jsonvalue.encode(found)
    return 0


def _log(run: WasmRun, raw: Any) -> None:
    # one byte more than is kept, so that what is cut is marked as cut
    run.effects.write_log(raw[0], _read_some(run, raw[4], raw[8], run.effects.task.limits.log_bytes + 1))


def _read_some(run: WasmRun, pointer: int, length: int, most: int) -> str:
    """The beginning of a text: the whole of a memory may be handed over, and decoding it takes a second."""
    run.check(pointer, length)
    return run.read(pointer, min(length & 0xFFFF_FFFF, most)).decode("utf-8", "replace")


def _random(run: WasmRun, raw: Any) -> None:
    pointer, count = raw[0], raw[4] & 0xFFFF_FFFF
    if count > MAX_RANDOM_BYTES:
        raise LimitReached(f"expected at most {MAX_RANDOM_BYTES} random bytes at a time, got {count}")
    run.write(pointer, run.effects.random_bytes(count))
