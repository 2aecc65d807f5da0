"""Modules as handlers: *panels ABI v1* (docs/abi.md), and the program that runs one in a fresh instance per job.

Host functions are registered once per process and find the job they serve in ``WasmHost.run``, because one process runs one
job at a time. Every pointer and length of a guest is checked against its memory; one that lies ends the job as a trap would.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final

from wasmtime import Engine, Module, ValType

from panels_shared import jsonvalue
from panels_shared.limits import KIB, MIB
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest import wasi
from panels_worker.guest.capi import (
    I64_STEP,
    GuestTrap,
    HostLinker,
    HostStop,
    InstantiationError,
    Signature,
    Store,
    TrapKind,
    window,
    write_bytes,
)
from panels_worker.guest.effects import Denied, Effects, InvalidValue, LimitReached
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS, ticks
from panels_worker.guest.task import Execution, Task

#: What host functions return to a guest.
ABSENT: Final = -1
DENIED: Final = -2
LIMIT: Final = -3
INVALID: Final = -4

#: A guest that asks for more random bytes at once is broken or hostile.
MAX_RANDOM_BYTES: Final = 64 * KIB
#: A failed job whose memory had come this near its limit is said to have run out of it.
_NEAR_LIMIT_BYTES: Final = MIB
_MAX_MESSAGE_CHARS: Final = 4_096

_I32, _I64, _F64 = ValType.i32(), ValType.i64(), ValType.f64()


class BadPointerError(HostStop):
    """The guest gave a pointer and length that do not lie in its memory."""


class ExitError(HostStop):
    """The guest asked WASI to exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class WasmRun:
    """One job in one instance: the guest's memory and what the job has done."""

    __slots__ = ("base", "effects", "failure", "instance", "memory", "size", "window")

    def __init__(self, effects: Effects) -> None:
        self.effects = effects
        self.failure: str | None = None
        self.instance: Store | None = None
        self.memory = 0
        self.base = 0
        self.size = 0
        self.window: Any = b""

    def enter(self, store: Store) -> None:
        """Looks at the memory of ``store``'s instance."""
        self.instance = store
        self.memory = store.export(b"memory")
        self.base = store.memory_base(self.memory)
        self.size = store.memory_bytes(self.memory)
        self.window = window(self.base, self.size)

    def read(self, pointer: int, length: int) -> bytes:
        """A copy of guest memory. Raises ``BadPointerError``."""
        pointer &= 0xFFFF_FFFF
        length &= 0xFFFF_FFFF
        end = pointer + length
        if end > self.size:
            self._grown(end)
        return self.window[pointer:end]  # type: ignore[no-any-return]

    def read_text(self, pointer: int, length: int) -> str:
        """UTF-8 text in guest memory. Raises ``BadPointerError``, ``InvalidValue``."""
        pointer &= 0xFFFF_FFFF
        length &= 0xFFFF_FFFF
        end = pointer + length
        if end > self.size:
            self._grown(end)
        try:
            return self.window[pointer:end].decode()  # type: ignore[no-any-return]
        except UnicodeDecodeError:
            raise InvalidValue("expected UTF-8") from None

    def write(self, pointer: int, data: bytes) -> None:
        """Writes into guest memory. Raises ``BadPointerError``."""
        pointer &= 0xFFFF_FFFF
        if pointer + len(data) > self.size:
            self._grown(pointer + len(data))
        write_bytes(self.base + pointer, data, len(data))

    def check(self, pointer: int, length: int) -> None:
        """Raises ``BadPointerError`` unless the range lies in guest memory."""
        pointer &= 0xFFFF_FFFF
        length &= 0xFFFF_FFFF
        if pointer + length > self.size:
            self._grown(pointer + length)

    def _grown(self, end: int) -> None:
        # a memory only ever grows, so the size is asked for again only when it seems too small
        if self.instance is None:
            raise BadPointerError("a host function was called before the instance was complete")
        self.size = self.instance.memory_bytes(self.memory)
        self.window = window(self.base, self.size)
        if end > self.size:
            raise BadPointerError(
                f"expected a range within {self.size} bytes of memory, got one that ends at {end}"
            )


