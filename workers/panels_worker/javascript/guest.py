"""The QuickJS guest that the ``quickjs-rs`` package ships, driven by us: in our engine, with fuel and limits.

The package's own host runs it in an engine without fuel and through wasmtime-py's slow public API, so only
the artefact is taken. Its exports are checked by name and signature when it is loaded. Values inside it are
*handles*, integers that it gives out; strings cross as UTF-8 in its memory. Statuses are 0 for success, 1 for
a JavaScript exception that waits to be taken."""

from __future__ import annotations

import struct
from typing import Any, Final

from wasmtime import Engine, Module, ValType

from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import DEFAULT_LIMITS, KIB, MIB
from panels_shared.script_modules import MAX_MODULE_NAME_CHARS
from panels_worker.guest import wasi
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.effects import Effects
from panels_worker.guest.engine import MAX_TABLE_ELEMENTS, ticks
from panels_worker.guest.linker import HostLinker
from panels_worker.guest.run import WasmRun
from panels_worker.guest.store import Store
from panels_worker.guest.task import Task
from panels_worker.guest.traps import GuestTrap, HostStop, TrapKind
from panels_worker.javascript.assets import QUICKJS, GuestChangedError
from panels_worker.javascript.host import HOST_FUNCTIONS
from panels_worker.javascript.places import Places
from panels_worker.javascript.rejections import COUNT_AT
from panels_worker.javascript.surface import check_guest

OK: Final = 0
JS_ERROR: Final = 1
#: What ``host_call`` returns to have the guest throw.
HOST_CALL_ERROR: Final = -1

#: How much of its shadow stack JavaScript may use: it throws a RangeError well before the engine's own stack
#: is exhausted.
MAX_JS_STACK_BYTES: Final = 192 * KIB
#: A place in the guest's memory for what crosses; longer things are allocated.
BUFFER_BYTES: Final = 64 * KIB
#: The memory of an instance in which no handler is; a sanity check.
MAX_IMAGE_BYTES: Final = 16 * MIB
#: What a handler imports a module by: the name of one is no longer than that.
MAX_SPECIFIER_BYTES: Final = 2 + MAX_MODULE_NAME_CHARS
#: A string that comes out of the guest; a security limit (the guest's memory bounds it too).
MAX_STRING_BYTES: Final = 16 * MIB

_I32 = ValType.i32()


#: What preparing a handler may use: enough for 256 KiB of source.
PREPARE_FUEL: Final = 5_000_000_000
PREPARE_DEADLINE_MS: Final = 4_000
PREPARE_MEMORY_BYTES: Final = 64 * MIB

#: For instances that serve no job.
NO_TASK: Final = Task("", b"null", b"{}", 0.0, 0, DEFAULT_LIMITS, Capabilities.of(DEFAULT_CAPABILITIES), {})


