"""Scripts as handlers: the program that runs one in a pristine engine per job."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

import msgspec

from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest import endings
from panels_worker.guest.effects import Effects
from panels_worker.guest.endings import ENDINGS
from panels_worker.guest.engine import ticks
from panels_worker.guest.task import Execution, Task
from panels_worker.guest.traps import HostStop, InstantiationError
from panels_worker.javascript.compilation import compile_script
from panels_worker.javascript.errors import FailureReport, explain
from panels_worker.javascript.guest import GuestRun, JavaScriptGuest, ScriptError, open_to_prepare
from panels_worker.javascript.script import Script
from panels_worker.javascript.snapshot import Snapshot, restore, take_snapshot

#: What an engine throws that has no room left for an Error, or for what is in one; or it gives up.
_NO_ROOM_FOR_WORDS: Final = ("thrown value: null", "Error")


class _Change(msgspec.Struct, array_like=True):
    key: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Report(msgspec.Struct):
    """What the prelude says at the end: none of it is trusted."""

    pending: bool = False
    error: FailureReport | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    mutations: list[_Change] = []
    events: list[tuple[str, msgspec.Raw]] = []
    views: list[tuple[str, str, msgspec.Raw]] = []


_decode_report = msgspec.json.Decoder(_Report).decode


class JavaScriptProgram:
    """One handler: its snapshot, made at first use, and what is called in it."""

    __slots__ = ("_finish", "_guest", "_main", "_script", "_snapshot", "_warm")

    def __init__(self, guest: JavaScriptGuest, script: Script) -> None:
        self._guest = guest
        self._script = script
        self._warm = False
        run = open_to_prepare(guest)
        try:
            self._main, self._finish = compile_script(run, script)
            self._snapshot = take_snapshot(run, guest.fresh)
        finally:
            run.close()

    @property
    def snapshot(self) -> Snapshot:
        """What is copied into every job's instance."""
        return self._snapshot

    def run(self, task: Task) -> Execution:
        """Runs the handler; see ``task.Program``."""
        started = perf_counter_ns()
        limits = task.limits
        effects = Effects(task)
        fuel = limits.fuel
        fuel_used = -1
        used = 0
        run: GuestRun | None = None
        failure: Failed | None = None
        try:
            run = self._guest.open(
                effects, fuel=fuel, epoch_ticks=ticks(limits.deadline_ms), memory_bytes=limits.memory_bytes
            )
            if not restore(run, self._snapshot):
                raise InstantiationError
            report = self._enter(run, task)
            fuel_used = fuel - run.store.fuel()
            failure = self._apply(report, effects)
        except ENDINGS as ending:
            failure = endings.explain(ending, limits, who="the JavaScript engine")
            if fuel_used < 0:
                fuel_used = endings.fuel_used(ending, limits, None)
        except ScriptError as error:
            # the prelude itself failed: out of memory or stack, as a rule
            failure = explain(FailureReport(error.name, error.message, error.stack), self._script)
        finally:
            if run is not None:
                used = run.store.memory_bytes(run.memory)
                run.close()
        usage = Usage(
            fuel_used, (perf_counter_ns() - started) // 1_000, used, used, effects.calls, self._warm
        )
        self._warm = True
        if (
            failure is not None
            and endings.near_memory_limit(used, limits)
            and (failure.reason is Reason.TRAP or failure.message in _NO_ROOM_FOR_WORDS)
        ):
            failure = endings.failed(Reason.MEMORY_LIMIT, "the handler ran out of memory")
        return endings.conclude(effects, usage, failure)

    def _enter(self, run: GuestRun, task: Task) -> bytes:
        """Runs the handler and everything that it left in the engine's queue; what the prelude says at the
        end.
        """
        answer = run.invoke(self._main, run.new_string(task.args))
        if run.call(b"get_string", answer) == 0 and not run.has_jobs() and not run.has_rejections():
            return run.take_result()
        run.drain()
        if run.call(b"get_string", run.invoke(self._finish)) != 0:
            raise HostStop("expected the handler's world to say how it ended")
        return run.take_result()

    def _apply(self, text: bytes, effects: Effects) -> Failed | None:
        """Turns what the guest says into effects, each checked as if a stranger said it."""
        try:
            report = _decode_report(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return Failed(
                Usage(), Reason.INVALID_RESULT, "expected a result of valid JSON, got something else"
            )
        if report.error is not None:
            return explain(report.error, self._script)
        if report.pending:
            return Failed(
                Usage(),
                Reason.HANDLER_ERROR,
                "the handler awaits a promise that never settles;"
                " there are no timers and nothing else to wait for",
            )
        state = effects.task.state
        for change in report.mutations:
            if change.value is msgspec.UNSET:
                effects.delete(change.key)
            elif state.get(change.key) != (value := bytes(change.value)):
                effects.set(change.key, value)
            else:
                # else whether it fails would tell one who may neither read nor write what the value is
                effects.check_write(change.key)
        for name, payload in report.events:
            effects.emit(name, bytes(payload))
        for view, command, params in report.views:
            effects.view(view, command, bytes(params))
        effects.returns(bytes(report.result))
        return None
