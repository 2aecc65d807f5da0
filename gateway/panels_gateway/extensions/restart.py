"""When the extension process is started again after it ended.

Pure: times are monotonic seconds, chance is handed in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

WINDOW_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Five numbers.

    - ``initial_s``: the delay after the first failure; it doubles with each further one.
    - ``maximum_s``: the longest delay.
    - ``jitter``: a delay is shortened by up to this share of itself.
    - ``stable_after_s``: a process that lived this long starts the count of failures anew.
    - ``restarts_per_minute``: above it the delay is the longest. It never gives up: a handler that can crash
      an extension must not be able to end all extensions. A configuration that is wrong has an exit code of
      its own, and that ends the restarts.
    """

    initial_s: float = 0.1
    maximum_s: float = 10.0
    jitter: float = 0.2
    stable_after_s: float = 5.0
    restarts_per_minute: int = 30

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
    """What has happened so far, and what ``policy`` makes of it."""

    policy: RestartPolicy
    failures: int = 0
    _ends: deque[float] = field(default_factory=deque)

    def next_start_s(self, now_s: float, *, lived_s: float, chance: float) -> float:
        """When to start again after a process that lived ``lived_s`` ended at ``now_s``;
        ``chance`` is from 0 to 1.
        """
        policy, ends = self.policy, self._ends
        while ends and ends[0] <= now_s - WINDOW_S:
            ends.popleft()
        flapping = len(ends) >= policy.restarts_per_minute
        if not flapping:
            ends.append(now_s)
        self.failures = 0 if lived_s >= policy.stable_after_s else self.failures + 1
        if flapping:
            delay = policy.maximum_s
        else:
            # the exponent is bounded so that a float never overflows
            delay = min(policy.maximum_s, policy.initial_s * 2.0 ** min(max(self.failures - 1, 0), 60))
        return now_s + delay * (1.0 - policy.jitter * chance)
