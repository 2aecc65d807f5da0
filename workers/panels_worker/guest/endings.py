"""How a job ends: the one place that turns traps, stops, limits, denials and invalid values into outcomes.

Both kinds of program catch ``ENDINGS`` around the whole life of an instance and hand the exception to
``explain``:

    exception                          reason                message
    GuestTrap FUEL                     FUEL_EXHAUSTED        fixed
    GuestTrap INTERRUPT                TIMEOUT               fixed
    GuestTrap STACK                    STACK_OVERFLOW        fixed
    GuestTrap HOST, or its HostStop    TRAP                  the stop's text
      ├── ExitError                    HANDLER_ERROR         the exit code
      └── InvalidResultError           INVALID_RESULT        the stop's text
    GuestTrap of another kind          TRAP                  a few words about the trap
    LimitReached                       LIMIT_EXCEEDED        its text
    Denied                             PERMISSION_DENIED     its text
    InvalidValue                       INVALID_RESULT        its text
    InstantiationError                 MEMORY_LIMIT          the limit

Every message is written for the client and carries no detail of the host. An exception that is not listed is
a defect of the worker and passes through.
"""

from __future__ import annotations

from typing import Final

import msgspec

from panels_shared.limits import MIB, Limits
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest.effects import Denied, Effects, InvalidValue, LimitReached
from panels_worker.guest.task import Execution
from panels_worker.guest.traps import (
    ExitError,
    GuestTrap,
    HostStop,
    InstantiationError,
    InvalidResultError,
    TrapKind,
)

#: What ends a job without being a defect of the worker.
ENDINGS: Final = (GuestTrap, HostStop, InstantiationError, LimitReached, Denied, InvalidValue)

#: A failed job whose memory came this close to its limit is reported to have run out of memory.
NEAR_LIMIT_BYTES: Final = MIB

_TRAPS: Final = {
    TrapKind.FUEL: (Reason.FUEL_EXHAUSTED, "the handler used up its fuel"),
    TrapKind.INTERRUPT: (Reason.TIMEOUT, "the handler ran past its deadline"),
    TrapKind.STACK: (Reason.STACK_OVERFLOW, "the handler's call stack is exhausted"),
}


def failed(reason: Reason, message: str) -> Failed:
    """A failure whose usage and log ``conclude`` fills in."""
    return Failed(Usage(), reason, message)


def explain(ending: Exception, limits: Limits, *, who: str = "the handler") -> Failed:
    """The failure that ``ending``, one of ``ENDINGS``, stands for.

    ``who`` is the subject of the message about a plain trap. Raises ``TypeError`` for any other exception.
    """
    match ending:
        case GuestTrap():
            return _explain_trap(ending, who)
        case HostStop():
            return _explain_stop(ending)
        case LimitReached():
            return failed(Reason.LIMIT_EXCEEDED, str(ending))
        case Denied():
            return failed(Reason.PERMISSION_DENIED, str(ending))
        case InvalidValue():
            return failed(Reason.INVALID_RESULT, str(ending))
        case InstantiationError():
            text = f"the handler does not fit into {limits.memory_bytes} bytes of memory"
            return failed(Reason.MEMORY_LIMIT, text)
        case _:
            raise TypeError(f"expected an ending of a job, got {type(ending).__name__}")


def exited_well(ending: Exception) -> bool:
    """Whether the guest ended itself by ``proc_exit(0)``, which completes the job of a module."""
    cause = ending.__cause__ if isinstance(ending, GuestTrap) else ending
    return isinstance(cause, ExitError) and cause.code == 0


def fuel_used(ending: Exception, limits: Limits, left: int | None) -> int:
    """The fuel that a job used before ``ending``, or -1 where the engine cannot say.

    ``left`` is what the store says is left, None without a store. The number is exact for a job that ran out
    of fuel. After another trap it is what was used at the engine's last check, and after an interrupt it
    means nothing.
    """
    if not isinstance(ending, GuestTrap) or ending.kind is TrapKind.INTERRUPT:
        return -1
    if ending.kind is TrapKind.FUEL:
        return limits.fuel
    return -1 if left is None else limits.fuel - left


def near_memory_limit(used_bytes: int, limits: Limits) -> bool:
    """Whether a job that used this much memory probably failed because it wanted more."""
    return used_bytes + NEAR_LIMIT_BYTES > limits.memory_bytes


def conclude(effects: Effects, usage: Usage, failure: Failed | None, image: bytes | None = None) -> Execution:
    """The execution of a job that failed, or was suspended as ``image``, or (None) completed.

    A failed job keeps its log and changes nothing. A completed one drops the calls that it did not wait for.
    """
    if failure is None:
        if image is not None:
            return Execution(effects.suspended(usage, image), effects.changes)
        if effects.waits:
            effects.write_log(2, "extension calls that the handler did not wait for were dropped")
        return Execution(effects.completed(usage), effects.changes)
    return Execution(msgspec.structs.replace(failure, usage=usage, log=tuple(effects.log)), {})


def _explain_trap(trap: GuestTrap, who: str) -> Failed:
    if trap.kind is TrapKind.HOST and isinstance(trap.__cause__, HostStop):
        return _explain_stop(trap.__cause__)
    known = _TRAPS.get(trap.kind)
    return failed(*known) if known else failed(Reason.TRAP, f"{who} trapped: {trap.text}")


def _explain_stop(stop: HostStop) -> Failed:
    if isinstance(stop, ExitError):
        return failed(Reason.HANDLER_ERROR, f"the handler exited with {stop.code}")
    reason = Reason.INVALID_RESULT if isinstance(stop, InvalidResultError) else Reason.TRAP
    return failed(reason, str(stop))
