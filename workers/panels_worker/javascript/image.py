"""QuickJS with the prelude already run in it: a module that begins where every handler would have to get to first.

The guest's heap lies in its linear memory and nowhere else, so a module whose data is that memory, and whose memory is that long,
is the guest after the prelude. It is made and compiled once per installation, by the compile child; an instance of it shares
those pages until it writes to them.

What later hosts have to know about it (``Places``) lies at its beginning, which no C program uses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

from wasmtime import Engine, Module

from panels_worker.javascript.engines import QUICKJS, GuestChangedError, engine_source

if TYPE_CHECKING:
    from panels_worker.javascript.guest import GuestRun

PAGE_BYTES: Final = 4_096
WASM_PAGE_BYTES: Final = 65_536
#: Stretches of zeros shorter than this do not end a data segment; a segment costs some bytes of its own.
_GAP_BYTES: Final = 64
_MEMORY_SECTION: Final = 5
_DATA_SECTION: Final = 11
_DATA_COUNT_SECTION: Final = 12
_PLACES: Final = struct.Struct("<4s6i")
_PLACES_AT: Final = 16
_MAGIC: Final = b"PNL1"


class Places(NamedTuple):
    """Where things are in the guest after the prelude: addresses of the buffers of ``GuestRun``, and handles."""

    buffer: int
    out: int
    world: int
    main: int
    finish: int
    undefined: int

    def store(self, run: GuestRun) -> None:
        """Writes them to where ``unpack`` finds them. Raises ``GuestChangedError`` where something is there already."""
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


def prelude() -> bytes:
    """The prelude without comment lines and indentation: the engine keeps the text of functions on its heap."""
    source = (files("panels_worker.javascript") / "prelude.js").read_text()
    lines = (line.strip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//")).encode()


def build(engine: Engine) -> bytes:
    """The module. Runs the guest; raises ``GuestChangedError`` where that does not go as it should."""
    from panels_worker.javascript.guest import JavaScriptGuest
    from panels_worker.javascript.program import run_prelude

    source = engine_source(QUICKJS)
    guest = JavaScriptGuest(engine, Module(engine, source))
    return with_memory(source, run_prelude(guest, prelude()))


def with_memory(source: bytes, memory: bytes) -> bytes:
    """The module ``source`` with ``memory``, a number of whole pages, as what its memory begins with.

    Raises ``GuestChangedError`` for a module whose data is more than active segments of one memory.
    """
    segments = [
        b"\x00\x41" + _signed_leb(at) + b"\x0b" + _leb(len(data)) + data for at, data in _runs(memory)
    ]
    replaced = {
        _MEMORY_SECTION: b"\x01\x00" + _leb(len(memory) // WASM_PAGE_BYTES),
        _DATA_SECTION: _leb(len(segments)) + b"".join(segments),
    }
    made = [source[:8]]
    for number, body in _sections(source):
        if number == _DATA_COUNT_SECTION:
            raise GuestChangedError("expected a guest without passive data segments")
        new = replaced.get(number, body)
        made.append(bytes((number,)) + _leb(len(new)) + new)
    return b"".join(made)


def _sections(source: bytes) -> Iterator[tuple[int, bytes]]:
    at = 8
    while at < len(source):
        number, shift, size = source[at], 0, 0
        at += 1
        while True:
            byte = source[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield number, source[at : at + size]
        at += size


def _runs(memory: bytes) -> Iterator[tuple[int, bytes]]:
    """What is not zero: (offset, bytes)."""
    zeros = bytes(_GAP_BYTES)
    at = 0
    while at < len(memory):
        if memory[at : at + _GAP_BYTES] == zeros[: len(memory) - at]:
            at += _GAP_BYTES
            continue
        end = at
        while end < len(memory) and memory[end : end + _GAP_BYTES] != zeros[: len(memory) - end]:
            end += _GAP_BYTES
        yield at, memory[at:end]
        at = end


def _leb(number: int) -> bytes:
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _signed_leb(number: int) -> bytes:
    made = bytearray()
    while not -0x40 <= number < 0x40:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number & 0x7F)
    return bytes(made)
