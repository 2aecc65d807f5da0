"""The check of a module before anything is compiled: a pure reader of its sections.

It admits what the engine supports and the ABI needs, and names what is wrong in words for the module's author. It is no validator
(wasmtime is, in the compile child); it only makes sure that wasmtime's C API never meets a type that it aborts the process for,
and that a module which could never run is refused when its panel is made. Layout: WebAssembly Core Specification 2.0, chapter 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from panels_shared.handlers import MAX_WASM_BYTES
from panels_shared.limits import DEFAULT_MAXIMA
from panels_shared.messages import Refusal
from panels_worker.guest import wasi
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS

PAGE_BYTES: Final = 65_536

#: Security limits on counts; a module of ordinary toolchains has a tenth of each.
MAX_ITEMS: Final = 50_000
MAX_NAME_BYTES: Final = 1_024
MAX_PARAMS: Final = 1_000

_NUMBERS: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64"}
_TYPE_NAMES: Final = _NUMBERS | {0x7B: "v128", 0x70: "funcref", 0x6F: "externref"}
_SHOWN_NAME_CHARS: Final = 80

Signature = tuple[tuple[int, ...], tuple[int, ...]]


def _signature(params: str, results: str = "") -> Signature:
    codes = {"i": 0x7F, "I": 0x7E, "F": 0x7C}
    return tuple(codes[letter] for letter in params), tuple(codes[letter] for letter in results)


#: The imports of *panels ABI v1*.
PANELS_IMPORTS: Final[dict[str, Signature]] = {
    "state_get": _signature("iiii", "i"),
    "state_set": _signature("iiii", "i"),
    "state_delete": _signature("ii", "i"),
    "state_has": _signature("ii", "i"),
    "state_keys": _signature("ii", "i"),
    "emit": _signature("iiii", "i"),
    "view": _signature("iiiiii", "i"),
    "result": _signature("ii"),
    "fail": _signature("ii"),
    "log": _signature("iii"),
    "now_ms": _signature("", "F"),
    "random": _signature("ii"),
    "ext_call": _signature("iiiiii", "I"),
}
_WASI_IMPORTS: Final[dict[str, Signature]] = {
    name: _signature(params, "" if name == "proc_exit" else "i") for name, params in wasi.IMPORTS.items()
}
_IMPORTS: Final = {"panels": PANELS_IMPORTS, wasi.MODULE: _WASI_IMPORTS}

_ENTRY: Final = _signature("ii", "i")
_ALLOC: Final = _signature("i", "i")
_OPTIONAL_EXPORTS: Final = {"_initialize": _signature(""), "resume": _signature("Iiii", "i")}


class _RefusedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message)


class _Reader:
    """Bytes of a section, read from the front."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def byte(self) -> int:
        if self.at >= self.end:
            raise self.malformed("it ends too early")
        value = self.data[self.at]
        self.at += 1
        return value

    def u32(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                if result > 0xFFFF_FFFF:
                    raise self.malformed("a number is too large")
                return result
            if shift >= 35:
                raise self.malformed("a number has too many bytes")

    def u64(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return result
            if shift >= 70:
                raise self.malformed("a number has too many bytes")

    def count(self, what: str) -> int:
        value = self.u32()
        if value > MAX_ITEMS:
            raise _RefusedError("too_large", f"expected at most {MAX_ITEMS} {what}, got {value}")
        return value

    def skip(self, size: int) -> None:
        if size > self.end - self.at:
            raise self.malformed("a length reaches past the end")
        self.at += size

    def name(self) -> str:
        size = self.u32()
        if size > MAX_NAME_BYTES:
            raise _RefusedError("too_large", f"expected names of at most {MAX_NAME_BYTES} bytes, got {size}")
        start = self.at
        self.skip(size)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise self.malformed("a name is not UTF-8") from None

    def malformed(self, why: str) -> _RefusedError:
        return _RefusedError("malformed", f"expected a WebAssembly module, but at byte {self.at} {why}")


@dataclass(slots=True)
class _Module:
    types: list[Signature | None] = field(default_factory=list)
    #: type indices of all functions, imported ones first
    functions: list[int] = field(default_factory=list)
    memories: int = 0
    exports: dict[str, tuple[int, int]] = field(default_factory=dict)


def preflight(source: bytes, entry: str) -> Refusal | None:
    """Why the module ``source`` cannot be a handler with that ``entry``; None when it may be compiled."""
    try:
        module = _read(source)
        _check_exports(module, entry)
    except _RefusedError as exc:
        return exc.refusal
    return None


def _read(source: bytes) -> _Module:
    if len(source) > MAX_WASM_BYTES:
        raise _RefusedError(
            "too_large", f"expected a module of at most {MAX_WASM_BYTES} bytes, got {len(source)}"
        )
    if source[:4] != b"\0asm":
        raise _RefusedError(
            "malformed", "expected a WebAssembly module, which begins with the bytes 00 61 73 6d"
        )
    if source[4:8] == b"\x0d\0\x01\0":
        raise _RefusedError(
            "unsupported", "expected a core module, got a component; build for wasm32-unknown-unknown"
        )
    if source[4:8] != b"\x01\0\0\0":
        raise _RefusedError("malformed", "expected WebAssembly version 1")
    module = _Module()
    reader = _Reader(source, 8, len(source))
    readers = {1: _types, 2: _imports, 3: _functions, 4: _tables, 5: _memories, 7: _exports}
    seen: set[int] = set()
    while reader.at < reader.end:
        section = reader.byte()
        size = reader.u32()
        start = reader.at
        reader.skip(size)
        if section == 0:
            continue
        if section in seen:
            raise reader.malformed(f"section {section} comes twice")
        seen.add(section)
        if section == 13:
            raise _RefusedError("unsupported", "expected a module without exception tags")
        if section > 12:
            raise reader.malformed(f"there is an unknown section {section}")
        if section in readers:
            readers[section](_Reader(source, start, start + size), module)
    return module


def _types(reader: _Reader, module: _Module) -> None:
    for _ in range(reader.count("types")):
        if reader.byte() != 0x60:
            raise _RefusedError("unsupported", "expected function types only; GC types are not supported")
        module.types.append((_value_types(reader), _value_types(reader)))


def _value_types(reader: _Reader) -> tuple[int, ...]:
    count = reader.u32()
    if count > MAX_PARAMS:
        raise _RefusedError("too_large", f"expected at most {MAX_PARAMS} parameters, got {count}")
    found = []
    for _ in range(count):
        code = reader.byte()
        if code not in _TYPE_NAMES:
            raise _RefusedError(
                "unsupported", f"expected i32, i64, f32 or f64 in types, got type code 0x{code:02x}"
            )
        if code == 0x7B:
            raise _RefusedError("unsupported", "expected a module without SIMD (v128)")
        found.append(code)
    return tuple(found)


def _imports(reader: _Reader, module: _Module) -> None:
    for _ in range(reader.count("imports")):
        origin, name = reader.name(), reader.name()
        shown = f"{_shown(origin)}.{_shown(name)}"
        kind = reader.byte()
        if kind != 0x00:
            what = {1: "table", 2: "memory", 3: "global", 4: "tag"}.get(kind, "item")
            raise _RefusedError("unknown_import", f"expected function imports only, got the {what} {shown}")
        index = reader.u32()
        known = _IMPORTS.get(origin, {}).get(name)
        if known is None:
            raise _RefusedError(
                "unknown_import", f"expected imports of panels ABI v1 or WASI preview 1, got {shown}"
            )
        if _type(module, index) != known:
            raise _RefusedError(
                "signature",
                f"import {shown}: expected {_describe(known)}, got {_describe(_type(module, index))}",
            )
        module.functions.append(index)


def _functions(reader: _Reader, module: _Module) -> None:
    for _ in range(reader.count("functions")):
        module.functions.append(reader.u32())


def _tables(reader: _Reader, module: _Module) -> None:
    for _ in range(reader.count("tables")):
        code = reader.byte()
        if code not in (0x70, 0x6F):
            raise _RefusedError("unsupported", "expected tables of funcref, without initial expressions")
        minimum, _ = _limits(reader, "table")
        if minimum > MAX_TABLE_ELEMENTS:
            raise _RefusedError(
                "memory", f"expected tables of at most {MAX_TABLE_ELEMENTS} elements, got {minimum}"
            )


def _memories(reader: _Reader, module: _Module) -> None:
    module.memories = reader.count("memories")
    if module.memories > 1:
        raise _RefusedError("unsupported", f"expected one memory, got {module.memories}")
    for _ in range(module.memories):
        minimum, _ = _limits(reader, "memory")
        if minimum * PAGE_BYTES > DEFAULT_MAXIMA.memory_bytes:
            raise _RefusedError(
                "memory",
                f"expected a memory of at most {DEFAULT_MAXIMA.memory_bytes} bytes at the start, "
                f"got {minimum * PAGE_BYTES}",
            )


def _limits(reader: _Reader, what: str) -> tuple[int, int | None]:
    flags = reader.byte()
    if flags & ~0x01:
        raise _RefusedError(
            "unsupported", f"expected a plain 32-bit {what}, not a shared, 64-bit or custom-page one"
        )
    minimum = reader.u64()
    return minimum, reader.u64() if flags & 0x01 else None


def _exports(reader: _Reader, module: _Module) -> None:
    for _ in range(reader.count("exports")):
        name = reader.name()
        kind, index = reader.byte(), reader.u32()
        if name in module.exports:
            raise reader.malformed(f"{_shown(name)} is exported twice")
        module.exports[name] = (kind, index)
        if kind == 0x00:
            signature = _function_type(module, index)
            for code in (*signature[0], *signature[1]):
                if code not in _NUMBERS:
                    raise _RefusedError(
                        "signature",
                        f"export {_shown(name)}: expected i32, i64, f32 or f64, got {_TYPE_NAMES[code]}",
                    )


def _check_exports(module: _Module, entry: str) -> None:
    kind, _ = module.exports.get("memory", (-1, 0))
    if kind != 0x02:
        raise _RefusedError("missing_export", "expected an export memory (a memory), got none")
    for name, wanted in (("alloc", _ALLOC), (entry, _ENTRY), *_OPTIONAL_EXPORTS.items()):
        kind, index = module.exports.get(name, (-1, 0))
        if kind != 0x00:
            if name in _OPTIONAL_EXPORTS and kind == -1:
                continue
            raise _RefusedError(
                "missing_export",
                f"expected an export {_shown(name)} (a function {_describe(wanted)}), got none",
            )
        got = _function_type(module, index)
        if got != wanted:
            raise _RefusedError(
                "signature", f"export {_shown(name)}: expected {_describe(wanted)}, got {_describe(got)}"
            )


def _type(module: _Module, index: int) -> Signature:
    if index >= len(module.types) or (signature := module.types[index]) is None:
        raise _RefusedError("malformed", f"expected a type {index}, got only {len(module.types)}")
    return signature


def _function_type(module: _Module, index: int) -> Signature:
    if index >= len(module.functions):
        raise _RefusedError("malformed", f"expected a function {index}, got only {len(module.functions)}")
    return _type(module, module.functions[index])


def _describe(signature: Signature) -> str:
    params = ", ".join(_TYPE_NAMES[code] for code in signature[0][:12])
    results = ", ".join(_TYPE_NAMES[code] for code in signature[1][:4]) or "()"
    return f"({params}) -> {results}"


def _shown(name: str) -> str:
    text = name if len(name) <= _SHOWN_NAME_CHARS else name[:_SHOWN_NAME_CHARS] + "…"
    return repr(text)
