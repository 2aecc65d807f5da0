"""What untrusted code gives the worker: calls of every host function, modules, and images of waiting
handlers."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any, Final

import msgpack
import msgspec
import wasmtime

from panels_shared.limits import MAX_IMAGE_BYTES, Limits
from panels_shared.messages import Answered, Refusal
from panels_shared.outcome import Completed, Failed, Outcome, Suspended, Usage
from panels_worker.compiling.preflight import preflight
from panels_worker.compiling.reader import Reader, RefusedError
from panels_worker.guest import abi, image, wasi
from panels_worker.guest.image import Image, ImageError, pack
from panels_worker.guest.pages import PAGE_BYTES
from panels_worker.guest.task import Task
from panels_worker.guest.wasm import WasmProgram
from tests.fuzz.compiling import Compiler
from tests.fuzz.mutation import MSGPACK, Codec, NotOpenError
from tests.fuzz.target import Cost, Target, refused, require, require_json
from tests.workers.builders import ABI, ENGINE, HOST, make_program, make_task
from tests.workers.guest.test_image import BASELINE, EXAMPLE, IDENTITY, MEMORY, PACKED, forged
from tests.workers.modules import leb, section, vector

#: Every host function: its module, its name, its parameters and its result.
IMPORTS: Final = [
    *((abi.MODULE, name, *signature) for name, signature in abi.IMPORTS.items()),
    *(
        (wasi.MODULE, name, params, "" if name == "proc_exit" else "i")
        for name, params in wasi.IMPORTS.items()
    ),
]
_WAT_TYPES: Final = {"i": "i32", "I": "i64", "F": "f64"}
#: Numbers of the calls that are no host functions.
STORE, GROW, RETURN = 100, 101, 102
#: One call in the guest's memory: its number and nine arguments.
_CALL: Final = struct.Struct("<Q9Q")
#: Calls of one input.
MAX_CALLS: Final = 48
#: Where the calls lie, behind what they point at.
_CALLS_AT: Final = 16_384
_DATA: Final = {
    0: "key", 16: "http", 32: "get", 64: '{\\"a\\":[1,2.5,null]}', 96: "[1]", 112: "[[[[", 128: "\\ff\\fe", 144: "1e999",
    160: '\\"\\\\ud800\\"', 65_530: "tail!!",
}  # fmt: skip
#: Pointers and lengths at the edges of a memory of one page, and of an i32.
EDGES: Final = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 96, 112, 128, 144, 160, 256),
    *(8_192, 65_528, 65_533, 65_535, 65_536, 65_537, 131_072, 2**31 - 1, 2**31),
    *(2**32 - 65_536, 2**32 - 8, 2**32 - 1, 2**32, 2**63, 2**64 - 1),
)
_LIMITS: Final = {
    "fuel": 3_000_000,
    "memory_bytes": 1 << 20,
    "host_calls": 40,
    "output_bytes": 4_096,
    "events": 8,
    "log_bytes": 1_024,
}


def _interpreter() -> WasmProgram:
    """A module that makes the calls that it is given: one table of branches over every host function."""
    imports, cases = [], []
    for number, (module, name, params, result) in enumerate(IMPORTS):
        types = " ".join(_WAT_TYPES[letter] for letter in params)
        result_text = f"(result {_WAT_TYPES[result]})" if result else ""
        imports.append(f'(import "{module}" "{name}" (func $f{number} (param {types}) {result_text}))')
        values = []
        for at, letter in enumerate(params):
            load = f"(i64.load (i32.add (local.get $at) (i32.const {8 + 8 * at})))"
            values.append(f"(i32.wrap_i64 {load})" if letter == "i" else load)
        call = f"(call $f{number} {' '.join(values)})"
        cases.append((number, f"(drop {call})" if result else call))
    word = "(i64.load (i32.add (local.get $at) (i32.const {})))"
    first, second = word.format(8), word.format(16)
    cases += [
        (STORE, f"(i64.store (i32.wrap_i64 {first}) {second})"),
        (GROW, f"(drop (memory.grow (i32.wrap_i64 {first})))"),
        (RETURN, f"(return (i32.wrap_i64 {first}))"),
    ]
    body = "\n".join(
        f"(if (i64.eq (i64.load (local.get $at)) (i64.const {number})) (then {text}))"
        for number, text in cases
    )
    data = "".join(f'(data (i32.const {at}) "{text}")' for at, text in _DATA.items())
    loop = f"""(func $go (param $at i32) (param $size i32) (result i32) (local $end i32)
        (local.set $end (i32.add (local.get $at) (local.get $size)))
        (loop $next
          (if (i32.ge_u (i32.add (local.get $at) (i32.const {_CALL.size})) (i32.add (local.get $end) (i32.const 1)))
            (then (return (i32.const 0))))
          {body}
          (local.set $at (i32.add (local.get $at) (i32.const {_CALL.size})))
          (br $next))
        (i32.const 0))"""
    source = f"""(module {" ".join(imports)} (memory (export "memory") 1) {data} {loop}
        (global (export "kept") (mut i64) (i64.const 7))
        (func (export "alloc") (param i32) (result i32) (i32.const {_CALLS_AT}))
        (func (export "handle") (param i32 i32) (result i32) (call $go (local.get 0) (local.get 1)))
        (func (export "resume") (param i64 i32 i32 i32) (result i32) (call $go (local.get 2) (local.get 3))))"""
    return WasmProgram(HOST, wasmtime.Module(ENGINE, source), "handle", b"d" * 32)


def calls_of(data: bytes) -> bytes:
    """The calls that an input names, ``[[function, [arguments]], ...]``, as the guest reads them."""
    text = b""
    for call in MSGPACK.decode(data)[:MAX_CALLS]:
        number, arguments = call
        words = [int(word) % 2**64 for word in arguments[:9]]
        text += _CALL.pack(int(number) % 2**64, *words, *[0] * (9 - len(words)))
    return text


def check_outcome(outcome: Outcome, limits: Limits) -> str:
    """What a worker reports is within the bounds of the job; its kind."""
    require(isinstance(outcome, (Completed, Failed, Suspended)), "a defined outcome", outcome)
    log = sum(len(line.text.encode("utf-8", "replace")) for line in outcome.log)
    require(log <= limits.log_bytes + 256, "the log within its bound", log)
    require(outcome.usage.host_calls <= limits.host_calls + 1, "host calls within their bound", outcome.usage)
    if isinstance(outcome, Failed):
        require(len(outcome.message) <= 4_096, "a failure's message is short", outcome.message)
        return outcome.reason.value
    for fragment in (outcome.mutations, outcome.view_commands, *outcome.events):
        require_json(fragment, "effects are JSON")
    require(len(outcome.events) <= limits.events, "events within their bound", len(outcome.events))
    size = len(outcome.mutations) + len(outcome.view_commands) + sum(map(len, outcome.events))
    require(size <= 8 * limits.output_bytes + 65_536, "output within its bound", size)
    if isinstance(outcome, Completed):
        require_json(outcome.return_value, "the result is JSON")
    else:
        require(len(outcome.image) <= MAX_IMAGE_BYTES, "the image within its bound")
    return type(outcome).__name__


def _comparable(outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(outcome, usage=Usage())


#: The number of the call that makes a handler wait.
_EXT_CALL: Final = [name for _, name, _, _ in IMPORTS].index("ext_call")


class AbiCalls(Target):
    """Calls of every host function with lying pointers, lengths, alignments and descriptors."""

    name = "abi"
    codec = MSGPACK
    envelope = True
    #: each argument of each function at each edge, and some more
    quick = 6_200

    def __init__(self) -> None:
        self._program = _interpreter()
        self._sound = make_program("(i32.const 0)")

    def task(self, args: bytes) -> Task:
        """The job that makes these calls."""
        capabilities = ("state:read:*", "state:write:k*", "events:emit:*", "view:update:*", "ext:http")
        return make_task(
            args=args, state={"key": b'{"x":1}', "other": b"2"}, limits=_LIMITS, capabilities=capabilities
        )

    def seeds(self) -> list[bytes]:
        seeds = []
        for number, (_, name, params, _) in enumerate(IMPORTS):
            texts = (0, 3, 64, 19) if name in ("state_get", "state_set", "emit") else (16, 4, 32, 3, 96, 3)
            arguments = [*texts, *[0] * 9][: len(params)]
            seeds.append(msgpack.packb([[number, arguments]]))
            for edge in EDGES:
                for at in range(len(params)):
                    lying = [*arguments[:at], edge, *arguments[at + 1 :]]
                    seeds.append(msgpack.packb([[number, lying]]))
        everything = [[number, [0, 3, 64, 19, 96, 3]] for number in range(_EXT_CALL)]
        waits = [[_EXT_CALL, [16, 4, 32, 3, 96, 3]], [RETURN, [1]]]
        return [msgpack.packb(everything), msgpack.packb(waits), *seeds]

    def run(self, data: bytes) -> str:
        try:
            args = calls_of(data)
        except (NotOpenError, ValueError, TypeError, OverflowError):
            return "no calls"
        task = self.task(args)
        first, again = self._program.run(task), self._program.run(self.task(args))
        require(
            _comparable(first.outcome) == _comparable(again.outcome), "the same job ends alike", first.outcome
        )
        kind = check_outcome(first.outcome, task.limits)
        if isinstance(first.outcome, Suspended):
            self._resume(first.outcome, args)
        require(type(self._sound.run(make_task()).outcome) is Completed, "the sandbox is as sound as before")
        return f"{kind} {refused(AssertionError(getattr(first.outcome, 'message', '')))}"

    def _resume(self, outcome: Suspended, args: bytes) -> None:
        call = outcome.calls[0].call if outcome.calls else 1
        resumed = self._program.resume(self.task(b"null"), outcome.image, [Answered(call, True, args)])
        check_outcome(resumed.outcome, Limits(**_LIMITS))


def open_image(data: bytes) -> Any:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data[image._HEADER.size :], 4 * MEMORY)
        made, size, opens, kept, count = image._BODY.unpack_from(text)
        at = image._BODY.size
        numbers = struct.unpack_from(f"<{opens + kept}Q", text, at)
        table = struct.unpack_from(f"<{2 * count}I", text, at + 8 * len(numbers))
    except (zlib.error, struct.error):
        raise NotOpenError from None
    pages = text[at + 8 * len(numbers) + 4 * len(table) :]
    return [
        made,
        size,
        list(numbers[:opens]),
        list(numbers[opens:]),
        list(table),
        len(pages) // PAGE_BYTES,
    ]


def seal_image(value: Any) -> bytes:
    try:
        made, size, opens, kept, table, pages = value
        body = image._BODY.pack(made, size, len(opens), len(kept), len(table) // 2)
        body += struct.pack(f"<{len(opens) + len(kept)}Q", *opens, *kept)
        body += struct.pack(f"<{len(table)}I", *table) + bytes(PAGE_BYTES * min(int(pages), 1_000))
    except (ValueError, TypeError, struct.error, OverflowError):
        raise NotOpenError from None
    return forged(body)


class ForgedImage(Target):
    """Images of waiting handlers, as they are and behind a header that fits: refused, or an image like any
    other."""

    name = "image"
    cost = Cost(per_byte=64, constant=4 * MEMORY)

    def seeds(self) -> list[bytes]:
        empty = pack(Image(0, (), 2 * image.WASM_PAGE_BYTES, (), ()), IDENTITY, BASELINE)
        return [PACKED, empty]

    codec = Codec(open_image, seal_image)

    def run(self, data: bytes) -> str:
        try:
            opened = image.unpack(data, IDENTITY, BASELINE, memory_bytes=MEMORY)
        except ImageError as exc:
            return refused(exc)
        require(
            opened.memory_bytes <= MEMORY + image.WASM_PAGE_BYTES * 2**32, "the memory's size is a number"
        )
        end = 0
        for at, page in opened.runs:
            require(end <= at and len(page) % PAGE_BYTES == 0, "pages in order", at)
            end = at + len(page)
        require(end <= opened.memory_bytes, "pages within the memory", end)
        require(list(opened.open_calls) == sorted(set(opened.open_calls)), "open calls in order")
        require(image.unpack(pack(opened, IDENTITY, BASELINE), IDENTITY, BASELINE, memory_bytes=MEMORY) == opened,
                "an image that is packed again is the same")  # fmt: skip
        return f"{len(opened.runs) > 0} {len(opened.open_calls) > 0} {opened == EXAMPLE}"


class ResumedModule(Target):
    """Forged images of a module that waits, resumed in a real instance: a defined outcome, whatever it
    holds."""

    name = "resume"
    codec = MSGPACK
    envelope = True
    quick = 150

    def __init__(self) -> None:
        self._abi = AbiCalls()
        self._program = self._abi._program
        waits = self._program.run(self._abi.task(calls_of(self._abi.seeds()[1]))).outcome
        assert isinstance(waits, Suspended)
        self._image = waits.image

    def seeds(self) -> list[bytes]:
        value = open_image(self._image)
        calls = [[0, [0, 3, 64, 19]], [2, [64, 19]], [RETURN, [0]]]
        return [
            msgpack.packb([self._image, [[1, True, msgpack.packb(calls)]]]),
            msgpack.packb(
                [value, [[1, True, msgpack.packb([[RETURN, [1]]])], [1, False, b""], [2, True, b"1"]]]
            ),
        ]

    def run(self, data: bytes) -> str:
        try:
            made, answers = MSGPACK.decode(data)
            given = [self._answer(*answer) for answer in answers[:8]]
            packed = made if isinstance(made, bytes) else self._forge(made)
        except (NotOpenError, ValueError, TypeError, OverflowError):
            return "no image"
        task = self._abi.task(b"null")
        resumed = self._program.resume(task, packed, given)
        kind = check_outcome(resumed.outcome, task.limits)
        require(
            type(self._abi._sound.run(make_task()).outcome) is Completed, "the sandbox is as sound as before"
        )
        return f"{kind} {refused(AssertionError(getattr(resumed.outcome, 'message', '')))}"

    def _answer(self, call: Any, ok: Any, value: Any) -> Answered:
        try:
            value = calls_of(value)
        except (NotOpenError, ValueError, TypeError, OverflowError):
            value = bytes(value)[:65_536] if isinstance(value, bytes) else b""
        return Answered(int(call), bool(ok), value)

    def _forge(self, value: Any) -> bytes:
        # the header of the real image says what it fits to; only its check is made anew
        body = seal_image(value)[image._HEADER.size :]
        head = self._image[: image._HEADER.size - 16] + bytes(16)
        check = hashlib.blake2b(head, digest_size=16)
        check.update(body)
        packed: bytes = head[:-16] + check.digest() + body
        return packed


_CODE_SECTION: Final = 10


def open_module(data: bytes) -> Any:
    """The sections of a module, ``[[number, body], ...]``; the body of the code is a list of functions."""
    if data[:8] != b"\0asm\1\0\0\0":
        raise NotOpenError
    sections: list[Any] = []
    reader = Reader(data, 8, len(data))
    try:
        while reader.at < reader.end:
            number, body = reader.byte(), _sized(reader)
            functions: list[bytes] = []
            if number == _CODE_SECTION:
                inner = Reader(body, 0, len(body))
                functions = [_sized(inner) for _ in range(inner.u32())]
            sections.append([number, functions or body])
    except RefusedError:
        raise NotOpenError from None
    return sections


def _sized(reader: Reader) -> bytes:
    size = reader.u32()
    start = reader.at
    reader.skip(size)
    return reader.data[start : reader.at]


def seal_module(value: Any) -> bytes:
    """The module with these sections, whose sizes are right."""
    text = b"\0asm\1\0\0\0"
    try:
        for number, body in value:
            packed = vector([leb(len(each)) + each for each in body]) if isinstance(body, list) else body
            text += section(number % 256, packed)
    except (TypeError, ValueError):
        raise NotOpenError from None
    return text


class WasmModule(Target):
    """Modules: the preflight says why not, or the compile child, within its limits, has an answer."""

    name = "module"
    codec = Codec(open_module, seal_module)
    tokens = (
        *(b"\x00asm\x01\0\0\0", b"memory", b"alloc", b"handle", b"resume", b"_initialize", b"panels"),
        *(b"state_get",),
        *(b"\x7f", b"\x7e", b"\x7b", b"\x70", b"\x6f", b"\x60", b"\xff\xff\xff\xff\x0f"),
        *(b"\x80\x80\x80\x80\x10",),
        *(b"\x00", b"\x0b", b"\x05\x03\x01\x00\x01", b"\xfb\x00", b"\xfc\x08\x00\x00", b"\xfd\x0c"),
        *(b"\xfe\x10\x02\x00",),
    )
    quick = 150

    def __init__(self) -> None:
        self._compiler = Compiler()

    def seeds(self) -> list[bytes]:
        bodies = [
            "(i32.const 0)",
            "(drop (call $state_get (i32.const 0) (i32.const 3) (i32.const 64) (i32.const 9))) (i32.const 0)",
            "(loop $l (br $l)) (i32.const 0)",
            "(call_indirect (result i32) (i32.const 0))",
        ]
        extra = (
            '(table 4 funcref) (elem (i32.const 0) $one) (func $one (result i32) (i32.const 0)) (data "x")'
        )
        return [
            bytes(
                wasmtime.wat2wasm(
                    f'(module {ABI} {extra} (func (export "resume") (param i64 i32 i32 i32) (result i32) (i32.const 0))'
                    f'(func (export "handle") (param i32 i32) (result i32) {body}))'
                )
            )
            for body in bodies
        ]

    def run(self, data: bytes) -> str:
        refusal = preflight(data, "handle")
        if refusal is not None:
            self._check(refusal)
            return refused(AssertionError(refusal.message))
        answer = self._compiler.compile(data)
        if isinstance(answer, Refusal):
            self._check(answer)
            return f"compiler: {refused(AssertionError(answer.message))}"
        return answer

    def _check(self, refusal: Refusal) -> None:
        require(0 < len(refusal.message) <= 1_024, "a refusal is short", refusal.message[:200])
        require(refusal.code.isidentifier(), "a refusal's code is a word", refusal.code)

    def close(self) -> None:
        self._compiler.close()


TARGETS: Final = (AbiCalls, ForgedImage, ResumedModule, WasmModule)
