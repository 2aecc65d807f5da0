"""Scripts as handlers: the program that runs one in a pristine engine per job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Final

import msgspec

from panels_shared.limits import Limits
from panels_shared.messages import Answered
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest import endings
from panels_worker.guest.calls import Calls
from panels_worker.guest.effects import Effects
from panels_worker.guest.endings import ENDINGS
from panels_worker.guest.engine import ticks
from panels_worker.guest.image import Identity, Image, ImageError, build_of, unpack
from panels_worker.guest.pages import Baseline
from panels_worker.guest.task import Execution, Task
from panels_worker.guest.traps import GuestTrap, HostStop, InstantiationError
from panels_worker.javascript.compilation import compile_script
from panels_worker.javascript.errors import FailureReport, explain
from panels_worker.javascript.guest import GuestRun, JavaScriptGuest, ScriptError, open_to_prepare
from panels_worker.javascript.script import Script
from panels_worker.javascript.snapshot import Snapshot, restore, take_snapshot
from panels_worker.javascript.suspension import (
    baseline_of,
    capture,
    encode_answers,
    identity_of,
    revive,
)

#: What an engine throws that has no room left for an Error, or for what is in one; or it gives up.
_NO_ROOM_FOR_WORDS: Final = ("thrown value: null", "Error")
_WARNING: Final = 2
_NEVER_SETTLES: Final = (
    "the handler awaits a promise that never settles; only calls of $ext are waited for, and none is open"
)


class _Change(msgspec.Struct, array_like=True):
    key: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Event(msgspec.Struct, array_like=True):
    name: str
    payload: msgspec.Raw
    to: str | None = None


class _Report(msgspec.Struct):
    """What the prelude says at the end: none of it is trusted."""

    pending: bool = False
    error: FailureReport | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    mutations: list[_Change] = []
    events: list[_Event] = []
    views: list[tuple[str, str, msgspec.Raw]] = []


_decode_report = msgspec.json.Decoder(_Report).decode


class JavaScriptProgram:
    """One handler: its snapshot, made at first use, and what is called in it.

    ``digest`` names the handler in the images of its suspensions. ``previous`` loads the guest of the release
    before, where one is carried: a handler that was suspended there goes on there.
    """

    __slots__ = (
        "_before",
        "_digest",
        "_finish",
        "_fits",
        "_guest",
        "_main",
        "_previous",
        "_script",
        "_snapshot",
        "_warm",
    )

    def __init__(
        self,
        guest: JavaScriptGuest,
        script: Script,
        digest: bytes = bytes(32),
        previous: Callable[[], JavaScriptGuest | None] | None = None,
    ) -> None:
        self._guest = guest
        self._script = script
        self._digest = digest
        self._previous = previous
        # made by the first image of the build before: this handler in that build
        self._before: JavaScriptProgram | None = None
        # made by the first suspension: what images of this handler fit to, and are compared with
        self._fits: tuple[Identity, Baseline] | None = None
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

    def fits(self) -> tuple[Identity, Baseline]:
        """What images of this handler fit to, and the memory that they are compared with."""
        if self._fits is None:
            baseline = baseline_of(self._guest, self._snapshot)
            self._fits = identity_of(self._guest, self._digest), baseline
        return self._fits

    def run(self, task: Task) -> Execution:
        """Runs the handler; see ``task.Program``."""
        return self._execute(Effects(task), None, ())

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        """Goes on with the handler; see ``task.Program``."""
        return self._made_in(image)._execute(Effects(task), image, answers)

    def _made_in(self, image: bytes) -> JavaScriptProgram:
        """The program of the build that ``image`` was made in; this one where that is not carried."""
        if self._previous is None or build_of(image) == self.fits()[0].build:
            return self
        if self._before is None:
            guest = self._previous()
            if guest is None:
                return self
            try:
                self._before = JavaScriptProgram(guest, self._script, self._digest)
            except (ScriptError, GuestTrap):
                return self  # what compiles today need not have compiled then; the image is refused
        before = self._before
        return before if build_of(image) == before.fits()[0].build else self

    def _execute(self, effects: Effects, image: bytes | None, answers: Sequence[Answered]) -> Execution:
        """One segment: from the beginning, or (``image``) from a suspension."""
        started = perf_counter_ns()
        limits = effects.task.limits
        fuel_used = -1
        used = 0
        run: GuestRun | None = None
        failure: Failed | None = None
        suspended: bytes | None = None
        try:
            stored = None if image is None else self._unpack(image, effects)
            run = self._open(effects)
            if stored is None:
                report = self._enter(run)
            else:
                revive(run, stored)
                report = self._continue(run, answers)
            fuel_used = limits.fuel - run.store.fuel()
            failure, pending = self._apply(report, effects)
            if pending and failure is None:
                suspended = capture(run, effects.known_calls(), *self.fits())
        except ENDINGS as ending:
            failure = endings.explain(ending, limits, who="the JavaScript engine")
            if fuel_used < 0:
                fuel_used = endings.fuel_used(ending, limits, None)
        except ScriptError as error:
            # the prelude itself failed: out of memory or stack, as a rule
            failure = explain(FailureReport(error.name, error.message, error.stack), self._script)
        except ImageError as error:
            failure = endings.failed(Reason.RESUME_FAILED, str(error))
        finally:
            if run is not None:
                used = run.store.memory_bytes(run.memory)
                run.close()
        usage = Usage(
            fuel_used, (perf_counter_ns() - started) // 1_000, used, used, effects.calls, self._warm
        )
        self._warm = True
        if failure is not None:
            failure = _blame_memory(failure, used, limits)
        return endings.conclude(effects, usage, failure, suspended)

    def _unpack(self, image: bytes, effects: Effects) -> Image:
        """The image, which ``effects`` then goes on from. Raises ``ImageError``."""
        identity, baseline = self.fits()
        stored = unpack(image, identity, baseline, memory_bytes=effects.task.limits.memory_bytes)
        effects.extension_calls = Calls(stored.calls_made, stored.open_calls)
        return stored

    def _open(self, effects: Effects) -> GuestRun:
        """An instance with the handler in it. Raises ``InstantiationError``."""
        limits = effects.task.limits
        run = self._guest.open(
            effects,
            fuel=limits.fuel,
            epoch_ticks=ticks(limits.deadline_ms),
            memory_bytes=limits.memory_bytes,
        )
        try:
            if restore(run, self._snapshot):
                return run
        except BaseException:
            run.close()
            raise
        run.close()
        raise InstantiationError

    def _enter(self, run: GuestRun) -> bytes:
        """Runs the handler and everything that it left in the engine's queue; what the prelude says at the
        end.
        """
        args = run.new_string(run.effects.task.args)
        answer = run.invoke(self._main, args)
        if run.call(b"get_string", answer) == 0 and not run.has_jobs() and not run.has_rejections():
            return run.take_result()
        run.spend(args)
        run.spend(answer)
        return self._settle(run)

    def _continue(self, run: GuestRun, answers: Sequence[Answered]) -> bytes:
        """Gives the handler its answers, and runs what they set going; what the prelude says at the end."""
        text = run.spend(run.new_string(encode_answers(answers, run.effects.known_calls())))
        run.spend(run.invoke(run.places.resume, text))
        return self._settle(run)

    def _settle(self, run: GuestRun) -> bytes:
        """Runs the queue to its end. Rejections are looked at when no more is to come that might handle
        them.
        """
        run.run_jobs()
        if run.has_rejections() and not (run.effects.waits and self._is_pending(run)):
            run.collect()
        if run.call(b"get_string", run.spend(run.invoke(self._finish))) != 0:
            raise HostStop("expected the handler's world to say how it ended")
        return run.take_result()

    def _is_pending(self, run: GuestRun) -> bool:
        function = run.spend(run.property(run.places.world, b"isPending"))
        return run.truth(run.spend(run.invoke(function)))

    def _apply(self, text: bytes, effects: Effects) -> tuple[Failed | None, bool]:
        """Turns what the guest says into effects, each checked as if a stranger said it.

        How it failed, if it did, and whether it waits.
        """
        try:
            report = _decode_report(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            text_of_failure = "expected a result of valid JSON, got something else"
            return Failed(Usage(), Reason.INVALID_RESULT, text_of_failure), False
        if report.error is not None:
            return explain(report.error, self._script, partial(effects.write_log, _WARNING)), False
        if report.pending and not effects.waits:
            return Failed(Usage(), Reason.HANDLER_ERROR, _NEVER_SETTLES), False
        state = effects.task.state
        for change in report.mutations:
            if change.value is msgspec.UNSET:
                effects.delete(change.key)
            elif state.get(change.key) != (value := bytes(change.value)):
                effects.set(change.key, value)
            else:
                # else whether it fails would tell one who may neither read nor write what the value is
                effects.check_write(change.key)
        for event in report.events:
            effects.emit(event.name, bytes(event.payload), event.to)
        for view, command, params in report.views:
            effects.view(view, command, bytes(params))
        effects.returns(bytes(report.result))
        return None, report.pending


def _blame_memory(failure: Failed, used_bytes: int, limits: Limits) -> Failed:
    """``failure``, or MEMORY_LIMIT for a handler that the engine had no room left for."""
    if endings.near_memory_limit(used_bytes, limits) and (
        failure.reason is Reason.TRAP or failure.message in _NO_ROOM_FOR_WORDS
    ):
        return endings.failed(Reason.MEMORY_LIMIT, "the handler ran out of memory")
    return failure
