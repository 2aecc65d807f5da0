"""The QuickJS guest that the ``quickjs-rs`` package ships, driven by us: in our engine, with fuel and limits.

The package's own host runs it in an engine without fuel and through wasmtime-py's slow public API, so only the artefact is taken.
Its exports are checked by name and signature when it is loaded. Values inside it are *handles*, integers that it gives out;
strings cross as UTF-8 in its memory. Statuses are 0 for success, 1 for a JavaScript exception that waits to be taken.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from wasmtime import Engine, FuncType, Module, ValType

from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import DEFAULT_LIMITS, KIB, MIB
from panels_worker.guest import wasi
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.effects import Effects
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS
from panels_worker.guest.linker import HostLinker
from panels_worker.guest.run import WasmRun
from panels_worker.guest.store import Store
from panels_worker.guest.task import Task
from panels_worker.guest.traps import GuestTrap, HostStop, TrapKind
from panels_worker.javascript.engines import GuestChangedError
from panels_worker.javascript.host import HOST_FUNCTIONS
from panels_worker.javascript.image import Places

#: name → (parameters, results); i is i32. What we call; the guest has more.
EXPORTS: Final[dict[str, tuple[str, str]]] = {
    "call_function": ("iiiii", "i"),
    "eval_code": ("iii", "i"),
    "eval_module": ("iiiii", "i"),
    "eval_module_async": ("iiiii", "i"),
    "execute_pending_jobs": ("", "i"),
    "free_value": ("i", ""),
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

OK: Final = 0
JS_ERROR: Final = 1
#: What ``host_call`` returns to have the guest throw.
HOST_CALL_ERROR: Final = -1

#: How much of its shadow stack JavaScript may use: it throws a RangeError well before the engine's own stack is exhausted.
MAX_JS_STACK_BYTES: Final = 192 * KIB
#: A place in the guest's memory for what crosses; longer things are allocated.
BUFFER_BYTES: Final = 64 * KIB
#: The memory of an instance in which no handler is; a sanity check.
MAX_IMAGE_BYTES: Final = 16 * MIB
#: A string that comes out of the guest; a security limit (the guest's memory bounds it too).
MAX_STRING_BYTES: Final = 16 * MIB

_I32 = ValType.i32()


#: For instances that serve no job.
NO_TASK: Final = Task("", b"null", b"{}", 0.0, 0, DEFAULT_LIMITS, Capabilities.of(DEFAULT_CAPABILITIES), {})


class ScriptError(Exception):
    """A JavaScript exception that reached the host. ``stack`` is the engine's, unfiltered."""

    def __init__(self, name: str, message: str, stack: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.stack = stack


def check_guest(module: Module) -> None:
    """Raises ``GuestChangedError``, in words, unless ``module`` has the exports and imports that this host knows."""
    exports = {export.name: export.type for export in module.exports}
    for name, wanted in EXPORTS.items():
        if _signature(exports.get(name)) != wanted:
            raise GuestChangedError(
                f"expected the guest of quickjs-rs to export {name} as {wanted}, got {_signature(exports.get(name))}"
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


class JavaScriptGuest:
    """The guest, compiled and linked: what instances are made from. One per process.

    - ``run``: the job that host functions serve, None between jobs.
    - ``places``, ``fresh``: where things are in an instance, and its memory, of a guest with the prelude in it.
    """

    def __init__(self, engine: Engine, module: Module) -> None:
        check_guest(module)
        self.run: GuestRun | None = None
        self.places: Places | None = None
        self.fresh = b""
        linker = HostLinker(engine)
        linker.define("env", "host_call", [_I32] * 5, [_I32], self._host_call)
        # polled every 10,000 steps of the interpreter; fuel and the epoch do the interrupting
        linker.define("env", "host_interrupt", [], [_I32], _zero)
        # nothing can be imported
        linker.define("env", "host_module_normalize", [_I32] * 5, [_I32], _zero)
        linker.define("env", "host_module_load", [_I32] * 3, [_I32], _zero)
        wasi.define(linker, self._current)
        self._template = linker.link(module)

    @classmethod
    def load(cls, engine: Engine, serialized: bytes) -> JavaScriptGuest:
        """The guest from ``engines.compile_engine``, which the caller has authenticated. Raises ``wasmtime.WasmtimeError``,
        ``GuestChangedError``."""
        guest = cls(engine, Module.deserialize(engine, serialized))
        run = guest.open(Effects(NO_TASK), fuel=1_000_000, epoch_ticks=1_000, memory_bytes=MAX_IMAGE_BYTES)
        try:
            guest.fresh = run.read(0, run.size)
        finally:
            run.close()
        guest.places = Places.unpack(guest.fresh)
        return guest

    def open(self, effects: Effects, *, fuel: int, epoch_ticks: int, memory_bytes: int) -> GuestRun:
        """A fresh instance for one job, which is the current one until it is closed."""
        store = Store(
            self._template,
            fuel=fuel,
            epoch_ticks=epoch_ticks,
            memory_bytes=memory_bytes,
            table_elements=MAX_TABLE_ELEMENTS,
        )
        run = self.run = GuestRun(self, effects, store)
        return run

    def _current(self) -> WasmRun:
        if self.run is None:
            raise HostStop("no job is running")
        return self.run

    def _host_call(self, raw: Any) -> None:
        run = self.run
        if run is None:
            raise HostStop("no job is running")
        run.effects.count_call()
        function = HOST_FUNCTIONS.get(run.read(raw[0], raw[4]))
        count = raw[12]
        if function is None or not 0 <= count <= 8:
            raw[0] = HOST_CALL_ERROR
            return
        handles = struct.unpack(f"<{count}i", run.read(raw[16], 4 * count))
        raw[0] = function(run, *[run.string(handle) for handle in handles])


def _zero(raw: Any) -> None:
    raw[0] = 0


class GuestRun(WasmRun):
    """One instance of the guest. Methods raise ``GuestTrap``, ``BadPointerError`` or ``ScriptError``; close it always."""

    __slots__ = ("_guest", "_handles", "buffer", "out", "store", "undefined")

    def __init__(self, guest: JavaScriptGuest, effects: Effects, store: Store) -> None:
        super().__init__(effects)
        self._guest = guest
        self.store = store
        self.enter(store)
        self._handles: dict[bytes, int] = {}
        self.buffer = self.out = self.undefined = 0
        if (places := guest.places) is not None:
            self.buffer, self.out, self.undefined = places.buffer, places.out, places.undefined

    @property
    def places(self) -> Places:
        """Where things are. The guest must have the prelude in it."""
        places = self._guest.places
        if places is None:
            raise GuestChangedError("expected a guest with the prelude in it")
        return places

    def close(self) -> None:
        """Drops the instance."""
        self._guest.run = None
        self.store.close()

    def export(self, name: bytes) -> int:
        """The handle of an export."""
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = self.store.export(name)
        return handle

    def call(self, name: bytes, *args: int) -> int:
        """Calls an export that returns an i32."""
        return self.store.call_i32(self.export(name), *args)

    def allocate(self) -> None:
        """Makes the places for what crosses; part of the image, so that jobs find them."""
        self.buffer = self.call(b"qjs_alloc", BUFFER_BYTES)
        self.out = self.call(b"qjs_alloc", 16)
        self.undefined = self.call(b"new_undefined")
        if not self.buffer or not self.out:
            raise GuestTrap(TrapKind.MEMORY, "out of memory")

    def put(self, data: bytes) -> int:
        """Copies ``data`` into the guest; where it is, until the next ``put``."""
        pointer = self.buffer
        if len(data) > BUFFER_BYTES:
            pointer = self.call(b"qjs_alloc", len(data))
            if not pointer:
                raise GuestTrap(TrapKind.MEMORY, "out of memory")
        self.write(pointer, data)
        return pointer

    def new_string(self, data: bytes) -> int:
        """A handle to a string."""
        return self.call(b"new_string", self.put(data), len(data))

    def string(self, handle: int) -> str:
        """The string of a handle; a value of another type is an error. Lone surrogates come as replacement characters."""
        if self.call(b"get_string", handle) != OK:
            raise HostStop("expected a string")
        return self.take_result().decode("utf-8", "replace")

    def take_result(self) -> bytes:
        """What the last ``get_…`` call left in the guest's result slot."""
        size = self.call(b"qjs_last_len")
        if not 0 <= size <= MAX_STRING_BYTES:
            raise HostStop(f"expected a string of at most {MAX_STRING_BYTES} bytes")
        data = self.read(self.call(b"qjs_last_ptr"), size)
        self.store.call(self.export(b"qjs_result_free"))
        return data

    def out_handle(self) -> int:
        """The handle that the last call wrote to ``out``."""
        return int.from_bytes(self.read(self.out, 4), "little", signed=True)

    def evaluate(self, source: bytes) -> int:
        """Runs a script; a handle to its value."""
        return self._checked(self.call(b"eval_code", self.put(source), len(source), self.out))

    def evaluate_module(self, source: bytes, name: bytes) -> int:
        """Runs a module; a handle to its namespace."""
        return self._module(b"eval_module", source, name)

    def evaluate_module_async(self, source: bytes, name: bytes) -> int:
        """Runs a module; a handle to a promise that is kept when its top level is done."""
        return self._module(b"eval_module_async", source, name)

    def _module(self, how: bytes, source: bytes, name: bytes) -> int:
        at = self.put(source + name)
        return self._checked(self.call(how, at, len(source), at + len(source), len(name), self.out))

    def property(self, handle: int, name: bytes) -> int:
        """A handle to a property."""
        return self._checked(self.call(b"get_prop", handle, self.put(name), len(name), self.out))

    def invoke(self, function: int, *args: int) -> int:
        """Calls a function of the script with handles; a handle to what it returns."""
        at = self.put(struct.pack(f"<{len(args)}i", *args))
        return self._checked(self.call(b"call_function", function, self.undefined, at, len(args), self.out))

    def define(self, name: bytes) -> None:
        """Makes the host function of that name a global of scripts."""
        made = self.call(b"new_function", self.put(name), len(name))
        at = self.put(name)
        if self.call(b"set_prop", self.call(b"global_object"), at, len(name), made) != OK:
            raise GuestChangedError(f"expected to set the global {name.decode()}")

    def _checked(self, status: int) -> int:
        if status == OK:
            return self.out_handle()
        if status == JS_ERROR:
            raise self.take_exception()
        raise ScriptError("InternalError", f"the engine answered {status}", "")

    def take_exception(self) -> ScriptError:
        """The exception that waits, taken apart."""
        if self.call(b"last_exception", self.out) != OK:
            return ScriptError("Error", "unknown", "")
        thrown = self.out_handle()
        return ScriptError(*(self._text(thrown, name) for name in (b"name", b"message", b"stack")))

    def _text(self, handle: int, name: bytes) -> str:
        status = self.call(b"get_prop", handle, self.put(name), len(name), self.out)
        if status != OK or self.call(b"get_string", self.out_handle()) != OK:
            return ""
        return self.take_result().decode("utf-8", "replace")