class ScriptError(Exception):
    """A JavaScript exception that reached the host. ``stack`` is the engine's, unfiltered."""

    def __init__(self, name: str, message: str, stack: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.stack = stack


class JavaScriptGuest:
    """The guest, compiled and linked: what instances are made from. One per process.

    - ``run``: the job that host functions serve, None between jobs.
    - ``build``: which of the builds that a worker carries this is.
    - ``places``, ``fresh``: where things are in an instance, and its memory, of a guest with the prelude in
      it.
    """

    def __init__(self, engine: Engine, module: Module) -> None:
        check_guest(module)
        self.build = QUICKJS
        self.run: GuestRun | None = None
        self.places: Places | None = None
        self.fresh = b""
        linker = HostLinker(engine)
        linker.define("env", "host_call", [_I32] * 5, [_I32], self._host_call)
        # polled every 10,000 steps of the interpreter; fuel and the epoch do the interrupting
        linker.define("env", "host_interrupt", [], [_I32], _zero)
        linker.define("env", "host_module_normalize", [_I32] * 5, [_I32], self._host_module_name)
        # what can be imported was evaluated before, and is found by its name
        linker.define("env", "host_module_load", [_I32] * 3, [_I32], _zero)
        wasi.define(linker, self._current)
        self._template = linker.link(module)

    @classmethod
    def load(cls, engine: Engine, serialized: bytes, build: str = QUICKJS) -> JavaScriptGuest:
        """The guest from ``engines.compile_engine``, which the caller has authenticated.

        Raises ``wasmtime.WasmtimeError``, ``GuestChangedError``.
        """
        guest = cls(engine, Module.deserialize(engine, serialized))
        guest.build = build
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

    def _host_module_name(self, raw: Any) -> None:
        """Resolves ``./rules.js`` to ``rules.js``, and nothing else."""
        run = self.run
        if run is None:
            raise HostStop("no job is running")
        run.effects.count_call()
        pointer, length, length_at = raw[8], raw[12], raw[16]
        raw[0] = 0
        if not 2 < length <= MAX_SPECIFIER_BYTES:
            return
        specifier = run.read(pointer, length)
        if not specifier.startswith(b"./"):
            return
        name = specifier.removeprefix(b"./")
        pointer = run.call(b"qjs_alloc", len(name))
        if not pointer:
            raise GuestTrap(TrapKind.MEMORY, "out of memory")
        run.write(pointer, name)
        run.write(length_at, len(name).to_bytes(4, "little"))
        raw[0] = pointer


def _zero(raw: Any) -> None:
    raw[0] = 0


class GuestRun(WasmRun):
    """One instance of the guest. Methods raise ``GuestTrap``, ``BadPointerError`` or ``ScriptError``; close
    it always.
    """

    __slots__ = ("_guest", "_handles", "_spent", "buffer", "out", "store", "undefined")

    def __init__(self, guest: JavaScriptGuest, effects: Effects, store: Store) -> None:
        super().__init__(effects)
        self._guest = guest
        self.store = store
        self.enter(store)
        self._handles: dict[bytes, int] = {}
        # bound: a few for each call into the handler's world
        self._spent: list[int] = []
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

    def has_jobs(self) -> bool:
        """Whether the engine's queue of jobs, which promises fill, has something in it."""
        jobs = self.places.jobs
        return self.read(jobs, 4) != jobs.to_bytes(4, "little")

    def has_rejections(self) -> bool:
        """Whether there is a promise that is rejected and that nobody handles."""
        return self.read(COUNT_AT, 4) != bytes(4)

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
        pointer = self.put(data)
        handle = self.call(b"new_string", pointer, len(data))
        if pointer != self.buffer:
            self.store.call(self.export(b"qjs_free"), pointer, len(data))
        return handle

    def string(self, handle: int) -> str:
        """The string of a handle; a value of another type is an error. Lone surrogates come as replacement
        characters.
        """
        if self.call(b"get_string", handle) != OK:
            raise HostStop("expected a string")
        return self.take_result().decode("utf-8", "replace")

    def truth(self, handle: int) -> bool:
        """The value of a handle to a boolean."""
        return self.call(b"get_bool", handle, self.out) == OK and self.read(self.out, 4) != bytes(4)

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

    def drain(self) -> None:
        """Runs the queue of jobs to its end, and looks at the promises that are left rejected.

        Afterwards the prelude knows what they were rejected with. A queue that never ends uses up the fuel.
        """
        self.run_jobs()
        if self.has_rejections():
            self.collect()

    def run_jobs(self) -> None:
        """Runs the queue of jobs to its end."""
        while self.has_jobs():
            self.call(b"execute_pending_jobs")

    def collect(self) -> None:
        """Has the prelude look at the promises that are left rejected, and runs what that makes."""
        self.invoke(self.property(self.places.world, b"collect"))
        self.run_jobs()

    def spend(self, handle: int) -> int:
        """``handle``, which is not needed in a later segment."""
        self._spent.append(handle)
        return handle

    def free_spent(self) -> None:
        """Frees the handles that were spent, so that they are not carried from segment to segment."""
        for handle in self._spent:
            self.store.call(self.export(b"free_value"), handle)
        self._spent.clear()

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


def open_to_prepare(guest: JavaScriptGuest, *, fuel: int = PREPARE_FUEL) -> GuestRun:
    """An instance in which something is compiled, and no job runs. The caller closes it."""
    return guest.open(
        Effects(NO_TASK),
        fuel=fuel,
        epoch_ticks=ticks(PREPARE_DEADLINE_MS),
        memory_bytes=PREPARE_MEMORY_BYTES,
    )
