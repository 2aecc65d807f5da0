"""Modules that the tools of a panel share: which a handler reaches, and how they travel with it. Pure.

A panel's definition names modules like files, ``rules.js`` or ``money.ts``; handlers and other modules import
them as ``"./rules.js"``. A handler that reaches none is what it always was. One that does is *composed*: its
source, followed by the modules in an order in which each stands behind those that it imports. So a handler is
one text for everybody between its author and the engine, with one digest.

What is reached is found without a parser: a module is, where its specifier stands in quotes. That may be one
too many, in a comment, and is never one too few; specifiers that a program computes reach nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from panels_shared.errors import PanelsError
from panels_shared.messages import Language

#: Security limits: modules of a panel, and characters of the name of one.
MAX_MODULES: Final = 32
MAX_MODULE_NAME_CHARS: Final = 64
MODULE_NAME_RULE: Final = (
    f"a name of 1 to {MAX_MODULE_NAME_CHARS} characters among a-z A-Z 0-9 _ - . that ends in .js or .ts"
)

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(?:js|ts)", re.ASCII)
_SPECIFIER: Final = re.compile(r"""(["'`])\./([A-Za-z0-9_.-]{1,64})\1""", re.ASCII)
#: What no source of an author holds: they may have no NUL.
_MARK: Final = b"\0modules\0"

_decoder = msgspec.msgpack.Decoder(tuple[bytes, tuple[tuple[str, bytes], ...]])


class ModuleError(PanelsError):
    """A handler cannot have the modules that it asks for. ``name`` is the module that is wrong, "" for the
    handler.
    """

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


def is_module_name(name: str) -> bool:
    """Whether it follows ``MODULE_NAME_RULE``."""
    return len(name) <= MAX_MODULE_NAME_CHARS and _NAME.fullmatch(name) is not None


def language_of(name: str) -> Language:
    """What a module of that name is written in."""
    return "typescript" if name.endswith(".ts") else "javascript"


def reached(language: Language, source: str, modules: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the modules that a handler reaches, each behind those that it imports.

    Raises ``ModuleError`` for circles, and for TypeScript that JavaScript would import.
    """
    found: dict[str, None] = {}
    under_way: dict[str, None] = {}

    def follow(name: str, text: str) -> None:
        for wanted in dict.fromkeys(match[2] for match in _SPECIFIER.finditer(text)):
            if wanted not in modules or wanted in found:
                continue
            if wanted in under_way:
                circle = [*under_way][list(under_way).index(wanted) :]
                text = " → ".join([*circle, wanted])
                raise ModuleError(wanted, f"expected modules that do not import each other, got {text}")
            if language == "javascript" and wanted.endswith(".ts"):
                raise ModuleError(
                    name,
                    f"expected JavaScript that imports no TypeScript, got ./{wanted}; write it in TypeScript",
                )
            under_way[wanted] = None
            follow(wanted, modules[wanted])
            del under_way[wanted]
            found[wanted] = None

    follow("", source)
    return tuple(found)


def imported_by(language: Language, source: str, modules: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    """The modules (name, source) that a handler reaches, for ``compose``. Raises ``ModuleError``."""
    return tuple((name, modules[name].encode()) for name in reached(language, source, modules))


def compose(source: bytes, modules: tuple[tuple[str, bytes], ...]) -> bytes:
    """The handler and its modules (name, source) as one text; the handler's source itself without any."""
    return _MARK + msgspec.msgpack.encode((source, modules)) if modules else source


def decompose(composed: bytes) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """Undoes ``compose``. What nobody composed is a handler without modules."""
    if not composed.startswith(_MARK):
        return composed, ()
    try:
        source, modules = _decoder.decode(composed.removeprefix(_MARK))
    except msgspec.DecodeError:
        return composed, ()
    return source, modules
