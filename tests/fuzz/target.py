"""What is fuzzed, and what it must never do.

A target takes bytes and says in a word what came of them. It raises ``Violation`` where an oracle does not
hold, and lets every exception through that the code under test does not document. Both are findings. The
rules:

- nothing but the documented exception leaves a decoder;
- ``decode(encode(decode(x)))`` is ``decode(x)``;
- an input of n bytes makes at most ``per_byte`` · n + ``constant`` bytes of objects (``Cost``);
- no JSON gets through that is outside of the bounds of ``panels_shared.jsonvalue``;
- what is authenticated is accepted only as it was made.

A target keeps nothing from one input to the next that could change the outcome: a finding has to come again.
"""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from panels_shared.jsonvalue import MAX_DEPTH
from tests.fuzz.mutation import Codec

#: Characters of an outcome.
_OUTCOME_CHARS: Final = 120
_VARIABLE: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|[0-9a-f]{16,}|-?[0-9][0-9,.e+]*")


class Violation(AssertionError):  # noqa: N818 - what it is, and not how it is raised
    """An oracle that does not hold. The first line names it and must not depend on the input."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The most bytes of objects that may be alive at once while an input is decoded."""

    per_byte: int = 128
    constant: int = 64 * 1_024


class Target:
    """One thing that is fuzzed; subclasses say what. See the module's docstring."""

    #: As ``scripts/fuzz`` and the folder of regressions name it.
    name: ClassVar[str]
    codec: ClassVar[Codec | None] = None
    #: The codec is an envelope of ours: bytes that it does not open are of no use.
    envelope: ClassVar[bool] = False
    tokens: ClassVar[tuple[bytes, ...]] = ()
    #: None: memory is not measured.
    cost: ClassVar[Cost | None] = None
    #: Inputs in the test, where all targets together have half a minute.
    quick: ClassVar[int] = 400

    def seeds(self) -> list[bytes]:
        """Valid inputs to begin with, at least one."""
        raise NotImplementedError

    def run(self, data: bytes) -> str:
        """What came of ``data``, in words. Raises ``Violation``, or whatever should not be raised."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives back what the target holds."""


def require(holds: object, oracle: str, detail: object = "") -> None:
    """Raises ``Violation`` unless it ``holds``."""
    if not holds:
        raise Violation(oracle if detail == "" else f"{oracle}\n{detail!r:.500}")


def refused(error: BaseException) -> str:
    """The outcome of an input that was refused: the sentence without what varies."""
    return f"{type(error).__name__}: {_VARIABLE.sub('#', str(error))}"[:_OUTCOME_CHARS]


@contextmanager
def bounded(cost: Cost | None, size: int) -> Iterator[None]:
    """Raises ``Violation`` if what is done inside holds more memory than an input of ``size`` bytes may."""
    if cost is None:
        yield
        return
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    most = cost.per_byte * size + cost.constant
    require(peak <= most, "memory within its bound", f"{size} bytes made {peak}, expected at most {most}")


def require_json(text: bytes | str, oracle: str = "JSON within its bounds") -> Any:
    """The value in ``text``, read by another parser than the product's, within the bounds of panels."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise Violation(f"{oracle}\n{exc}: {text!r:.300}") from None
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, str):
            require(_is_unicode(node), f"{oracle}: no lone surrogates", text)
        elif isinstance(node, float):
            require(math.isfinite(node), f"{oracle}: finite numbers", text)
        elif isinstance(node, int):
            require(-(2**1024) < node < 2**1024, f"{oracle}: numbers within a double", text)
        elif isinstance(node, (list, dict)):
            require(depth < MAX_DEPTH, f"{oracle}: depth", text)
            if isinstance(node, dict):
                waiting += [(key, depth) for key in node]
                waiting += [(child, depth + 1) for child in node.values()]
            else:
                waiting += [(child, depth + 1) for child in node]
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"the constant {name}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
