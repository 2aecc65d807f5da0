"""QuickJS with the prelude already run in it: a module that begins where every handler would have to get to
first.

The heap of the guest lies in its linear memory and nowhere else. So a module whose data is that memory is the
guest after the prelude. It is made and compiled once per installation, by the compile child; an instance of
it shares those pages until it writes to them. What later hosts have to know about it (``Places``) lies at the
beginning of the memory."""

from __future__ import annotations

from typing import Final

from wasmtime import Engine, Module

from panels_shared.limits import KIB
from panels_worker.javascript import rejections
from panels_worker.javascript.assets import QUICKJS, GuestChangedError, engine_source
from panels_worker.javascript.guest import MAX_JS_STACK_BYTES, JavaScriptGuest, open_to_prepare
from panels_worker.javascript.host import HOST_FUNCTIONS
from panels_worker.javascript.places import Places
from panels_worker.javascript.sections import with_memory

#: Free room on the heap of the image, so that the memory need not grow for ordinary handlers.
_ROOM_BYTES: Final = 192 * KIB


def build(engine: Engine, prelude: bytes) -> bytes:
    """The module with ``prelude`` run in it.

    Runs the guest, and raises ``GuestChangedError`` where that does not go as it should.
    """
    source, tracker = rejections.with_tracker(engine_source(QUICKJS))
    guest = JavaScriptGuest(engine, Module(engine, source))
    return with_memory(source, run_prelude(guest, prelude, tracker))


def run_prelude(guest: JavaScriptGuest, source: bytes, tracker: int) -> bytes:
    """The memory of a guest, fresh from its package, after the prelude, with ``Places`` at its beginning.

    ``tracker`` is the index of the tracker of rejections in the function table. Raises ``GuestChangedError``
    for a guest that this host was not written for."""
    run = open_to_prepare(guest)
    try:
        stack_pointer = run.store.get_global_i32(run.export(b"__stack_pointer"))
        run.store.call(run.export(b"set_max_stack_size"), MAX_JS_STACK_BYTES)
        run.allocate()
        for name in HOST_FUNCTIONS:
            run.define(name)
        world = run.evaluate(source)
        run.invoke(run.property(world, b"enqueue"))
        pending = run.read(0, run.store.memory_bytes(run.memory))
        run.call(b"execute_pending_jobs")
        memory = run.read(0, run.store.memory_bytes(run.memory))
        jobs = rejections.find_jobs(pending, memory)
        rejections.install(run, memory, jobs, tracker)
        run.invoke(run.property(world, b"forget"))
        main, resume, finish = (run.property(world, name) for name in (b"main", b"resume", b"finish"))
        run.invoke(run.property(world, b"warm"))
        room = run.call(b"qjs_alloc", _ROOM_BYTES)
        run.store.call(run.export(b"qjs_free"), room, _ROOM_BYTES)
        if run.store.get_global_i32(run.export(b"__stack_pointer")) != stack_pointer:
            raise GuestChangedError("expected a guest whose stack is empty between calls")
        Places(run.buffer, run.out, world, main, resume, finish, run.undefined, jobs).store(run)
        return run.read(0, run.store.memory_bytes(run.memory))
    finally:
        run.close()
