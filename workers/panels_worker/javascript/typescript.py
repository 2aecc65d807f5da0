"""TypeScript to JavaScript, by the OXC transform that ``quickjs-rs`` ships, in our engine with fuel and
limits.

Types are stripped; enums, namespaces and parameter properties become code. The transform prints the program
anew and has no source map, so positions are found again by aligning the words of what it printed with the
words of the source: both have the same ones in the same order, but for what was stripped and what was added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

from wasmtime import Engine, Module

from panels_shared.limits import DEFAULT_LIMITS, MIB
from panels_shared.messages import Refusal
from panels_worker.guest import wasi
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.effects import Effects
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS, ticks
from panels_worker.guest.linker import HostLinker
from panels_worker.guest.run import WasmRun
from panels_worker.guest.store import Store
from panels_worker.guest.task import Task
from panels_worker.guest.traps import GuestTrap, HostStop, TrapKind
from panels_worker.javascript import namespaces
from panels_worker.javascript.positions import MAX_SEARCHED_CHARS, end_of, find_error

Positions = tuple[tuple[int, int, int, int], ...]

FUEL: Final = 20_000_000_000
DEADLINE_MS: Final = 4_000
MEMORY_BYTES: Final = 256 * MIB
MAX_OUTPUT_BYTES: Final = 4 * MIB

_STATUS_OK: Final = 0
_STATUS_UNCHANGED: Final = 1
_STRIP_TYPESCRIPT: Final = 1 << 0 | 1 << 8

_NAME: Final = b"handler.ts"
_OPENING: Final = "async function __panels_body() {\n"
_CLOSING: Final = "\n}\n"
_UNTERMINATED: Final = '\n"'

#: Words beyond which the exact alignment, which is quadratic at worst, gives way to a greedy one.
_MAX_EXACT_WORDS: Final = 4_000
_LOOK_AHEAD_WORDS: Final = 256

_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|/\*.*?\*/|\s+)"""
    r"""|(?P<word>[\w$]+|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`)|(?P<other>.)""",
    re.DOTALL,
)


def strip(
    source: str, engine: Engine, serialized: bytes, *, is_module: bool
) -> tuple[str, Positions] | Refusal:
    """JavaScript for a TypeScript module, or body of a function, and where its words come from."""
    module = Module.deserialize(engine, serialized)

    def as_module(text: str) -> str | Refusal:
        return _transform(text.encode(), engine, module)

    def as_body(text: str) -> str | Refusal:
        output = _transform((_OPENING + text + _CLOSING).encode(), engine, module)
        return output if isinstance(output, Refusal) else _unwrapped(output)

    try:
        output = as_module(source) if is_module else as_body(source)
        if isinstance(output, str):
            if is_module:
                output = namespaces.find_reopened(source, output) or output
            elif namespaces.has_namespaces(output):
                output = namespaces.inline(source, as_module=as_module, as_body=as_body)
    except GuestTrap as trap:
        too_slow = trap.kind in (TrapKind.FUEL, TrapKind.INTERRUPT)
        return Refusal(
            "too_costly" if too_slow else "syntax",
            f"expected TypeScript that can be transformed: {trap.text}",
        )
    if isinstance(output, Refusal):
        return output if output.line else _placed(output, source, engine, module, is_module=is_module)
    return output, align(source, output)


def _unwrapped(code: str) -> str | Refusal:
    """The body of the function that a body was wrapped in."""
    start, end = code.find("{") + 1, code.rfind("}")
    if not code.startswith("async function __panels_body") or end < start:
        return Refusal("syntax", "SyntaxError: expected the body of a function")
    # the line break after the brace goes too, so that the first line of the body is line 1
    return code[start:end].removeprefix("\n")


