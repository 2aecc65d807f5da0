"""Host functions, and modules linked to them.

Host functions are registered once per process: wasmtime-py and ctypes keep every callback for as long as the
linker lives. An exception in a host function must not unwind through the guest's frames, so the callback
keeps it, stops the guest with a trap, and ``Store.call`` raises it again (``take_pending``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, POINTER, c_double, c_int32, c_int64, c_size_t, c_void_p
from enum import Enum
from typing import Any, Final

from wasmtime import Engine, FuncType, InstancePre, Linker, Module, ValType

from panels_worker.guest.capi import define_func_unchecked, take_error, trap_new


class Signature(Enum):
    """What a host function's last value is read and written as: decides how its raw values are indexed."""

    I32 = POINTER(c_int32)
    I64 = POINTER(c_int64)
    F64 = POINTER(c_double)


HostFunction = Callable[[Any], None]
"""Gets the raw values as an array; argument n is at [n * step]; writes its result to [0]. An exception stops
the guest.
"""

_pending: list[BaseException] = []
_STOP: Final = b"stopped by the host"


def take_pending() -> BaseException | None:
    """The exception that the last host function raised, taken; None when there was none."""
    pending, _pending[:] = _pending[:], []
    return pending[0] if pending else None


class HostLinker:
    """Host functions, registered once per process, and the modules linked to them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._linker = Linker(engine)
        self._keep: list[object] = []  # ctypes callbacks must outlive the linker

    def define(
        self,
        module: str,
        name: str,
        params: Sequence[ValType],
        results: Sequence[ValType],
        function: HostFunction,
        index: Signature = Signature.I32,
    ) -> None:
        """Makes ``function`` the import ``module.name``."""

        def callback(_env: object, _caller: object, raw: Any, _count: int) -> int:
            try:
                function(raw)
            except BaseException as exc:  # noqa: BLE001 - nothing may unwind through the guest; ``call`` raises it again
                _pending.append(exc)
                return int(trap_new(_STOP, len(_STOP)))
            return 0

        prototype = CFUNCTYPE(c_size_t, c_void_p, c_void_p, index.value, c_size_t)
        pointer = prototype(callback)
        kind = FuncType(list(params), list(results))
        self._keep += [pointer, kind]
        module_name, func_name = module.encode(), name.encode()
        error = define_func_unchecked(
            ctypes.cast(self._linker.ptr(), c_void_p),
            module_name,
            len(module_name),
            func_name,
            len(func_name),
            ctypes.cast(kind.ptr(), c_void_p),
            ctypes.cast(pointer, c_void_p),
            None,
            None,
        )
        if error:
            raise ValueError(f"{module}.{name}: {take_error(error)}")

    def link(self, module: Module) -> Template:
        """A template of ``module``. Raises ``wasmtime.WasmtimeError`` for an import that is not defined."""
        return Template(self.engine, self._linker.instantiate_pre(module), self)

    @property
    def linker(self) -> Linker:
        """The linker itself, to define instances of other modules in."""
        return self._linker


class Template:
    """A module with its imports resolved: what instances are made from."""

    __slots__ = ("_engine", "_linker", "_pre", "engine_ptr", "pre_ptr")

    def __init__(self, engine: Engine, pre: InstancePre, linker: HostLinker) -> None:
        self._engine = engine
        self._pre = pre
        self._linker = linker  # its callbacks are called by instances: they must live as long
        self.engine_ptr = ctypes.cast(engine.ptr(), c_void_p).value
        self.pre_ptr = ctypes.cast(pre.ptr(), c_void_p).value