class WasmHost:
    """The imports of every module, and the job that is running."""

    def __init__(self, engine: Engine) -> None:
        self.run: WasmRun | None = None
        self.linker = HostLinker(engine)
        for name, params, results, function in (
            ("state_get", 4, [_I32], self._state_get),
            ("state_set", 4, [_I32], self._state_set),
            ("state_delete", 2, [_I32], self._state_delete),
            ("state_has", 2, [_I32], self._state_has),
            ("state_keys", 2, [_I32], self._state_keys),
            ("emit", 4, [_I32], self._emit),
            ("view", 6, [_I32], self._view),
            ("result", 2, [], self._result),
            ("fail", 2, [], self._fail),
            ("log", 3, [], self._log),
            ("random", 2, [], self._random),
        ):
            self.linker.define("panels", name, [_I32] * params, results, self._guarded(function))
        self.linker.define("panels", "now_ms", [], [_F64], self._now_ms, Signature.F64)
        self.linker.define("panels", "ext_call", [_I32] * 6, [_I64], self._ext_call, Signature.I64)
        wasi.define(self.linker, self._current)

    def _current(self) -> WasmRun:
        run = self.run
        if run is None:
            raise HostStop("no job is running")
        return run

    def _guarded(self, function: Callable[[WasmRun, Any], int | None]) -> Callable[[Any], None]:
        """Counts the call, and turns what a guest may have an answer to into the ABI's negative numbers."""

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

    # raw values are 16 bytes apart, and an i32 index steps by 4: a slice takes several at once

    @staticmethod
    def _state_get(run: WasmRun, raw: Any) -> int:
        key, key_length, pointer, room = raw[0:16:4]
        run.check(pointer, room)
        value = run.effects.get(run.read_text(key, key_length))
        if value is None:
            return ABSENT
        if len(value) <= room & 0xFFFF_FFFF:
            run.write(pointer, value)
        return len(value)

    @staticmethod
    def _state_set(run: WasmRun, raw: Any) -> int:
        key, key_length, pointer, length = raw[0:16:4]
        run.effects.set(run.read_text(key, key_length), run.read(pointer, length))
        return 0

    @staticmethod
    def _state_delete(run: WasmRun, raw: Any) -> int:
        return 0 if run.effects.delete(run.read_text(raw[0], raw[4])) else ABSENT

    @staticmethod
    def _state_has(run: WasmRun, raw: Any) -> int:
        return 1 if run.effects.has(run.read_text(raw[0], raw[4])) else 0

    @staticmethod
    def _state_keys(run: WasmRun, raw: Any) -> int:
        pointer, room = raw[0], raw[4]
        run.check(pointer, room)
        keys = jsonvalue.encode(run.effects.keys())
        if len(keys) <= room & 0xFFFF_FFFF:
            run.write(pointer, keys)
        return len(keys)

    @staticmethod
    def _emit(run: WasmRun, raw: Any) -> int:
        name, name_length, pointer, length = raw[0:16:4]
        run.effects.emit(run.read_text(name, name_length), run.read(pointer, length))
        return 0

    @staticmethod
    def _view(run: WasmRun, raw: Any) -> int:
        params = run.read(raw[16], raw[20])
        run.effects.view(run.read_text(raw[0], raw[4]), run.read_text(raw[8], raw[12]), params)
        return 0

    @staticmethod
    def _result(run: WasmRun, raw: Any) -> None:
        try:
            run.effects.returns(run.read(raw[0], raw[4]))
        except InvalidValue as exc:
            raise InvalidResultError(str(exc)) from None

    @staticmethod
    def _fail(run: WasmRun, raw: Any) -> None:
        run.failure = run.read(raw[0], raw[4]).decode("utf-8", "replace")[:_MAX_MESSAGE_CHARS]

    @staticmethod
    def _log(run: WasmRun, raw: Any) -> None:
        run.effects.write_log(raw[0], run.read(raw[4], raw[8]).decode("utf-8", "replace"))

    @staticmethod
    def _random(run: WasmRun, raw: Any) -> None:
        pointer, count = raw[0], raw[4] & 0xFFFF_FFFF
        if count > MAX_RANDOM_BYTES:
            raise LimitReached(f"expected at most {MAX_RANDOM_BYTES} random bytes at a time, got {count}")
        run.write(pointer, run.effects.random_bytes(count))

    def _now_ms(self, raw: Any) -> None:
        run = self._current()
        run.effects.count_call()
        raw[0] = run.effects.task.now_ms

    def _ext_call(self, raw: Any) -> None:
        run = self._current()
        run.effects.count_call()
        try:
            name = run.read_text(raw[0] & 0xFFFF_FFFF, raw[I64_STEP] & 0xFFFF_FFFF)
            allowed = run.effects.task.capabilities.may_call(name)
        except InvalidValue:
            raw[0] = INVALID
            return
        # no extension is registered: whoever may call one finds none
        raw[0] = ABSENT if allowed else DENIED


class InvalidResultError(HostStop):
    """The guest's return value is not JSON. The text is for the client."""


