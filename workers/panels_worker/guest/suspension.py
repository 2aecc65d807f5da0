"""Modules that wait: an instance as an image, and an instance made from one.

What is carried is the memory, as the pages that differ from a fresh instance's, and the exported mutable
globals of numbers. Other globals, tables and the stack begin anew.
"""

from __future__ import annotations

import hashlib
from typing import Final

from panels_shared.limits import Limits
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.effects import LimitReached
from panels_worker.guest.image import (
    MAX_GLOBALS,
    WASM_PAGE_BYTES,
    Identity,
    Image,
    ImageError,
    Kind,
    OversizeError,
    pack,
    unpack,
)
from panels_worker.guest.pages import Baseline, difference
from panels_worker.guest.run import WasmRun
from panels_worker.guest.store import Store
from panels_worker.guest.task import Task
from panels_worker.guest.traps import InstantiationError

#: What a suspended module relies on of the worker: nothing but the ABI.
_BUILD: Final = hashlib.sha256(b"panels ABI v1, modules").digest()
_EMPTY: Final = Baseline(0, b"", ())


class Continuity:
    """How one module is suspended and resumed. ``carried`` are the globals that an image has the values of.

    ``baseline`` is the memory of a fresh instance, None until ``begin_with``.
    """

    __slots__ = ("_carried", "_identity", "baseline")

    def __init__(self, digest: bytes, carried: tuple[bytes, ...]) -> None:
        self._identity = Identity(Kind.MODULE, _BUILD, digest)
        self._carried = carried
        self.baseline: Baseline | None = None

    def begin_with(self, run: WasmRun) -> Baseline:
        """Takes the memory of ``run``, in a fresh instance, as what instances begin with."""
        size = run.size
        self.baseline = Baseline(size, b"", difference(run.read, ((0, size),), _EMPTY))
        return self.baseline

    def capture(self, run: WasmRun, store: Store, baseline: Baseline) -> bytes:
        """The image of an instance that no call is running in. Raises ``LimitReached``."""
        if len(self._carried) > MAX_GLOBALS:
            raise LimitReached(
                f"expected at most {MAX_GLOBALS} exported mutable globals of a handler that waits"
            )
        size = store.memory_bytes(run.memory)
        bits = tuple(store.get_global_bits(store.export(name)) for name in self._carried)
        calls = run.effects.known_calls()
        runs = difference(run.read, ((0, size),), baseline)
        try:
            return pack(Image(calls.made, tuple(calls.open), size, bits, runs), self._identity, baseline)
        except OversizeError as error:
            raise LimitReached(str(error)) from None

    def unpack(self, image: bytes, baseline: Baseline, limits: Limits) -> Image:
        """The image, if it is one of this module. Raises ``ImageError``."""
        stored = unpack(image, self._identity, baseline, memory_bytes=limits.memory_bytes)
        if len(stored.globals) != len(self._carried):
            raise ImageError("the image of the suspended handler has other globals than its module")
        return stored

    def revive(self, run: WasmRun, store: Store, image: Image) -> None:
        """Makes a fresh instance what ``image`` is. Raises ``InstantiationError`` where it does not fit."""
        missing = image.memory_bytes - store.memory_bytes(run.memory)
        if missing > 0 and not store.grow_memory(run.memory, missing // WASM_PAGE_BYTES):
            raise InstantiationError
        for at, data in image.runs:
            run.write(at, data)
        for name, bits in zip(self._carried, image.globals, strict=True):
            store.set_global_bits(store.export(name), bits)


def start_task(limits: Limits) -> Task:
    """What serves a start function whose instance is then given the memory of another one."""
    return Task("", b"null", b"{}", 0.0, 0, limits, Capabilities.of(()), {})
