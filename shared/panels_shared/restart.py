"""When a process that ended is started again. Pure: times are monotonic seconds, and chance is handed in.

The pool starts sandboxes by this, and the gateway the extension process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

#: Restarts are counted over this long.
WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Five numbers, and whether a stable process is replaced at once.

    - ``initial_s``: the delay after the first failure; it doubles with each further one.
    - ``maximum_s``: the longest delay.
    - ``jitter``: a delay is shortened by up to this share of itself, so that processes do not start in step.
    - ``stable_after_s``: a process that lived this long starts the count of failures anew.
    - ``restarts_per_minute``: above it the delay is the longest. Restarting never ends: hostile guests must
      not be able to end a service by crashing its processes. A configuration that is wrong has an exit code
      of its own, which ends the restarts.
    - ``prompt``: the successor of a stable process is started at once, and not after ``initial_s``.

    Raises ``ValueError`` for numbers that make no sense.
    """

    initial_s: float = 0.05
    maximum_s: float = 2.0
    jitter: float = 0.2
    stable_after_s: float = 1.0
    restarts_per_minute: int = 120
    prompt: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.initial_s <= self.maximum_s:
            raise ValueError(
                f"expected 0 < initial_s <= maximum_s, got {self.initial_s} and {self.maximum_s}"
            )
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"expected jitter between 0 and 1, got {self.jitter}")
        if self.restarts_per_minute < 1 or self.stable_after_s < 0:
            raise ValueError("expected at least one restart per minute and stable_after_s of at least 0")


@dataclass(slots=True)
class Restarts:
    """The history of one process and its successors, and what ``policy`` makes of it."""

    policy: RestartPolicy
    failures: int = 0
    _starts: deque[float] = field(default_factory=deque)

    def next_start_s(self, now_s: float, *, lived_s: float, chance: float) -> float:
        """When to start the successor of a process that ended at ``now_s`` after ``lived_s``.

        ``chance`` is a random number from 0 to 1. The answer is between ``now_s`` and ``now_s + maximum_s``.
        """
        policy = self.policy
        starts = self._starts
        while starts and starts[0] <= now_s - WINDOW_S:
            starts.popleft()
        flapping = len(starts) >= policy.restarts_per_minute
        if not flapping:
            starts.append(now_s)
        self.failures = 0 if lived_s >= policy.stable_after_s else self.failures + 1
        if flapping:
            delay = policy.maximum_s
        elif self.failures == 0 and policy.prompt:
            return now_s
        else:
            # the exponent is bounded so that a float never overflows
            delay = min(policy.maximum_s, policy.initial_s * 2.0 ** min(max(self.failures - 1, 0), 60))
        return now_s + delay * (1.0 - policy.jitter * chance)
