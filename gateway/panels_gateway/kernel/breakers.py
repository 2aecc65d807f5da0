"""The circuit breakers of tools: which triggers are refused because their tool keeps failing.

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
#: Lines a second that are logged of breakers, and at once; the others are only counted.
_LINES: Final = RateLimit(per_s=5.0, burst=50)


class Breakers:
    """See the module's docstring. A tool that has not failed lately has no breaker, and costs nothing.

    Bound: one breaker for each tool of a panel in memory.
    """

    def __init__(self, limits: BreakerLimits, counters: Counters, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._lines = TokenBucket(_LINES, clock())

    def refusal(self, trigger: Trigger, resident: Resident) -> Refused | None:
        """The refusal of a trigger whose tool is suspended; None if it may run, perhaps as a probe."""
        breaker = self._of(resident, trigger.tool.name, trigger.tool.digest)
        if breaker is None:
            return None
        wait_s = breaker.admit(trigger, self._clock())
        return self._refused(trigger.tool.name, wait_s) if wait_s else None

    def shed(self, trigger: Trigger, resident: Resident) -> Refused | None:
        """The refusal of a trigger that waits for a tool that is suspended; it does not become a probe."""
        breaker = self._of(resident, trigger.tool.name, trigger.tool.digest)
        if breaker is None or not breaker.is_open:
            return None
        return self._refused(trigger.tool.name, max(0.0, breaker.until_s - self._clock()))

    def _refused(self, tool: str, wait_s: float) -> Refused:
        self._counters.circuit_refused += 1
        details: dict[str, object] = {"tool": tool, "retryAfterMs": max(1, math.ceil(wait_s * 1e3))}
        message = f"the tool {tool!r} kept failing and is suspended for a while; try again later"
        return Refused(Code.CIRCUIT_OPEN, message, details)

    def ended(self, trigger: Trigger, resident: Resident, reason: Reason | None) -> bool:
        """A run of the tool ended, with this failure or None. True if the tool is suspended from now on."""
        tool = trigger.tool
        breaker = self._of(resident, tool.name, tool.digest)
        if reason is None or reason not in COUNTED:
            if breaker is not None:
                self._close(resident, tool.name, breaker)
            return False
        if not self._limits.failures:
            return False
        if breaker is None:
            breaker = resident.breakers[tool.name] = Breaker(self._limits, tool.digest)
        if not breaker.failed(trigger, self._clock()):
            return False
        self._counters.circuits_opened += 1
        if self._may_log():
            _log.warning(
                "panel %r: tool %r is suspended: it failed %d times in a row, the last time with %s",
                resident.panel.id, tool.name, breaker.failures, reason.value,
            )  # fmt: skip
        return True

    def shown(self, resident: Resident, tool: str, wall_s: float) -> dict[str, object]:
        """How the tool stands, for whoever looks at its panel: ``openUntil`` is when the next trigger is let
        through, in milliseconds since 1970.
        """
        known = resident.panel.tools.get(tool)
        breaker = self._of(resident, tool, known.digest) if known is not None else None
        if breaker is None:
            return {"state": "closed", "failures": 0, "openUntil": None}
        if not breaker.is_open:
            return {"state": "closed", "failures": breaker.failures, "openUntil": None}
        until_ms = int((wall_s + breaker.until_s - self._clock()) * 1e3)
        return {"state": "open", "failures": breaker.failures, "openUntil": until_ms}

    def reset(self, resident: Resident, tool: str) -> None:
        """Forgets the tool's failures: it runs as if there had been none."""
        breaker = resident.breakers.get(tool)
        if breaker is not None:
            self._close(resident, tool, breaker)

    def _of(self, resident: Resident, tool: str, digest: bytes) -> Breaker | None:
        if not resident.breakers:
            return None
        breaker = resident.breakers.get(tool)
        if breaker is not None and breaker.digest != digest:
            del resident.breakers[tool]
            return None
        return breaker

    def _close(self, resident: Resident, tool: str, breaker: Breaker) -> None:
        del resident.breakers[tool]
        if breaker.is_open and self._may_log():
            _log.info("panel %r: tool %r is not suspended any more", resident.panel.id, tool)

    def _may_log(self) -> bool:
        return not self._lines.take(self._clock())
