"""The compile queue: whose handler is compiled next, and who has used up what they may. Pure.

Subjects take turns by deficit round robin (Shreedhar and Varghese, 1995). What a handler costs is known only
behind it, so a subject whose credit is above zero may begin, and is charged what was measured: it may fall
below zero, and then others go first until rounds have made up for it.

Beside the turns each subject has a budget of CPU seconds, a bucket that fills up again over a window.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

#: CPU seconds that each round gives a subject.
QUANTUM_S: Final = 1.0
#: The most that one handler is charged, in CPU seconds; pools are bounded below that.
MAX_CHARGE_S: Final = 15.0
#: Subjects whose budgets are remembered; a security limit. Above it, the fullest bucket is forgotten.
MAX_SUBJECTS: Final = 4_096

Key = bytes
"""What is to be compiled: a digest, and for which label; see ``preparations.key_of``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileLimits:
    """The CPU seconds that each subject may have compiled: ``seconds`` at once, given back over
    ``window_s``.
    """

    seconds: float = 300.0
    window_s: float = 600.0


@dataclass(slots=True)
class _Flow:
    """One subject's handlers in order, with their labels, and its credit in CPU seconds."""

    credit_s: float
    keys: dict[Key, str]


class CompileQueue:
    """See the module's docstring. Times are monotonic seconds.

    Bound: the handlers of definitions that are being made, which whoever makes them bounds. A handler that
    several subjects want stands in the flow of each and is taken once.
    """

    __slots__ = ("_budgets", "_flows", "limits")

    def __init__(self, limits: CompileLimits) -> None:
        self.limits = limits
        self._flows: dict[str, _Flow] = {}
        self._budgets: dict[str, tuple[float, float]] = {}

    def add(self, subject: str, key: Key, label: str) -> None:
        """Has ``key`` wait in the subject's turn; it may wait there already."""
        flow = self._flows.get(subject)
        if flow is None:
            flow = self._flows[subject] = _Flow(QUANTUM_S, {})
        flow.keys.setdefault(key, label)

    def discard(self, key: Key) -> None:
        """Nobody waits for ``key`` any more, or it is being compiled."""
        for flow in self._flows.values():
            flow.keys.pop(key, None)
        self._forget()

    def leave(self, subject: str) -> list[Key]:
        """Takes out everything that waits in the subject's turn."""
        flow = self._flows.get(subject)
        keys = [] if flow is None else list(flow.keys)
        if flow is not None:
            flow.keys.clear()
        self._forget()
        return keys

    def take(self, labels: Collection[str]) -> tuple[str, Key] | None:
        """The next handler for a pool with these labels, and whose turn it is. None when there is none."""
        found = {
            subject: key
            for subject, flow in self._flows.items()
            if (key := next((key for key, label in flow.keys.items() if label in labels), None)) is not None
        }
        if not found:
            return None
        while (subject := next((each for each in found if self._flows[each].credit_s > 0), None)) is None:
            for each in found:
                self._flows[each].credit_s += QUANTUM_S
        # behind all others
        self._flows[subject] = self._flows.pop(subject)
        self.discard(found[subject])
        return subject, found[subject]

    def waits(self, labels: Collection[str], *, without: Collection[str]) -> bool:
        """Whether a subject other than ``without`` has something for a pool with these labels."""
        return any(
            subject not in without and any(label in labels for label in flow.keys.values())
            for subject, flow in self._flows.items()
        )

    def charge(self, subject: str, seconds: float, now: float) -> None:
        """The subject's handler took so many CPU seconds, in whatever way it ended."""
        seconds = min(max(seconds, 0.0), MAX_CHARGE_S)
        flow = self._flows.get(subject)
        if flow is not None:
            flow.credit_s -= seconds
        left = self._left(subject, now) - seconds
        self._budgets.pop(subject, None)
        if len(self._budgets) >= MAX_SUBJECTS:
            del self._budgets[max(self._budgets, key=lambda each: self._left(each, now))]
        self._budgets[subject] = left, now

    def retry_after_s(self, subject: str, now: float) -> float:
        """When the subject may have handlers compiled again, in seconds; 0 while its budget is not used
        up."""
        left = self._left(subject, now)
        if left > 0:
            return 0.0
        return max(1.0, (QUANTUM_S - left) * self.limits.window_s / self.limits.seconds)

    def _left(self, subject: str, now: float) -> float:
        limits = self.limits
        left, since = self._budgets.get(subject, (limits.seconds, now))
        return min(limits.seconds, left + (now - since) * limits.seconds / limits.window_s)

    def _forget(self) -> None:
        # credit is between those who wait: once nobody does, all begin anew
        if not any(flow.keys for flow in self._flows.values()):
            self._flows.clear()
