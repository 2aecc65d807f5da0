from __future__ import annotations

import pytest

from panels_shared.limits import DEFAULT_LIMITS, MIB, Limits
from panels_shared.outcome import Completed, Failed, Reason, Usage
from panels_worker.guest import endings
from panels_worker.guest.effects import Denied, Effects, InvalidValue, LimitReached
from panels_worker.guest.traps import (
    BadPointerError,
    ExitError,
    GuestTrap,
    HostStop,
    InstantiationError,
    InvalidResultError,
    TrapKind,
)
from tests.workers.builders import make_task

LIMITS = Limits(fuel=1_000, memory_bytes=4 * MIB)


def trap(kind: TrapKind, cause: BaseException | None = None) -> GuestTrap:
    made = GuestTrap(kind, kind.value)
    made.__cause__ = cause
    return made


@pytest.mark.parametrize(
    ("ending", "reason", "message"),
    [
        (trap(TrapKind.FUEL), Reason.FUEL_EXHAUSTED, "the handler used up its fuel"),
        (trap(TrapKind.INTERRUPT), Reason.TIMEOUT, "the handler ran past its deadline"),
        (trap(TrapKind.STACK), Reason.STACK_OVERFLOW, "the handler's call stack is exhausted"),
        (trap(TrapKind.MEMORY), Reason.TRAP, "the handler trapped: out of bounds memory access"),
        (trap(TrapKind.UNREACHABLE), Reason.TRAP, "the handler trapped: unreachable executed"),
        (trap(TrapKind.HOST, HostStop("enough")), Reason.TRAP, "enough"),
        (trap(TrapKind.HOST), Reason.TRAP, "the handler trapped: stopped by the host"),
        (trap(TrapKind.HOST, ExitError(3)), Reason.HANDLER_ERROR, "the handler exited with 3"),
        (trap(TrapKind.HOST, InvalidResultError("bad")), Reason.INVALID_RESULT, "bad"),
        (BadPointerError("outside"), Reason.TRAP, "outside"),
        (LimitReached("too many"), Reason.LIMIT_EXCEEDED, "too many"),
        (Denied("no"), Reason.PERMISSION_DENIED, "no"),
        (InvalidValue("not JSON"), Reason.INVALID_RESULT, "not JSON"),
        (InstantiationError("wasmtime's words"), Reason.MEMORY_LIMIT,
         "the handler does not fit into 4194304 bytes of memory"),
    ],
)  # fmt: skip
def test_explain_gives_every_ending_its_reason(ending: Exception, reason: Reason, message: str) -> None:
    assert isinstance(ending, endings.ENDINGS)
    assert endings.explain(ending, LIMITS) == Failed(Usage(), reason, message)


def test_explain_names_the_subject_of_a_plain_trap() -> None:
    failure = endings.explain(trap(TrapKind.MEMORY), LIMITS, who="the JavaScript engine")
    assert failure.message.startswith("the JavaScript engine trapped: ")


def test_explain_refuses_what_is_a_defect_of_ours() -> None:
    assert not isinstance(KeyError("x"), endings.ENDINGS)
    with pytest.raises(TypeError, match="KeyError"):
        endings.explain(KeyError("x"), LIMITS)


def test_exited_well_is_true_for_exit_zero_alone() -> None:
    assert endings.exited_well(trap(TrapKind.HOST, ExitError(0)))
    assert not endings.exited_well(trap(TrapKind.HOST, ExitError(1)))
    assert not endings.exited_well(trap(TrapKind.HOST, HostStop("enough")))
    assert not endings.exited_well(trap(TrapKind.FUEL))
    assert not endings.exited_well(LimitReached("too many"))


@pytest.mark.parametrize(
    ("ending", "left", "used"),
    [
        (trap(TrapKind.FUEL), 17, 1_000),
        (trap(TrapKind.FUEL), None, 1_000),
        (trap(TrapKind.INTERRUPT), 17, -1),
        (trap(TrapKind.MEMORY), 17, 983),
        (trap(TrapKind.MEMORY), None, -1),
        (trap(TrapKind.HOST, ExitError(0)), 17, 983),
        (LimitReached("too many"), 17, -1),
        (InstantiationError(), None, -1),
    ],
)
def test_fuel_used_is_known_only_where_the_engine_can_say(
    ending: Exception, left: int | None, used: int
) -> None:
    assert endings.fuel_used(ending, LIMITS, left) == used


def test_near_memory_limit_leaves_room_for_one_mebibyte() -> None:
    assert not endings.near_memory_limit(3 * MIB, LIMITS)
    assert endings.near_memory_limit(3 * MIB + 1, LIMITS)


def test_conclude_drops_the_effects_of_a_failed_job_and_keeps_its_log() -> None:
    effects = Effects(make_task())
    effects.set("n", b"1")
    effects.write_log(1, "so far")
    usage = Usage(fuel=5)
    execution = endings.conclude(effects, usage, endings.failed(Reason.TRAP, "no"))
    assert execution.outcome == Failed(usage, Reason.TRAP, "no", log=tuple(effects.log))
    assert execution.outcome.log
    assert execution.changes == {}


def test_conclude_completes_a_job_that_did_not_fail() -> None:
    effects = Effects(make_task(limits={"fuel": DEFAULT_LIMITS.fuel}))
    effects.set("n", b"1")
    execution = endings.conclude(effects, Usage(fuel=5), None)
    assert isinstance(execution.outcome, Completed)
    assert execution.outcome.usage.fuel == 5
    assert execution.changes == {"n": b"1"}
