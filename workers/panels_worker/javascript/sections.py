"""The sections of a WebAssembly module in binary form: reading them, and replacing or adding to them. Pure.

See the WebAssembly core specification, section 5.5 (binary format of modules).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from panels_worker.javascript.assets import GuestChangedError

WASM_PAGE_BYTES: Final = 65_536
#: Stretches of zeros shorter than this do not end a data segment, because a segment costs some bytes of its
#: own.
_GAP_BYTES: Final = 64
_TYPE_SECTION: Final = 1
_IMPORT_SECTION: Final = 2
_FUNCTION_SECTION: Final = 3
_TABLE_SECTION: Final = 4
_MEMORY_SECTION: Final = 5
_ELEMENT_SECTION: Final = 9
_CODE_SECTION: Final = 10
_DATA_SECTION: Final = 11
_DATA_COUNT_SECTION: Final = 12


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
    if any(number == _DATA_COUNT_SECTION for number, _ in _sections(source)):
        raise GuestChangedError("expected a guest without passive data segments")
    return _replace(source, replaced)


def with_function(source: bytes, module: bytes) -> tuple[bytes, int]:
    """``source`` with the one function of ``module`` added to it, and to its first table; and its index in
    that table.

    The function may use nothing but its parameters, its locals and the memory. Raises ``GuestChangedError``
    for a source whose first table is not one of functions with a fixed size."""
    added = dict(_sections(module))
    old = dict(_sections(source))
    _, at = _read_leb(added[_TYPE_SECTION], 0)
    kind = added[_TYPE_SECTION][at:]
    _, at = _read_leb(added[_CODE_SECTION], 0)
    body = added[_CODE_SECTION][at:]
    types, _ = _read_leb(old[_TYPE_SECTION], 0)
    functions, _ = _read_leb(old[_FUNCTION_SECTION], 0)
    index = _imported_functions(source) + functions
    tables = old[_TABLE_SECTION]
    if tables[:3] != b"\x01\x70\x01":
        raise GuestChangedError("expected a guest with one table of functions, of a fixed size")
    slot, at = _read_leb(tables, 3)
    if _read_leb(tables, at) != (slot, len(tables)):
        raise GuestChangedError("expected a guest whose table does not grow")
    element = b"\x00\x41" + _signed_leb(slot) + b"\x0b\x01" + _leb(index)
    replaced = {
        _TYPE_SECTION: _longer(old[_TYPE_SECTION], kind),
        _FUNCTION_SECTION: _longer(old[_FUNCTION_SECTION], _leb(types)),
        _TABLE_SECTION: tables[:3] + 2 * _leb(slot + 1),
        _ELEMENT_SECTION: _longer(old[_ELEMENT_SECTION], element),
        _CODE_SECTION: _longer(old[_CODE_SECTION], body),
    }
    return _replace(source, replaced), slot


def _imported_functions(source: bytes) -> int:
    """How many imports there are. Raises ``GuestChangedError`` when one of them is not a function."""
    body = dict(_sections(source))[_IMPORT_SECTION]
    count, at = _read_leb(body, 0)
    for _ in range(count):
        for _ in range(2):
            size, at = _read_leb(body, at)
            at += size
        if body[at] != 0:
            raise GuestChangedError("expected a guest that imports nothing but functions")
        _, at = _read_leb(body, at + 1)
    return count


def _longer(vector: bytes, item: bytes) -> bytes:
    """A vector with one more item."""
    count, at = _read_leb(vector, 0)
    return _leb(count + 1) + vector[at:] + item


def _replace(source: bytes, replaced: Mapping[int, bytes]) -> bytes:
    made = [source[:8]]
    for number, body in _sections(source):
        new = replaced.get(number, body)
        made.append(bytes((number,)) + _leb(len(new)) + new)
    return b"".join(made)


def _sections(source: bytes) -> Iterator[tuple[int, bytes]]:
    at = 8
    while at < len(source):
        number = source[at]
        size, at = _read_leb(source, at + 1)
        yield number, source[at : at + size]
        at += size


def _read_leb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, at


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
