"""Where a host finds things in the memory of a guest that has the prelude in it."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from panels_worker.guest.run import WasmRun
from panels_worker.javascript.assets import GuestChangedError

_PLACES: Final = struct.Struct("<4s8i")
_PLACES_AT: Final = 16
_MAGIC: Final = b"PNL3"


class Places(NamedTuple):
    """Addresses and handles in the guest after the prelude.

    - ``buffer``, ``out``: addresses of the buffers of ``GuestRun``.
    - ``world``, ``main``, ``resume``, ``finish``, ``undefined``: handles.
    - ``jobs``: the address of the head of the engine's list of pending jobs, which points at itself when it
      is empty.

    They are stored at the beginning of the memory, which no C program uses.
    """

    buffer: int
    out: int
    world: int
    main: int
    resume: int
    finish: int
    undefined: int
    jobs: int

    def store(self, run: WasmRun) -> None:
        """Writes them to where ``unpack`` finds them. Raises ``GuestChangedError`` where something is there
        already.
        """
        packed = _PLACES.pack(_MAGIC, *self)
        if any(run.read(0, _PLACES_AT + 2 * len(packed))):
            raise GuestChangedError("expected a guest that leaves the beginning of its memory alone")
        run.write(_PLACES_AT, packed)

    @classmethod
    def unpack(cls, memory: bytes) -> Places:
        """From the beginning of a memory. Raises ``GuestChangedError`` where there is none."""
        magic, *numbers = _PLACES.unpack_from(memory, _PLACES_AT)
        if magic != _MAGIC:
            raise GuestChangedError("expected the image of QuickJS that this version of panels makes")
        return cls(*numbers)
