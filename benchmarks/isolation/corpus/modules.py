"""What is not a module, and modules made to hurt whoever compiles them."""

from __future__ import annotations

import base64
import random
from typing import Final

import wasmtime

from benchmarks.isolation.attack import ANYTHING, Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import module
from tests.workers import modules as made_by_hand

FAMILY: Final = "modules"
#: How many modules are damaged, and the seed of the damage.
DAMAGED: Final = 240
_SEED: Final = 20_261
_TIGHT: Final = {"fuel": 1_000_000, "timeoutMs": 200, "memoryBytes": 4 * 2**20}


def attacks() -> list[Attack]:
    """The family."""
    good = bytes(wasmtime.wat2wasm(module("(call $number (local.get $len))")["source"]))
    return [
        attack(FAMILY, "cut modules", _cut(good)),
        attack(FAMILY, "damaged modules", _damaged(good)),
        attack(FAMILY, "what is no module", _nonsense()),
        attack(FAMILY, "compile bombs", _bombs()),
        attack(FAMILY, "scripts that hurt the compiler", _scripts()),
    ]


def binary(data: bytes) -> dict[str, str]:
    """A handler of these bytes."""
    return {"language": "wasm", "source": base64.b64encode(data).decode()}


def _cut(good: bytes) -> list[Call]:
    """A sound module that ends early."""
    step = max(1, len(good) // 60)
    end = _last_needed(good)
    return [
        call(f"{size} bytes", binary(good[:size]), "refused:*" if size else "http:400")
        for size in range(0, end, step)
    ]


def _last_needed(module: bytes) -> int:
    """Where the last section ends that a module needs: what follows are names, and without them it is
    sound.
    """
    at = end = 8
    while at < len(module):
        section, size, shift = module[at], 0, 0
        at += 1
        while True:
            byte = module[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        at += size
        if section != 0:
            end = at
    return end


def _damaged(good: bytes) -> list[Call]:
    """A sound module with some bytes changed; what still is a module may do what it likes."""
    rng = random.Random(_SEED)
    found: list[Call] = []
    for number in range(DAMAGED):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        found.append(call(f"number {number}", binary(bytes(data)), ANYTHING, limits=_TIGHT))
    return found


def _nonsense() -> list[Call]:
    rng = random.Random(_SEED)
    head = b"\0asm\1\0\0\0"
    samples = {
        "text": b"nonsense",
        "magic alone": b"\0asm",
        "version 2": b"\0asm\2\0\0\0",
        "component": b"\0asm\x0d\0\1\0",
        "no sections": head,
        "section of 4 GiB": head + b"\x01\xff\xff\xff\xff\x0f",
        "4 thousand million types": head + b"\x01\x05\xff\xff\xff\xff\x0f",
        "4 thousand million functions": head + b"\x03\x05\xff\xff\xff\xff\x0f",
        "name of 4 GiB": head + b"\x07\x08\x01\xff\xff\xff\xff\x0f\x00\x00",
        "endless number": head + b"\x01" + b"\x80" * 100,
        "sections out of order": head + b"\x0a\x01\x00\x01\x01\x00",
        "unknown section": head + b"\x63\x01\x00",
        "ELF": b"\x7fELF" + rng.randbytes(200),
        "zeros": bytes(4_096),
    } | {f"random {number}": head + rng.randbytes(300) for number in range(20)}
    made = [call(name, binary(data), "refused:*") for name, data in samples.items()]
    texts = {
        "open parenthesis": "(" * 100_000,
        "no end": "(module (func",
        "deep nesting": "(module (func " + "(block " * 50_000 + ")" * 50_000 + "))",
        "long name": "(module (func $" + "x" * 1_000_000 + "))",
        "binary in text": "\0asm\1\0\0\0",
        "quoted": '(module quote "(func")',
        "many modules": "(module)" * 10_000,
    }
    made += [call(name, {"language": "wat", "source": source}, "refused:*") for name, source in texts.items()]
    made.append(call("not base64", {"language": "wasm", "source": "%%%"}, "http:400"))
    made.append(call("3 MiB", binary(head + bytes(3 * 2**20)), "http:413"))
    return made  # fmt: skip


def _bombs() -> list[Call]:
    """Small modules that cost a compiler much: each refused, or compiled within its bounds."""
    # 503: on a busy machine a bomb got too little CPU to be told from what is merely slow
    allowed = (
        "refused:*",
        "http:503",
        "returned",
        "TRAP",
        "FUEL_EXHAUSTED",
        "TIMEOUT",
        "STACK_OVERFLOW",
        "LIMIT_EXCEEDED",
    )
    nested = "(block " * 900 + "(br_table " + " ".join(map(str, range(900))) + " (local.get $n))" + ")" * 900
    wide = "(br_table " + "0 " * 200_000 + "0 (local.get $n))"
    sums = "(i32.add (local.get $n) " * 5_000 + "(i32.const 1)" + ")" * 5_000
    return [
        call("live locals in loops", binary(made_by_hand.bomb(3_100)), "refused:too_costly", "http:503"),
        call("fewer live locals", binary(made_by_hand.bomb(700)), *allowed),
        call("nested tables of branches", module(nested), *allowed),
        call("a wide table of branches", module(f"(block {wide})"), *allowed),
        call("a deep expression", module(f"(drop {sums})"), *allowed),
        call("50,000 locals", module("", fields=f"(func (local {'i64 ' * 49_999}))"), *allowed),
        call("many functions", module("", fields="(func)" * 49_000), *allowed),
        call("too many functions", module("", fields="(func)" * 60_000), "refused:*"),
        call("calls of everything", module("", fields="".join(f"(func $f{at} {'(call $g)' * 50})" for at in range(2_000)) + "(func $g)"), *allowed),
    ]  # fmt: skip


def _scripts() -> list[Call]:
    return [
        call(name, source, "refused:*", "http:400", "returned", "HANDLER_ERROR", "STACK_OVERFLOW",
             "MEMORY_LIMIT", "FUEL_EXHAUSTED", "TIMEOUT", "INVALID_RESULT")
        for name, source in {
            "deep parentheses": "return " + "(" * 100_000 + ")" * 100_000,
            "deep arrays": "return " + "[" * 100_000 + "]" * 100_000,
            "deep functions": "(() => {" * 20_000 + "})" * 20_000,
            "deep templates": "return " + "`${" * 20_000 + "}`" * 20_000,
            "long sum": "return " + "1+" * 200_000 + "1",
            "many variables": "".join(f"let v{at} = {at};" for at in range(40_000)),
            "large literal": "return [" + "1," * 500_000 + "].length",
            "long regular expression": "return /" + "(a|" * 30_000 + "b" + ")" * 30_000 + "/",
            "a top level without end": "while (true);\nexport default () => 1;",
            "a top level that grows": "const a = []; for (;;) a.push('x'.repeat(1000) + a.length);\nexport default () => 1;",
            "a top level that recurses": "(function f() { f(); })();\nexport default () => 1;",
            "no syntax at all": "\u2028{[(<",
            "lone quotation mark": "return \"",
            "NUL": "return '\0'.length",
        }.items()
    ]  # fmt: skip