def _placed(refusal: Refusal, source: str, engine: Engine, module: Module, *, is_module: bool) -> Refusal:
    """``refusal`` with the position that the transform does not tell."""

    # many errors have the same words: behind the cut stands one that has others
    tail = _UNTERMINATED

    def error_of(text: str) -> str | None:
        wrapped = (text if is_module else _OPENING + text) + tail
        try:
            output = _transform(wrapped.encode(), engine, module)
        except (GuestTrap, HostStop):
            return ""
        return output.message if isinstance(output, Refusal) else None

    if error_of("") == refusal.message:
        tail = _CLOSING
    line, column = find_error(source, refusal.message, error_of)
    if not line and len(source) <= MAX_SEARCHED_CHARS and error_of(source) != refusal.message:
        # with something behind it there is another error: what is wrong is that it ends
        line, column = end_of(source)
    return Refusal(refusal.code, refusal.message, line, column)


def _transform(source: bytes, engine: Engine, module: Module) -> str | Refusal:
    linker = HostLinker(engine)
    current: list[WasmRun] = []
    wasi.define(linker, lambda: current[0])
    store = Store(
        linker.link(module),
        fuel=FUEL,
        epoch_ticks=ticks(DEADLINE_MS),
        memory_bytes=MEMORY_BYTES,
        table_elements=MAX_TABLE_ELEMENTS,
    )
    try:
        run = WasmRun(Effects(Task("", b"null", b"{}", 0.0, 0, DEFAULT_LIMITS, Capabilities.of(()), {})))
        run.enter(store)
        current.append(run)

        def given(data: bytes) -> int:
            pointer = store.call_i32(store.export(b"qjst_alloc"), len(data))
            run.write(pointer, data)
            return pointer

        name, text = given(_NAME), given(source)
        transform = store.export(b"qjst_transform")
        status = store.call_i32(transform, name, len(_NAME), text, len(source), _STRIP_TYPESCRIPT)
        if status == _STATUS_UNCHANGED:
            return source.decode()
        kind = b"result" if status == _STATUS_OK else b"error"
        size = store.call_i32(store.export(b"qjst_%b_len" % kind))
        if not 0 <= size <= MAX_OUTPUT_BYTES:
            raise HostStop(f"expected a transform of at most {MAX_OUTPUT_BYTES} bytes")
        output = run.read(store.call_i32(store.export(b"qjst_%b_ptr" % kind)), size).decode(
            "utf-8", "replace"
        )
        if status == _STATUS_OK:
            return output
        problem = output.removeprefix(f"source parse error in {_NAME.decode()}: ")
        return Refusal("syntax", f"SyntaxError: {problem}"[:2_000])
    finally:
        store.close()


def align(source: str, code: str) -> Positions:
    """For words of ``code``, where they stand in ``source``: rows of (line, column, source line, source
    column), 1-based.
    """
    ours, theirs = _words(code), _words(source)
    if max(len(ours), len(theirs)) <= _MAX_EXACT_WORDS:
        pairs = _exact(ours, theirs)
    else:
        pairs = _greedy(ours, theirs)
    return tuple((*ours[at][1:], *theirs[other][1:]) for at, other in pairs)


def _words(text: str) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    line, line_start = 1, 0
    for match in _TOKEN.finditer(text):
        if match["word"] is not None:
            found.append((match[0], line, match.start() - line_start + 1))
        breaks = match[0].count("\n")
        if breaks:
            line += breaks
            line_start = match.start() + match[0].rindex("\n") + 1
    return found


def _exact(
    ours: Sequence[tuple[str, int, int]], theirs: Sequence[tuple[str, int, int]]
) -> list[tuple[int, int]]:
    matcher = SequenceMatcher(None, [word[0] for word in ours], [word[0] for word in theirs], autojunk=False)
    return [
        (block.a + offset, block.b + offset)
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
    ]


def _greedy(
    ours: Sequence[tuple[str, int, int]], theirs: Sequence[tuple[str, int, int]]
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    at = 0
    for number, (word, _, _) in enumerate(ours):
        for other in range(at, min(at + _LOOK_AHEAD_WORDS, len(theirs))):
            if theirs[other][0] == word:
                pairs.append((number, other))
                at = other + 1
                break
    return pairs
