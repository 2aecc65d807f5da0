"""The state that the application sees: what the gateway said, below the changes that are expected.

    base      what CONNECTED and PATCH said
    overlay   the changes that one unanswered call is expected to make: fixed values, decided when it was made
    shown     for each key the value of the newest overlay that has the key, otherwise that of the base

An overlay is shown from the call on, and goes in the step in which the call is settled. RESULT follows the
PATCH of its commit, so the base has the real values by then: nothing flickers. Between the two the overlay
hides the PATCH. A prediction that was right is never seen to change, and one that was wrong is corrected at
RESULT.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final


class _Deleted:
    """The type of ``DELETED``."""

    def __repr__(self) -> str:
        return "DELETED"


#: As a value of an overlay: the key is expected to be deleted.
DELETED: Final = _Deleted()

_ABSENT: Final = object()


class View:
    """See the module's docstring. Methods that change it return the keys whose shown values changed."""

    def __init__(self) -> None:
        self._base: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._overlays: dict[str, dict[str, Any]] = {}
        self.shown: Final[Mapping[str, Any]] = MappingProxyType(self._shown)
        self.base: Mapping[str, Any] = MappingProxyType(self._base)

    def reset(self, state: Mapping[str, Any]) -> frozenset[str]:
        """Makes ``state`` the base. Overlays stay."""
        touched = {*self._base, *state}
        self._base.clear()
        self._base.update(state)
        return self._refresh(touched)

    def apply(self, mutations: Iterable[tuple[str, bool, Any]]) -> frozenset[str]:
        """Applies a PATCH to the base."""
        # with no overlay, what is shown is the base, and nothing has to be looked for
        base, shown = self._base, None if self._overlays else self._shown
        touched: list[str] = []
        for key, is_set, value in mutations:
            if is_set:
                if base.get(key, _ABSENT) is value:
                    continue
                base[key] = value
                if shown is not None:
                    shown[key] = value
            elif base.pop(key, _ABSENT) is _ABSENT:
                continue
            elif shown is not None:
                del shown[key]
            touched.append(key)
        return frozenset(touched) if shown is not None else self._refresh(touched)

    def expect(self, call: str, changes: Mapping[str, Any]) -> frozenset[str]:
        """Shows what ``call`` is expected to change, above what is expected of earlier calls."""
        self._overlays[call] = dict(changes)
        return self._refresh(changes)

    def settle(self, call: str) -> frozenset[str]:
        """Takes away what was expected of ``call``, if anything was."""
        changes = self._overlays.pop(call, None)
        return self._refresh(changes) if changes else frozenset()

    def _refresh(self, keys: Iterable[str]) -> frozenset[str]:
        changed: set[str] = set()
        for key in keys:
            value = self._value(key)
            if value is self._shown.get(key, _ABSENT):
                continue
            if value is _ABSENT:
                del self._shown[key]
            else:
                self._shown[key] = value
            changed.add(key)
        return frozenset(changed)

    def _value(self, key: str) -> Any:
        for changes in reversed(self._overlays.values()):
            if key in changes:
                value = changes[key]
                return _ABSENT if value is DELETED else value
        return self._base.get(key, _ABSENT)
