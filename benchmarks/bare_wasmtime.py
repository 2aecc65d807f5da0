"""Bare wasmtime: the same module called through wasmtime-py's public API, with host functions in Python.

It is what a short program would do: the imports of panels ABI v1 on a dict, no capabilities, no bounds on
calls or output, no validation of what the guest says. Fuel and a memory limit are set, since a fresh store
wants them for untrusted code.
"""

from __future__ import annotations

from typing import Any

from wasmtime import Caller, Engine, Func, FuncType, Instance, Linker, Memory, Module, Store, ValType

from panels_shared.limits import DEFAULT_LIMITS


class BareWasmtime:
    """One module, one engine, one state. ``fresh`` and ``kept`` are subjects for ``rounds.measure``."""

    def __init__(self, engine: Engine, source: str) -> None:
        self.state: dict[str, bytes] = {"count": b"0"}
        self.events: list[tuple[str, bytes]] = []
        self.result = b""
        self._engine = engine
        self._module = Module(engine, source)
        self._linker = Linker(engine)
        i32 = ValType.i32()
        for name, params, results, function in (
            ("state_get", 4, [i32], self._state_get),
            ("state_set", 4, [i32], self._state_set),
            ("emit", 4, [i32], self._emit),
            ("result", 2, [], self._result),
            ("fail", 2, [], self._fail),
        ):
            kind = FuncType([i32] * params, results)
            self._linker.define_func("panels", name, kind, function, access_caller=True)
        self._pre = self._linker.instantiate_pre(self._module)
        self._store = self._new_store()
        self._instance = self._pre.instantiate(self._store)

    def fresh(self, count: int) -> None:
        """Calls the handler ``count`` times, each in a store and instance of its own."""
        before = int(self.state["count"])
        for _ in range(count):
            store = self._new_store()
            self._call(store, self._pre.instantiate(store))
            store.close()
        self._check(before + count)

    def kept(self, count: int) -> None:
        """Calls the handler ``count`` times in one instance: nothing separates one call from the next."""
        before = int(self.state["count"])
        for _ in range(count):
            self._store.set_fuel(DEFAULT_LIMITS.fuel)
            self._call(self._store, self._instance)
        self._check(before + count)

    def _new_store(self) -> Store:
        store = Store(self._engine)
        store.set_limits(memory_size=DEFAULT_LIMITS.memory_bytes)
        store.set_fuel(DEFAULT_LIMITS.fuel)
        store.set_epoch_deadline(1_000_000)
        return store

    def _call(self, store: Store, instance: Instance) -> None:
        exports: Any = instance.exports(store)
        self.events.clear()
        pointer = exports["alloc"](store, 2)
        memory = exports["memory"]
        assert isinstance(memory, Memory)
        memory.write(store, b"{}", pointer)
        handle = exports["handle"]
        assert isinstance(handle, Func)
        handle(store, pointer, 2)

    def _check(self, expected: int) -> None:
        if int(self.result) != expected or self.events != [("incremented", self.result)]:
            raise RuntimeError(f"expected {expected} and one event, got {self.result!r} and {self.events}")

    def _state_get(self, caller: Caller, at: int, size: int, to: int, room: int) -> int:
        memory = _memory(caller)
        value = self.state.get(memory.read(caller, at, at + size).decode())
        if value is None:
            return -1
        if len(value) <= room:
            memory.write(caller, value, to)
        return len(value)

    def _state_set(self, caller: Caller, at: int, size: int, value_at: int, value_size: int) -> int:
        memory = _memory(caller)
        key = memory.read(caller, at, at + size).decode()
        self.state[key] = bytes(memory.read(caller, value_at, value_at + value_size))
        return 0

    def _emit(self, caller: Caller, at: int, size: int, payload_at: int, payload_size: int) -> int:
        memory = _memory(caller)
        name = memory.read(caller, at, at + size).decode()
        self.events.append((name, bytes(memory.read(caller, payload_at, payload_at + payload_size))))
        return 0

    def _result(self, caller: Caller, at: int, size: int) -> None:
        self.result = bytes(_memory(caller).read(caller, at, at + size))

    def _fail(self, caller: Caller, at: int, size: int) -> None:
        raise RuntimeError(bytes(_memory(caller).read(caller, at, at + size)).decode(errors="replace"))


def _memory(caller: Caller) -> Memory:
    memory = caller["memory"]
    assert isinstance(memory, Memory)
    return memory
