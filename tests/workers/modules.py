"""WebAssembly modules for tests, assembled byte by byte where no assembler would make them."""

from __future__ import annotations

import wasmtime

I32, I64, F32, F64, V128, EXTERNREF = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x6F


def leb(number: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while True:
        byte = number & 0x7F
        number >>= 7
        out.append(byte | 0x80 if number else byte)
        if not number:
            return bytes(out)


def vector(items: list[bytes]) -> bytes:
    """A counted vector."""
    return leb(len(items)) + b"".join(items)


def section(number: int, body: bytes) -> bytes:
    """A section."""
    return bytes([number]) + leb(len(body)) + body


def module(*sections: bytes) -> bytes:
    """A module of these sections."""
    return b"\0asm\1\0\0\0" + b"".join(sections)


def wat(text: str) -> bytes:
    """An assembled module."""
    return bytes(wasmtime.wat2wasm(text))


GOOD = wat(
    '(module (memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const 0))'
    ' (func (export "handle") (param i32 i32) (result i32) (i32.const 0)))'
)


def bomb(locals_count: int) -> bytes:
    """A valid handler whose compilation costs the square of its size: many locals that are all live in many
    loops.
    """
    body = leb(1) + leb(locals_count) + bytes([I32])
    for number in range(locals_count):
        body += b"\x03\x40\x20" + leb(number) + b"\x0d\x00\x20" + leb(number * 7 % locals_count)
        body += b"\x21" + leb(number * 13 % locals_count) + b"\x0b"
    body += b"\x41\x00\x0b"
    alloc = b"\x00\x41\x00\x0b"
    return module(
        section(1, vector([b"\x60\x02\x7f\x7f\x01\x7f", b"\x60\x01\x7f\x01\x7f"])),
        section(3, vector([b"\x00", b"\x01"])),
        section(5, vector([b"\x00\x01"])),
        section(7, vector([b"\x06memory\x02\x00", b"\x06handle\x00\x00", b"\x05alloc\x00\x01"])),
        section(10, vector([leb(len(body)) + body, leb(len(alloc)) + alloc])),
    )
