"""What the host expects the guest of ``quickjs-rs`` to export and import, checked when a guest is loaded."""

from __future__ import annotations

from typing import Final

from wasmtime import FuncType, Module

from panels_worker.guest import wasi
from panels_worker.javascript.assets import GuestChangedError

#: name → (parameters, results); i is i32. What we call; the guest has more.
EXPORTS: Final[dict[str, tuple[str, str]]] = {
    "call_function": ("iiiii", "i"),
    "eval_code": ("iii", "i"),
    "eval_module": ("iiiii", "i"),
    "eval_module_async": ("iiiii", "i"),
    "execute_pending_jobs": ("", "i"),
    "free_value": ("i", ""),
    "get_bool": ("ii", "i"),
    "get_prop": ("iiii", "i"),
    "get_string": ("i", "i"),
    "global_object": ("", "i"),
    "last_exception": ("i", "i"),
    "new_bool": ("i", "i"),
    "new_function": ("ii", "i"),
    "new_null": ("", "i"),
    "new_string": ("ii", "i"),
    "new_undefined": ("", "i"),
    "promise_state": ("ii", "i"),
    "qjs_alloc": ("i", "i"),
    "qjs_free": ("ii", ""),
    "qjs_last_len": ("", "i"),
    "qjs_last_ptr": ("", "i"),
    "qjs_result_free": ("", ""),
    "set_max_stack_size": ("i", ""),
    "set_prop": ("iiii", "i"),
    "type_of": ("i", "i"),
}
#: The imports that this host gives it, besides WASI.
IMPORTS: Final[dict[str, tuple[str, str]]] = {
    "host_call": ("iiiii", "i"),
    "host_interrupt": ("", "i"),
    "host_module_load": ("iii", "i"),
    "host_module_normalize": ("iiiii", "i"),
}


def check_guest(module: Module) -> None:
    """Raises ``GuestChangedError``, in words, unless ``module`` has the exports and imports that this host
    knows.
    """
    exports = {export.name: export.type for export in module.exports}
    for name, wanted in EXPORTS.items():
        if _signature(exports.get(name)) != wanted:
            raise GuestChangedError(
                f"expected the guest of quickjs-rs to export {name} as {wanted},"
                f" got {_signature(exports.get(name))}"
            )
    for name in ("memory", "__stack_pointer"):
        if name not in exports:
            raise GuestChangedError(f"expected the guest of quickjs-rs to export {name}, got no such export")
    for item in module.imports:
        known = IMPORTS.get(item.name or "") if item.module == "env" else None
        if item.module == wasi.MODULE and item.name in wasi.IMPORTS:
            continue
        if known is None or _signature(item.type) != known:
            raise GuestChangedError(
                f"expected no import {item.module}.{item.name} of the guest of quickjs-rs, got one"
            )


def _signature(kind: object) -> tuple[str, str] | None:
    if not isinstance(kind, FuncType):
        return None
    letters = {"i32": "i", "i64": "I", "f32": "f", "f64": "F"}
    return (
        "".join(letters.get(str(value), "?") for value in kind.params),
        "".join(letters.get(str(value), "?") for value in kind.results),
    )
