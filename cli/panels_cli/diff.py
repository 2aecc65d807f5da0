"""What differs between two JSON values, leaf by leaf. Pure.

A path is written as in JavaScript: ``todos[0].done``, ``["a key"]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

#: How deep values are compared; what differs below is shown whole.
MAX_DEPTH: Final = 16

_PLAIN: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)


class _Absent:
    """The one value that stands for no value."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the values differ. ``old`` or ``new`` is ``ABSENT`` where the place is only in one."""

    path: str
    old: Any
    new: Any


def differences(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """Where ``new`` differs from ``old``, in the order of ``old``, what was added last."""
    yield from _compare(old, new, path, MAX_DEPTH)


def _compare(old: Any, new: Any, path: str, depth: int) -> Iterator[Difference]:
    if depth and isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _compare(old.get(key, ABSENT), new.get(key, ABSENT), member(path, key), depth - 1)
    elif depth and isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before = old[index] if index < len(old) else ABSENT
            after = new[index] if index < len(new) else ABSENT
            yield from _compare(before, after, f"{path}[{index}]", depth - 1)
    elif not same(old, new):
        yield Difference(path, old, new)


def same(old: Any, new: Any) -> bool:
    """Whether two values are the same JSON: 1 and true are not, nor are 1 and 1.0."""
    if type(old) is not type(new):
        return False
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(same(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return len(old) == len(new) and all(map(same, old, new))
    return bool(old == new)


def member(path: str, key: str) -> str:
    """The path of ``key`` in the object at ``path``."""
    if _PLAIN.fullmatch(key) is None:
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key
