"""TypeScript namespaces where the transform cannot have them, or gets them wrong. Pure but for the transform
it is given.

- The transform takes a namespace at the top of a module only, and a handler may be the body of a function. A
  namespace in a body is transformed as a module of its own, and the code that it becomes takes its place.
- A namespace that is opened a second time does not see the exported names of the first: the transform leaves
  them as they are, and they would be undefined when the handler runs. So it is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from panels_shared.messages import Refusal

#: Namespaces that a body may have; a bound on the work, as each is transformed several times.
MAX_NAMESPACES: Final = 32
#: Closing braces that are tried as the end of one namespace.
MAX_ENDS: Final = 24

_OPENING = re.compile(r"(?<![\w$.])(?:declare\s+)?(?:namespace|module)\s+(?P<name>[\w$]+)[\w$.\s]*\{")
_BECOMES = re.compile(r"^\s*\}\)\((?P<name>[\w$]+) \|\| \((?P=name) = ", re.MULTILINE)
_ONCE: Final = "to be opened once, because its second part would not see the names that the first one exports"

Transform = Callable[[str], str | Refusal]


def has_namespaces(code: str) -> bool:
    """Whether something in ``code``, a transformed body, looks like a namespace: there the transform leaves
    them.
    """
    return _OPENING.search(code) is not None


def is_reopened(refusal: Refusal) -> bool:
    """Whether a refusal is about a namespace that is opened twice."""
    return _ONCE in refusal.message


def inline(source: str, *, as_module: Transform, as_body: Transform) -> str | Refusal:
    """The code of the body ``source`` with its namespaces transformed, or why it is refused."""
    seen: set[str] = set()
    original = source
    at = 0
    for _ in range(MAX_NAMESPACES):
        opening = _OPENING.search(source, at)
        if opening is None:
            break
        start, at = opening.start(), opening.end()
        # a keyword that stands twice is an error, but not within a string or a comment
        if not isinstance(as_body(f"{source[:start]}namespace {source[start:]}"), Refusal):
            continue
        found = _transformed(source, start, at, as_module)
        if found is None:
            continue
        if opening["name"] in seen:
            # what was replaced stands before it, so that it is as far from the end as ever
            return reopened(opening["name"], original, start + len(original) - len(source))
        seen.add(opening["name"])
        code, end = found
        source = source[:start] + code + source[end:]
        at = start + len(code)
    return as_body(source)


def _transformed(source: str, start: int, inside: int, as_module: Transform) -> tuple[str, int] | None:
    """What the namespace at ``start`` becomes, and where it ends; None when no closing brace ends one."""
    for end in _ends(source, inside):
        output = as_module(source[start:end])
        if not isinstance(output, Refusal):
            return output.rstrip("\n"), end
    return None


def _ends(source: str, inside: int) -> Iterator[int]:
    """Where the block may end that ``inside`` is in: where its braces are balanced first, then at any
    brace.
    """
    depth = 1
    ends = []
    for match in re.finditer(r"[{}]", source[inside:]):
        depth += 1 if match[0] == "{" else -1
        if match[0] == "}":
            ends.append((depth != 0, inside + match.end()))
    yield from (end for _, end in sorted(ends)[:MAX_ENDS])


def find_reopened(source: str, code: str) -> Refusal | None:
    """The refusal of a module that opens a namespace twice, by what the transform made of it; None when it
    does not.
    """
    seen: set[str] = set()
    for match in _BECOMES.finditer(code):
        name = match["name"]
        if (
            name in seen
            and len(places := [found for found in _OPENING.finditer(source) if found["name"] == name]) > 1
        ):
            return reopened(name, source, places[1].start())
        seen.add(name)
    return None


def reopened(name: str, source: str, at: int) -> Refusal:
    """The refusal of a namespace that is opened a second time at ``at``."""
    line, column = source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)
    return Refusal(
        "syntax",
        f"SyntaxError: expected the namespace {name} {_ONCE}",
        line,
        column,
    )
