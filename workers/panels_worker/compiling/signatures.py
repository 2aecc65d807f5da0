"""Function types: those of the imports and exports that a handler may have, and how they are shown to its
author.
"""

from __future__ import annotations

from typing import Final

from panels_worker.guest import abi, wasi

NUMBERS: Final = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64"}
TYPE_NAMES: Final = NUMBERS | {0x7B: "v128", 0x70: "funcref", 0x6F: "externref"}
_SHOWN_NAME_CHARS: Final = 80

Signature = tuple[tuple[int, ...], tuple[int, ...]]


def _signature(params: str, results: str = "") -> Signature:
    codes = {"i": 0x7F, "I": 0x7E, "F": 0x7C}
    return tuple(codes[letter] for letter in params), tuple(codes[letter] for letter in results)


#: The imports of *panels ABI v1*.
PANELS_IMPORTS: Final[dict[str, Signature]] = {
    name: _signature(params, result) for name, (params, result) in abi.IMPORTS.items()
}
_WASI_IMPORTS: Final[dict[str, Signature]] = {
    name: _signature(params, "" if name == "proc_exit" else "i") for name, params in wasi.IMPORTS.items()
}
IMPORTS: Final = {abi.MODULE: PANELS_IMPORTS, wasi.MODULE: _WASI_IMPORTS}

#: Who imports this one has to export ``resume``.
EXT_CALL: Final = (abi.MODULE, "ext_call")

ENTRY: Final = _signature("ii", "i")
ALLOC: Final = _signature("i", "i")
OPTIONAL_EXPORTS: Final = {"_initialize": _signature(""), "resume": _signature("Iiii", "i")}


def describe(signature: Signature) -> str:
    """A function type in the notation of WebAssembly text, cut to twelve parameters and four results."""
    params = ", ".join(TYPE_NAMES[code] for code in signature[0][:12])
    results = ", ".join(TYPE_NAMES[code] for code in signature[1][:4]) or "()"
    return f"({params}) -> {results}"


def shown(name: str) -> str:
    """A name of the author's in quotes, cut to 80 characters."""
    text = name if len(name) <= _SHOWN_NAME_CHARS else name[:_SHOWN_NAME_CHARS] + "…"
    return repr(text)
