"""The extension calls of one handler, over all of its segments: a segment ends where the handler is
suspended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from panels_shared.limits import MAX_EXTENSION_NAME_CHARS
from panels_shared.outcome import ExtensionCall

#: Names of extensions and methods. There is no dot in them, because ``ext:<name>.<method>`` is a capability.
_NAME: Final = re.compile(rf"[A-Za-z_][A-Za-z0-9_-]{{0,{MAX_EXTENSION_NAME_CHARS - 1}}}", re.ASCII)


class Calls:
    """What a handler has called.

    - ``made``: how many calls it made in its life; the number of the latest.
    - ``open``: the numbers of those that are not answered, ascending.
    - ``requests``: those of this segment.
    """

    __slots__ = ("made", "open", "requests")

    def __init__(self, made: int = 0, open_calls: Iterable[int] = ()) -> None:
        self.made = made
        self.open = dict.fromkeys(open_calls)
        self.requests: list[ExtensionCall] = []

    def make(self, extension: str, method: str, args: bytes) -> int:
        """Records a call, which was checked; its number."""
        self.made += 1
        self.open[self.made] = None
        self.requests.append(ExtensionCall(self.made, extension, method, args))
        return self.made

    def answer(self, call: int) -> bool:
        """Whether ``call`` is open; from now on it is not."""
        if call not in self.open:
            return False
        del self.open[call]
        return True


def is_name(text: str) -> bool:
    """Whether ``text`` can be the name of an extension or of a method."""
    return _NAME.fullmatch(text) is not None
