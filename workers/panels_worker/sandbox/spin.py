"""How long to look for work before going to sleep. Pure: times are microseconds.

Waking a sleeping process costs tens of microseconds, which is much of what a lone trigger waits for. A
process that looks a little longer before it sleeps saves the wake-up, and wastes CPU when nothing comes. So
it looks only while the gaps between jobs have lately been short enough to be worth it, and not at all while
somebody else wants the CPU: whoever spins then has used up its turn when the job arrives, and waits
milliseconds for the next, where a sleeper is let in at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: How many gaps in a row may outlast the spin before it stops.
PATIENCE: Final = 2
#: One look takes a few microseconds; one that took this long was interrupted by somebody who wanted the CPU.
DISTURBED_US: Final = 150.0
#: Waits without a spin after such an interruption.
REST: Final = 100


@dataclass(slots=True)
class Spin:
    """An adaptive, bounded spin. ``max_us`` is the longest, 0 for never; it is also the most CPU wasted per
    gap, and no more than ``PATIENCE`` gaps in a row are wasted.

    ``budget_us`` is how long to look now. Call ``waited`` after each wait, with how long it was from its
    begin to the arrival of work (the sleep included), and ``disturbed`` when one look took longer than
    ``DISTURBED_US``.
    """

    max_us: float
    _misses: int = PATIENCE
    _rest: int = 0

    @property
    def budget_us(self) -> float:
        """How long to look for work before sleeping, now."""
        return self.max_us if self._misses < PATIENCE and not self._rest else 0.0

    def waited(self, gap_us: float) -> None:
        """Notes that work came ``gap_us`` after the wait began."""
        if self._rest:
            self._rest -= 1
        if gap_us <= self.max_us:
            self._misses = 0
        elif self._misses < PATIENCE:
            self._misses += 1

    def disturbed(self) -> None:
        """Notes that somebody else wants the CPU."""
        self._rest = REST
