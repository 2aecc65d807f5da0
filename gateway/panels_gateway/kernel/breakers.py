"""The circuit breakers of tools: which triggers are refused because their tool keeps failing.

Each caller, as the trigger's subject names it, has breakers of its own: whoever makes a tool fail by what
they ask of it suspends it for themselves. A tool that is broken is soon suspended for everybody who calls it.

    intake  ── refusal ──▶ nothing, or CIRCUIT_OPEN
    commits ── ended ────▶ counted; True when the tool was suspended by it

What counts are failures that a handler does not end by itself, and that cost its worker most: traps, limits
of fuel, time, memory and stack, and workers that were lost. An exception that a handler throws, and whatever
else ends in order, is the handler's business and proves that the tool works. Breakers are in memory with
their panel: one whose panel was put away, or whose tool was given another handler, begins anew.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.breaker import Breaker, BreakerLimits
from panels_gateway.panels.trigger import Refused, Trigger
from panels_shared.errors import Code
from panels_shared.outcome import Reason
from panels_shared.rate import RateLimit, TokenBucket

_log = logging.getLogger("panels.gateway.breakers")

#: The failures that count.
COUNTED: Final = frozenset(
    (
        Reason.TRAP,
        Reason.TIMEOUT,
        Reason.FUEL_EXHAUSTED,
        Reason.MEMORY_LIMIT,
        Reason.STACK_OVERFLOW,
        Reason.WORKER_LOST,
    )
)
#: Callers of one tool that have breakers of their own; a security limit. ``OTHERS`` stands for all others.
MAX_CALLERS: Final = 64
OTHERS: Final = None
#: Lines a second that are logged of breakers, and at once; the others are only counted.
_LINES: Final = RateLimit(per_s=5.0, burst=50)


class Breakers:
    """See the module's docstring. A tool that has not failed lately has no breaker, and costs nothing.

    Bound: ``MAX_CALLERS`` breakers for each tool of a panel in memory; all other callers share one more.
    """

    def __init__(self, limits: BreakerLimits, counters: Counters, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._lines = TokenBucket(_LINES, clock())
        self._suspended: WeakSet[Breaker] = WeakSet()

    @property
    def open(self) -> int:
        """How many breakers of panels in memory are open."""
        return sum(breaker.is_open for breaker in self._suspended)

    def refusal(self, trigger: Trigger, resident: Resident) -> Refused | None:
        """The refusal of a trigger whose tool is suspended; None if it may run, perhaps as a probe."""
        breaker = self._of(resident, trigger)
        if breaker is None:
            return None
        wait_s = breaker.admit(trigger, self._clock())
        return self._refused(trigger.tool.name, wait_s) if wait_s else None

    def shed(self, trigger: Trigger, resident: Resident) -> Refused | None:
        """The refusal of a trigger that waits for a tool that is suspended; it does not become a probe."""
        breaker = self._of(resident, trigger)
        if breaker is None or not breaker.is_open:
            return None
        return self._refused(trigger.tool.name, max(0.0, breaker.until_s - self._clock()))

    def _refused(self, tool: str, wait_s: float) -> Refused:
        self._counters.circuit_refused += 1
        details: dict[str, object] = {"tool": tool, "retryAfterMs": max(1, math.ceil(wait_s * 1e3))}
        message = f"the tool {tool!r} kept failing and is suspended for a while; try again later"
        return Refused(Code.CIRCUIT_OPEN, message, details)

    def ended(self, trigger: Trigger, resident: Resident, reason: Reason | None) -> bool:
        """A run of the tool ended, with this failure or None. True if the tool is suspended for its caller
        from now on.
        """
        tool = trigger.tool
        breaker = self._of(resident, trigger)
        if reason is None or reason not in COUNTED:
            if breaker is not None:
                self._close(resident, tool.name, breaker)
            return False
        if not self._limits.failures:
            return False
        if breaker is None:
            callers = resident.breakers.setdefault(tool.name, {})
            caller = trigger.subject if len(callers) < MAX_CALLERS else OTHERS
            breaker = callers[caller] = Breaker(self._limits, tool.digest)
        if not breaker.failed(trigger, self._clock()):
            return False
        self._suspended.add(breaker)
        self._counters.circuits_opened += 1
        if self._may_log():
            _log.warning(
                "panel %r: tool %r is suspended for a caller: it failed %d times in a row, at last with %s",
                resident.panel.id, tool.name, breaker.failures, reason.value,
            )  # fmt: skip
        return True

    def shown(self, resident: Resident, tool: str, wall_s: float) -> dict[str, object]:
        """How the tool stands, for whoever looks at its panel.

        ``callers`` is for how many it is suspended, ``failures`` the most in a row of one caller, and
        ``openUntil`` when the first of their triggers is let through, in milliseconds since 1970.
        """
        known = resident.panel.tools.get(tool)
        breakers = [
            breaker
            for breaker in resident.breakers.get(tool, {}).values()
            if known is not None and breaker.digest == known.digest
        ]
        suspended = [breaker for breaker in breakers if breaker.is_open]
        until_s = min((breaker.until_s for breaker in suspended), default=None)
        return {
            "state": "open" if suspended else "closed",
            "failures": max((breaker.failures for breaker in breakers), default=0),
            "callers": len(suspended),
            "openUntil": None if until_s is None else int((wall_s + until_s - self._clock()) * 1e3),
        }

    def reset(self, resident: Resident, tool: str) -> None:
        """Forgets the tool's failures: it runs as if there had been none."""
        for breaker in list(resident.breakers.get(tool, {}).values()):
            self._close(resident, tool, breaker)

    def _of(self, resident: Resident, trigger: Trigger) -> Breaker | None:
        if not resident.breakers:
            return None
        tool = trigger.tool
        callers = resident.breakers.get(tool.name)
        if callers is None:
            return None
        breaker = callers.get(trigger.subject)
        if breaker is None and len(callers) >= MAX_CALLERS:
            breaker = callers.get(OTHERS)
        if breaker is not None and breaker.digest != tool.digest:
            self._forget(resident, tool.name, breaker)
            return None
        return breaker

    def _close(self, resident: Resident, tool: str, breaker: Breaker) -> None:
        self._forget(resident, tool, breaker)
        if breaker.is_open and self._may_log():
            _log.info("panel %r: tool %r is not suspended any more", resident.panel.id, tool)

    def _forget(self, resident: Resident, tool: str, breaker: Breaker) -> None:
        callers = resident.breakers[tool]
        for caller, known in list(callers.items()):
            if known is breaker:
                del callers[caller]
        if not callers:
            del resident.breakers[tool]
        self._suspended.discard(breaker)

    def _may_log(self) -> bool:
        return not self._lines.take(self._clock())
