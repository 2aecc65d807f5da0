"""A module as a handler: the program that runs one in a fresh instance per job."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Final

import msgspec
from wasmtime import GlobalType, Module

from panels_shared.limits import Limits
from panels_shared.messages import Answered
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest import endings
from panels_worker.guest.abi import MAX_MESSAGE_CHARS, WasmHost
from panels_worker.guest.calls import Calls
from panels_worker.guest.effects import Effects
from panels_worker.guest.endings import ENDINGS
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS, ticks
from panels_worker.guest.image import Image, ImageError
from panels_worker.guest.linker import Template
from panels_worker.guest.pages import Baseline
from panels_worker.guest.run import WasmRun
from panels_worker.guest.store import Store
from panels_worker.guest.suspension import Continuity, start_task
from panels_worker.guest.task import Execution, Task

#: What the entry and ``resume`` return for a handler that waits for an extension.
_SUSPENDED: Final = 1
_NUMBERS: Final = ("i32", "i64", "f32", "f64")


class WasmProgram:
    """One compiled module and its entry, ready to run.

    ``digest`` names the handler in the images of its suspensions. Raises ``wasmtime.WasmtimeError`` for a
    module with an import that ``host`` does not define; the preflight has refused such a module before it was
    compiled.
    """

    __slots__ = ("_continuity", "_entry", "_has_initialize", "_has_resume", "_host", "_template", "_warm")

    def __init__(self, host: WasmHost, module: Module, entry: str, digest: bytes = bytes(32)) -> None:
        self._host = host
        names = {export.name for export in module.exports}
        self._has_initialize = "_initialize" in names
        self._has_resume = "resume" in names
        self._template = host.linker.link(module)
        self._entry = entry.encode()
        self._continuity = Continuity(digest, _carried(module))
        self._warm = False

    def run(self, task: Task) -> Execution:
        """Runs the entry in a fresh instance; see ``task.Program``."""
        return self._execute(Effects(task), None, ())

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        """Calls ``resume`` in an instance made from the image; see ``task.Program``."""
        return self._execute(Effects(task), image, answers)

    def _execute(self, effects: Effects, image: bytes | None, answers: Sequence[Answered]) -> Execution:
        """One segment: from the beginning, or (``image``) from a suspension."""
        started = perf_counter_ns()
        limits = effects.task.limits
        run = self._host.run = WasmRun(effects)
        store: Store | None = None
        failure: Failed | None = None
        suspended: bytes | None = None
        used = 0
        fuel_used = -1
        try:
            if image is None:
                store = _open(self._template, limits)
                code = self._enter(store, run, effects.task.args)
            else:
                stored = self._unpack(run, image)
                store = self._open_silently(run)
                run.enter(store)
                self._continuity.revive(run, store, stored)
                code = self._answer(store, run, answers)
            fuel_used = limits.fuel - store.fuel()
            if code == _SUSPENDED and run.failure is None and effects.waits and self._has_resume:
                suspended = self._continuity.capture(run, store, self._baseline(run))
            elif code or run.failure is not None:
                failure = _failure_of(code, run.failure, waits=effects.waits)
        except ENDINGS as ending:
            failure = _explain(ending, run, limits)
            fuel_used = endings.fuel_used(ending, limits, None if store is None else store.fuel())
        except ImageError as error:
            failure = endings.failed(Reason.RESUME_FAILED, str(error))
        finally:
            self._host.run = None
            if store is not None:
                if run.memory:
                    used = store.memory_bytes(run.memory)
                store.close()
        if failure is not None and failure.reason is Reason.HANDLER_ERROR:
            failure = msgspec.structs.replace(failure, details=run.failure_details)
        if failure is not None:
            failure = _blame_memory(failure, used, limits)
        elapsed_us = (perf_counter_ns() - started) // 1_000
        usage = Usage(fuel_used, elapsed_us, used, used, effects.calls, self._warm)
        self._warm = True
        return endings.conclude(effects, usage, failure, suspended)

    def _enter(self, store: Store, run: WasmRun, args: bytes) -> int:
        """Copies ``args`` into the guest and calls the entry; returns the entry's code."""
        run.enter(store)
        if self._has_initialize:
            store.call(store.export(b"_initialize"))
        pointer = store.call_i32(store.export(b"alloc"), len(args))
        run.write(pointer, args)
        return store.call_i32(store.export(self._entry), pointer, len(args))

    def _answer(self, store: Store, run: WasmRun, answers: Sequence[Answered]) -> int:
        """Calls ``resume`` for each answer to an open call, until it is done; returns its last code."""
        calls = run.effects.known_calls()
        alloc, resume = store.export(b"alloc"), store.export(b"resume")
        code = _SUSPENDED
        for answer in answers:
            if code != _SUSPENDED:
                break
            if not calls.answer(answer.call):
                continue
            value = answer.value
            pointer = store.call_i32(alloc, len(value))
            run.write(pointer, value)
            code = store.call_i32(resume, answer.call, int(answer.ok), pointer, len(value))
        return code

    def _unpack(self, run: WasmRun, image: bytes) -> Image:
        """The image, which ``run`` then goes on from. Raises ``ImageError``."""
        stored = self._continuity.unpack(image, self._baseline(run), run.effects.task.limits)
        run.effects.extension_calls = Calls(stored.calls_made, stored.open_calls)
        return stored

    def _baseline(self, run: WasmRun) -> Baseline:
        """The memory that instances begin with. ``run`` stays the job that host functions serve."""
        if (known := self._continuity.baseline) is not None:
            return known
        store = self._open_silently(run)
        try:
            probe = WasmRun(run.effects)
            probe.enter(store)
            return self._continuity.begin_with(probe)
        finally:
            store.close()

    def _open_silently(self, run: WasmRun) -> Store:
        """An instance whose start function, if any, sees nothing of ``run``: it makes the same memory each
        time.
        """
        limits = run.effects.task.limits
        self._host.run = WasmRun(Effects(start_task(limits)))
        store = _open(self._template, limits)
        self._host.run = run
        return store


def _open(template: Template, limits: Limits) -> Store:
    return Store(
        template,
        fuel=limits.fuel,
        epoch_ticks=ticks(limits.deadline_ms),
        memory_bytes=limits.memory_bytes,
        table_elements=MAX_TABLE_ELEMENTS,
    )


def _carried(module: Module) -> tuple[bytes, ...]:
    """The exported mutable globals of numbers, which an image carries."""
    return tuple(
        export.name.encode()
        for export in module.exports
        if isinstance(export.type, GlobalType)
        and export.type.mutable
        and str(export.type.content) in _NUMBERS
    )


def _failure_of(code: int, said: str | None, *, waits: bool = False) -> Failed:
    """The failure of a handler that returned ``code``; ``said`` is what it passed to ``fail``, if it did."""
    if said is not None:
        text = said or "the handler failed without a message"
    elif code == _SUSPENDED and waits:
        text = "the handler was suspended, but it does not export resume"
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
    in_use = f" (with {used_bytes} of {limits.memory_bytes} bytes of memory in use)"
    text = failure.message[: MAX_MESSAGE_CHARS - len(in_use)] + in_use
    return msgspec.structs.replace(failure, reason=Reason.MEMORY_LIMIT, message=text)
