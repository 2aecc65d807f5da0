"""The check of a module before anything is compiled: a pure reader of its sections.

It admits what the engine supports and the ABI needs, and says what is wrong in words for the module's author.
It does not validate the module; wasmtime does that in the compile child. It makes sure of two things only:
wasmtime's C API never meets a type for which it would abort the process, and a module that could never run is
refused when its panel is made. The layout of a module is described in the WebAssembly Core Specification 2.0,
chapter 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from panels_shared.handlers import MAX_WASM_BYTES
from panels_shared.limits import DEFAULT_MAXIMA
from panels_shared.messages import Refusal
from panels_worker.compiling.reader import Reader, RefusedError
from panels_worker.compiling.signatures import (
    ALLOC,
    ENTRY,
    EXT_CALL,
    IMPORTS,
    NUMBERS,
    OPTIONAL_EXPORTS,
    TYPE_NAMES,
    Signature,
    describe,
    shown,
)
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS

PAGE_BYTES: Final = 65_536
#: The most parameters of one function: a security limit.
MAX_PARAMS: Final = 1_000

_CUSTOM_SECTION: Final = 0
_LAST_SECTION: Final = 12
_TAG_SECTION: Final = 13

#: Kinds of imports and exports.
_FUNCTION_KIND: Final = 0x00
_MEMORY_KIND: Final = 0x02
_NO_EXPORT: Final = -1


@dataclass(slots=True)
class _Module:
    """What has been read of a module so far."""

    types: list[Signature | None] = field(default_factory=list)
    #: type indices of all functions, imported ones first
    functions: list[int] = field(default_factory=list)
    calls_extensions: bool = False
    memories: int = 0
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)


def preflight(source: bytes, entry: str) -> Refusal | None:
    """Why the module ``source`` cannot be a handler with that ``entry``; None when it may be compiled."""
    try:
        module = _read(source)
        _check_exports(module, entry)
    except RefusedError as exc:
        return exc.refusal
    return None


def _read(source: bytes) -> _Module:
    """Reads the sections that matter, in whatever order they come."""
    _check_preamble(source)
    module = _Module()
    reader = Reader(source, 8, len(source))
    readers = {1: _types, 2: _imports, 3: _functions, 4: _tables, 5: _memories, 7: _exports}
    seen: set[int] = set()
    while reader.at < reader.end:
        section = reader.byte()
        size = reader.u32()
        start = reader.at
        reader.skip(size)
        if section == _CUSTOM_SECTION:
            continue
        if section in seen:
            raise reader.malformed(f"section {section} comes twice")
        seen.add(section)
        if section == _TAG_SECTION:
            raise RefusedError("unsupported", "expected a module without exception tags")
        if section > _LAST_SECTION:
            raise reader.malformed(f"there is an unknown section {section}")
        if section in readers:
            readers[section](Reader(source, start, start + size), module)
    return module


def _check_preamble(source: bytes) -> None:
    if len(source) > MAX_WASM_BYTES:
        text = f"expected a module of at most {MAX_WASM_BYTES} bytes, got {len(source)}"
        raise RefusedError("too_large", text)
    if source[:4] != b"\0asm":
        text = "expected a WebAssembly module, which begins with the bytes 00 61 73 6d"
        raise RefusedError("malformed", text)
    if source[4:8] == b"\x0d\0\x01\0":
        text = "expected a core module, got a component; build for wasm32-unknown-unknown"
        raise RefusedError("unsupported", text)
    if source[4:8] != b"\x01\0\0\0":
        raise RefusedError("malformed", "expected WebAssembly version 1")


def _types(reader: Reader, module: _Module) -> None:
    for _ in range(reader.count("types")):
        if reader.byte() != 0x60:
            raise RefusedError("unsupported", "expected function types only; GC types are not supported")
        module.types.append((_value_types(reader), _value_types(reader)))


def _value_types(reader: Reader) -> tuple[int, ...]:
    count = reader.u32()
    if count > MAX_PARAMS:
        raise RefusedError("too_large", f"expected at most {MAX_PARAMS} parameters, got {count}")
    found = []
    for _ in range(count):
        code = reader.byte()
        if code not in TYPE_NAMES:
            raise RefusedError(
                "unsupported", f"expected i32, i64, f32 or f64 in types, got type code 0x{code:02x}"
            )
        if code == 0x7B:
            raise RefusedError("unsupported", "expected a module without SIMD (v128)")
        found.append(code)
    return tuple(found)


def _imports(reader: Reader, module: _Module) -> None:
    for _ in range(reader.count("imports")):
        origin, name = reader.name(), reader.name()
        full_name = f"{shown(origin)}.{shown(name)}"
        kind = reader.byte()
        if kind != _FUNCTION_KIND:
            what = {1: "table", 2: "memory", 3: "global", 4: "tag"}.get(kind, "item")
            raise RefusedError(
                "unknown_import", f"expected function imports only, got the {what} {full_name}"
            )
        index = reader.u32()
        known = IMPORTS.get(origin, {}).get(name)
        if known is None:
            raise RefusedError(
                "unknown_import", f"expected imports of panels ABI v1 or WASI preview 1, got {full_name}"
            )
        if _type(module, index) != known:
            raise RefusedError(
                "signature",
                f"import {full_name}: expected {describe(known)}, got {describe(_type(module, index))}",
            )
        module.functions.append(index)
        module.calls_extensions |= (origin, name) == EXT_CALL


def _functions(reader: Reader, module: _Module) -> None:
    for _ in range(reader.count("functions")):
        module.functions.append(reader.u32())


def _tables(reader: Reader, module: _Module) -> None:
    for _ in range(reader.count("tables")):
        code = reader.byte()
        if code not in (0x70, 0x6F):
            raise RefusedError("unsupported", "expected tables of funcref, without initial expressions")
        minimum, _ = _limits(reader, "table")
        if minimum > MAX_TABLE_ELEMENTS:
            raise RefusedError(
                "memory", f"expected tables of at most {MAX_TABLE_ELEMENTS} elements, got {minimum}"
            )


def _memories(reader: Reader, module: _Module) -> None:
    module.memories = reader.count("memories")
    if module.memories > 1:
        raise RefusedError("unsupported", f"expected one memory, got {module.memories}")
    for _ in range(module.memories):
        minimum, _ = _limits(reader, "memory")
        if minimum * PAGE_BYTES > DEFAULT_MAXIMA.memory_bytes:
            raise RefusedError(
                "memory",
                f"expected a memory of at most {DEFAULT_MAXIMA.memory_bytes} bytes at the start, "
                f"got {minimum * PAGE_BYTES}",
            )


def _limits(reader: Reader, what: str) -> tuple[int, int | None]:
    flags = reader.byte()
    if flags & ~0x01:
        raise RefusedError(
            "unsupported", f"expected a plain 32-bit {what}, not a shared, 64-bit or custom-page one"
        )
    minimum = reader.u64()
    return minimum, reader.u64() if flags & 0x01 else None


def _exports(reader: Reader, module: _Module) -> None:
    for _ in range(reader.count("exports")):
        name = reader.name()
        kind, index = reader.byte(), reader.u32()
        if name in module.exports:
            raise reader.malformed(f"{shown(name)} is exported twice")
        module.exports[name] = (kind, index)
        if kind == _FUNCTION_KIND:
            signature = _function_type(module, index)
            for code in (*signature[0], *signature[1]):
                if code not in NUMBERS:
                    raise RefusedError(
                        "signature",
                        f"export {shown(name)}: expected i32, i64, f32 or f64, got {TYPE_NAMES[code]}",
                    )


def _check_exports(module: _Module, entry: str) -> None:
    kind, _ = module.exports.get("memory", (_NO_EXPORT, 0))
    if kind != _MEMORY_KIND:
        raise RefusedError("missing_export", "expected an export memory (a memory), got none")
    for name, wanted in (("alloc", ALLOC), (entry, ENTRY), *OPTIONAL_EXPORTS.items()):
        _check_export(module, name, wanted)
    if module.calls_extensions and "resume" not in module.exports:
        text = "expected an export resume, because the module imports panels.ext_call: it gets the answers"
        raise RefusedError("missing_export", text)


def _check_export(module: _Module, name: str, wanted: Signature) -> None:
    kind, index = module.exports.get(name, (_NO_EXPORT, 0))
    if kind == _NO_EXPORT and name in OPTIONAL_EXPORTS:
        return
    if kind != _FUNCTION_KIND:
        text = f"expected an export {shown(name)} (a function {describe(wanted)}), got none"
        raise RefusedError("missing_export", text)
    got = _function_type(module, index)
    if got != wanted:
        text = f"export {shown(name)}: expected {describe(wanted)}, got {describe(got)}"
        raise RefusedError("signature", text)


def _type(module: _Module, index: int) -> Signature:
    if index >= len(module.types) or (signature := module.types[index]) is None:
        raise RefusedError("malformed", f"expected a type {index}, got only {len(module.types)}")
    return signature


def _function_type(module: _Module, index: int) -> Signature:
    if index >= len(module.functions):
        raise RefusedError("malformed", f"expected a function {index}, got only {len(module.functions)}")
    return _type(module, module.functions[index])
