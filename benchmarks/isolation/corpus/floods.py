"""Handlers that say too much: host calls, events, output, logs."""

from __future__ import annotations

from typing import Final

from benchmarks.isolation.attack import RETURNED, Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import PAGES, module, wasi_import
from panels_shared.limits import MIB

FAMILY: Final = "floods"
#: What no line of a log may begin with.
FORGED_LINE: Final = "1999-12-31 23:59:59 ERROR"
_TEXT: Final = "(i32.const 16) (i32.const 4)"
_WIDE: Final = f"(i32.const 8192) (i32.const {PAGES * 65_536 - 8192})"
#: ``null`` and blanks behind it, all the way to the end of memory: a large value that is JSON.
_BLANKS: Final = (
    f"(memory.fill (i32.const 8192) (i32.const 32) (i32.const {PAGES * 65_536 - 8192})) "
    "(i32.store (i32.const 8192) (i32.const 0x6c6c756e))"
)
_FLOODED: Final = ("LIMIT_EXCEEDED", "TIMEOUT", "FUEL_EXHAUSTED")
_LOOSE: Final = {"fuel": 10**10, "timeoutMs": 2_000}
_ALL: Final = ("state:read:*", "state:write:*", "events:emit:*", "view:update:*", "ext:*")

_CALLS: Final = {
    "state_get": f"(drop (call $state_get {_TEXT} (i32.const 4096) (i32.const 64)))",
    "state_set": f"(drop (call $state_set {_TEXT} {_TEXT}))",
    "state_delete": f"(drop (call $state_delete {_TEXT}))",
    "state_has": f"(drop (call $state_has {_TEXT}))",
    "state_keys": "(drop (call $state_keys (i32.const 4096) (i32.const 64)))",
    "emit": f"(drop (call $emit {_TEXT} {_TEXT}))",
    "view": f"(drop (call $view {_TEXT} {_TEXT} {_TEXT}))",
    "result": f"(call $result {_TEXT})",
    "fail": f"(call $fail {_TEXT})",
    "log": f"(call $log (i32.const 1) {_TEXT})",
    "now_ms": "(drop (call $now_ms))",
    "random": "(call $random (i32.const 4096) (i32.const 1024))",
    "ext_call": f"(drop (call $ext_call {_TEXT} {_TEXT} {_TEXT}))",
}
_OUTPUTS: Final = {
    "one result": f"{_BLANKS} (loop $l (call $result {_WIDE}) (br $l))",
    "events": f"{_BLANKS} (loop $l (drop (call $emit {_TEXT} {_WIDE})) (br $l))",
    "state": f"{_BLANKS} (loop $l (drop (call $state_set {_TEXT} {_WIDE})) (br $l))",
    "view commands": f"{_BLANKS} (loop $l (drop (call $view {_TEXT} {_TEXT} {_WIDE})) (br $l))",
}
_HUGE: Final = "(i32.const 104857600)"
_RANGE: Final = f"(i32.const 8192) {_HUGE}"
#: One call that hands over nearly the whole of a memory, none of it UTF-8.
_LONG: Final = {
    "log": f"(call $log (i32.const 1) {_RANGE})",
    "fail": f"(call $fail {_RANGE})",
    "result": f"(call $result {_RANGE})",
    "emit": f"(drop (call $emit {_TEXT} {_RANGE}))",
    "name": f"(drop (call $state_has {_RANGE}))",
    "key": f"(drop (call $state_set {_RANGE} {_TEXT}))",
    "value": f"(drop (call $state_set {_TEXT} {_RANGE}))",
    "extension": f"(drop (call $ext_call {_RANGE} {_TEXT} {_TEXT}))",
}
_SCRIPTED: Final = {
    "events": "for (;;) $emit('e', 1);",
    "large events": "for (;;) $emit('e', 'x'.repeat(100000));",
    "view commands": "for (;;) $view.command('v', 'c', 1);",
    "large result": "return 'x'.repeat(2 ** 21);",
    "wide result": "return new Array(400000).fill('xyz');",
    "state": "for (let i = 0; ; i++) $state.set('k' + i, i);",
    "large state": "$state.a = 'x'.repeat(2 ** 21);",
    "calls of extensions": "for (;;) $ext.nothing.much();",
}


def attacks() -> list[Attack]:
    """The family."""
    return [
        attack(FAMILY, "host calls", _calls()),
        attack(
            FAMILY,
            "huge outputs",
            [
                call(name, module(body), "LIMIT_EXCEEDED", "TIMEOUT", capabilities=_ALL, limits=_LOOSE)
                for name, body in _OUTPUTS.items()
            ]
            + [
                # what log and fail are told is cut, so that deadline or number of calls ends these
                call(
                    f"100 MiB in one {name}",
                    module(f"(memory.fill (i32.const 8192) (i32.const 255) {_HUGE}) (loop $l {calling} (br $l))",
                           memory='(memory (export "memory") 1610)'),
                    "LIMIT_EXCEEDED",
                    *(["TIMEOUT"] if name in ("log", "fail") else []),
                    capabilities=_ALL,
                    limits={**_LOOSE, "memoryBytes": 128 * MIB},
                )
                for name, calling in _LONG.items()
            ],
        ),
        attack(
            FAMILY,
            "floods by scripts",
            [
                call(name, source, *_FLOODED, "HANDLER_ERROR", "PERMISSION_DENIED", "MEMORY_LIMIT",
                     capabilities=_ALL, limits=_LOOSE)
                for name, source in _SCRIPTED.items()
            ],
        ),
        attack(FAMILY, "logs", _logs()),
    ]  # fmt: skip


def _calls() -> list[Call]:
    made = [
        call(
            name,
            module(f"(loop $l {calling} (br $l))"),
            *_FLOODED, "HANDLER_ERROR",
            capabilities=_ALL,
            limits={**_LOOSE, "hostCalls": 100_000, "events": 10_000},
        )
        for name, calling in _CALLS.items()
    ]  # fmt: skip
    write = "(drop (call $fd_write (i32.const 1) (i32.const 16384) (i32.const 1024) (i32.const 64)))"
    made.append(
        call(
            "fd_write",
            module(f"(loop $l {write} (br $l))", imports=wasi_import("fd_write")),
            *_FLOODED,
            limits={**_LOOSE, "hostCalls": 100_000},
        )
    )
    return made


def _logs() -> list[Call]:
    line = "(loop $l (call $log (i32.const 3) (i32.const 0) (i32.const 65536)) (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 900))))"
    return [
        call("lines of 64 KiB", module(line), RETURNED),
        call("a script's lines", "for (let i = 0; i < 900; i++) $log.error('x'.repeat(50000));", RETURNED,
             limits={"memoryBytes": 64 * MIB, "fuel": 10**10}),
        call("forged lines", f"$log.info('x\\n{FORGED_LINE}: gateway\\r{FORGED_LINE}\\x1b[2J');", RETURNED),
        call("without end", "for (;;) $log.info('x');", *_FLOODED, limits=_LOOSE),
    ]  # fmt: skip