class WasmProgram:
    """One compiled module and its entry, ready to run."""

    __slots__ = ("_entry", "_has_initialize", "_host", "_template", "_warm")

    def __init__(self, host: WasmHost, module: Module, entry: str) -> None:
        self._host = host
        self._has_initialize = any(export.name == "_initialize" for export in module.exports)
        self._template = host.linker.link(module)
        self._entry = entry.encode()
        self._warm = False

    def run(self, task: Task) -> Execution:
        """Runs the entry in a fresh instance; see ``task.Program``."""
        started = perf_counter_ns()
        limits = task.limits
        effects = Effects(task)
        run = self._host.run = WasmRun(effects)
        fuel = limits.fuel
        store: Store | None = None
        reason: Reason | None = None
        message = ""
        used = peak = 0
        fuel_used = -1
        try:
            store = Store(
                self._template,
                fuel=fuel,
                epoch_ticks=ticks(limits.deadline_ms),
                memory_bytes=limits.memory_bytes,
                table_elements=MAX_TABLE_ELEMENTS,
            )
            code = self._enter(store, run, task.args)
            fuel_used = fuel - store.fuel()
            if run.failure is not None:
                reason, message = Reason.HANDLER_ERROR, run.failure or "the handler failed without a message"
            elif code == 1:
                reason, message = (
                    Reason.HANDLER_ERROR,
                    "the handler was suspended, but no extension call is pending",
                )
            elif code != 0:
                reason, message = Reason.HANDLER_ERROR, f"the handler returned {code}; expected 0"
        except GuestTrap as trap:
            reason, message = _explain(trap)
            if reason is None:
                fuel_used = fuel - store.fuel() if store is not None else -1
            elif reason is Reason.FUEL_EXHAUSTED:
                fuel_used = fuel
            elif trap.kind is not TrapKind.INTERRUPT and store is not None:
                fuel_used = fuel - store.fuel()
            if run.failure is not None and reason in (None, Reason.TRAP):
                # it said that it fails before it left, by exit(0) or by a trap
                reason, message = Reason.HANDLER_ERROR, run.failure or "the handler failed without a message"
        except LimitReached as limit:
            reason, message = Reason.LIMIT_EXCEEDED, str(limit)
        except BadPointerError as exc:
            reason, message = Reason.TRAP, str(exc)
        except InstantiationError:
            reason = Reason.MEMORY_LIMIT
            message = f"the module does not fit into {limits.memory_bytes} bytes of memory"
        finally:
            self._host.run = None
            if store is not None:
                if run.memory:
                    used = peak = store.memory_bytes(run.memory)
                store.close()
        if reason in (Reason.TRAP, Reason.HANDLER_ERROR) and used + _NEAR_LIMIT_BYTES > limits.memory_bytes:
            reason = Reason.MEMORY_LIMIT
            message = f"{message} (with {used} of {limits.memory_bytes} bytes of memory in use)"
        usage = Usage(
            fuel_used, (perf_counter_ns() - started) // 1_000, used, peak, effects.calls, self._warm
        )
        self._warm = True
        if reason is None:
            return Execution(effects.completed(usage), effects.changes)
        return Execution(Failed(usage, reason, message, log=tuple(effects.log)), {})

    def _enter(self, store: Store, run: WasmRun, args: bytes) -> int:
        """Copies ``args`` in and calls the entry; its code."""
        run.enter(store)
        if self._has_initialize:
            store.call(store.export(b"_initialize"))
        pointer = store.call_i32(store.export(b"alloc"), len(args))
        run.write(pointer, args)
        return store.call_i32(store.export(self._entry), pointer, len(args))


def _explain(trap: GuestTrap) -> tuple[Reason | None, str]:
    """The reason for a trap, None for a guest that ended well by exit(0)."""
    match trap.kind:
        case TrapKind.FUEL:
            return Reason.FUEL_EXHAUSTED, "the handler used up its fuel"
        case TrapKind.INTERRUPT:
            return Reason.TIMEOUT, "the handler ran past its deadline"
        case TrapKind.STACK:
            return Reason.STACK_OVERFLOW, "the handler's call stack is exhausted"
        case TrapKind.HOST:
            cause = trap.__cause__
            if isinstance(cause, ExitError):
                return (
                    (None, "")
                    if cause.code == 0
                    else (Reason.HANDLER_ERROR, f"the handler exited with {cause.code}")
                )
            if isinstance(cause, InvalidResultError):
                return Reason.INVALID_RESULT, str(cause)
            return Reason.TRAP, str(cause)
        case _:
            return Reason.TRAP, f"the handler trapped: {trap.text}"
