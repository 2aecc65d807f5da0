"""How many bytes of images handlers that wait have, those of each panel and in all. Pure."""

from __future__ import annotations


class ImageBytes:
    """Sums by the number of a panel. An image counts from when it is recorded until its suspension is over,
    whether it is in memory or in the journal alone.
    """

    __slots__ = ("_of", "total")

    def __init__(self) -> None:
        self.total = 0
        self._of: dict[int, int] = {}

    def of(self, panel: int) -> int:
        """Those of the panel of this number."""
        return self._of.get(panel, 0)

    def change(self, panel: int, before: int, after: int) -> None:
        """An image of ``before`` bytes is replaced by one of ``after``; 0 for none."""
        found = self._of.get(panel, 0) + after - before
        assert found >= 0, panel
        self.total += after - before
        if found:
            self._of[panel] = found
        else:
            self._of.pop(panel, None)
