"""A module as a handler: the program that runs one in a fresh instance per job."""

from __future__ import annotations

from time import perf_counter_ns

import msgspec
from wasmtime import Module

from panels_shared.limits import Limits
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest import endings
from panels_worker.guest.abi import WasmHost
from panels_worker.guest.effects import Effects
from panels_worker.guest.endings import ENDINGS
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS, ticks
from panels_worker.guest.run import WasmRun
from panels_worker.guest.store import Store
from panels_worker.guest.task import Execution, Task

#: What the entry returns for a handler that waits for an extension.
_SUSPENDED = 1


class WasmProgram:
    """One compiled module and its entry, ready to run.

    Raises ``wasmtime.WasmtimeError`` for a module with an import that ``host`` does not define; the preflight
    has refused such a module before it was compiled.
    """

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
        store: Store | None = None
        failure: Failed | None = None
        used = 0
        try:
            store = self._open(limits)
            code = self._enter(store, run, task.args)
            fuel_used = limits.fuel - store.fuel()
            if code or run.failure is not None:
                failure = _failure_of(code, run.failure)
        except ENDINGS as ending:
            failure = _explain(ending, run, limits)
            fuel_used = endings.fuel_used(ending, limits, None if store is None else store.fuel())
        finally:
            self._host.run = None
            if store is not None:
                if run.memory:
                    used = store.memory_bytes(run.memory)
                store.close()
        if failure is not None:
            failure = _blame_memory(failure, used, limits)
        elapsed_us = (perf_counter_ns() - started) // 1_000
        usage = Usage(fuel_used, elapsed_us, used, used, effects.calls, self._warm)
        self._warm = True
        return endings.conclude(effects, usage, failure)

    def _open(self, limits: Limits) -> Store:
        return Store(
            self._template,
            fuel=limits.fuel,
            epoch_ticks=ticks(limits.deadline_ms),
            memory_bytes=limits.memory_bytes,
            table_elements=MAX_TABLE_ELEMENTS,
        )

    def _enter(self, store: Store, run: WasmRun, args: bytes) -> int:
        """Copies ``args`` into the guest and calls the entry; returns the entry's code."""
        run.enter(store)
        if self._has_initialize:
            store.call(store.export(b"_initialize"))
        pointer = store.call_i32(store.export(b"alloc"), len(args))
        run.write(pointer, args)
        return store.call_i32(store.export(self._entry), pointer, len(args))


def _failure_of(code: int, said: str | None) -> Failed:
    """The failure of a handler that returned ``code``; ``said`` is what it passed to ``fail``, if it did."""
    if said is not None:
        text = said or "the handler failed without a message"
    elif code == _SUSPENDED:
        text = "the handler was suspended, but no extension call is pending"
    else:
        text = f"the handler returned {code}; expected 0"
    return endings.failed(Reason.HANDLER_ERROR, text)


def _explain(ending: Exception, run: WasmRun, limits: Limits) -> Failed | None:
    """The failure that ``ending`` stands for; None for a guest that left by ``proc_exit(0)``."""
    failure = None if endings.exited_well(ending) else endings.explain(ending, limits)
    if run.failure is not None and (failure is None or failure.reason is Reason.TRAP):
        # the handler reported its failure before it left, by exit(0) or by a trap
        return _failure_of(0, run.failure)
    return failure


def _blame_memory(failure: Failed, used_bytes: int, limits: Limits) -> Failed:
    """``failure``, or MEMORY_LIMIT for a handler that failed when its memory was almost full."""
    if failure.reason not in (Reason.TRAP, Reason.HANDLER_ERROR):
        return failure
    if not endings.near_memory_limit(used_bytes, limits):
        return failure
    text = f"{failure.message} (with {used_bytes} of {limits.memory_bytes} bytes of memory in use)"
    return msgspec.structs.replace(failure, reason=Reason.MEMORY_LIMIT, message=text)
