"""Names, and the patterns that stand for them: a name, or a prefix and ``*``.

Topics, capabilities, the claim ``panels`` of a token and the definition of a panel all name things
this way, so it is written here once. A ``*`` has a meaning only at the end of a pattern; ``*``
alone stands for every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

#: Characters in the id of a panel or the name of a tool. A security limit.
MAX_NAME_CHARS: Final = 128
#: What ``is_name`` accepts, in words for an error message.
NAME_RULE: Final = f"1 to {MAX_NAME_CHARS} of the characters A-Z a-z 0-9 . _ : -"

_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether ``text`` can be the id of a panel or the name of a tool.

    ``.`` and ``..`` cannot, because a URL library resolves them away before a request is sent.
    """
    return _NAME.fullmatch(text) is not None and text not in (".", "..")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A name, or with ``is_prefix`` every name that begins with ``text``."""

    text: str
    is_prefix: bool

    @classmethod
    def of(cls, text: str) -> Pattern:
        """The pattern that ``text`` writes. Any text is one."""
        return cls(text[:-1], True) if text.endswith("*") else cls(text, False)

    def matches(self, name: str) -> bool:
        """Whether ``name`` is meant."""
        return name.startswith(self.text) if self.is_prefix else name == self.text


def is_name_pattern(text: str) -> bool:
    """Whether ``text`` is ``*``, a name, or a name and ``*``, for names as ``is_name`` accepts them."""
    return text == "*" or _NAME.fullmatch(text.removesuffix("*")) is not None


@dataclass(frozen=True, slots=True)
class Patterns:
    """Many patterns at once: ``matches`` costs one look-up and one ``startswith``, however many there are."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """The patterns that ``texts`` write."""
        patterns = [Pattern.of(text) for text in texts]
        return cls(
            frozenset(pattern.text for pattern in patterns if not pattern.is_prefix),
            tuple(dict.fromkeys(pattern.text for pattern in patterns if pattern.is_prefix)),
        )

    def matches(self, name: str) -> bool:
        """Whether one of the patterns means ``name``."""
        return name in self.names or name.startswith(self.prefixes)
