"""Hostile handlers in WebAssembly text, each with the reason with which it is stopped."""

from __future__ import annotations

from typing import Any, Final

from tests.integration.guests import code, emit, returns_raw, spins, tool, traps

_GROW: Final = "(block $stop (loop $more (br_if $stop (i32.eq (memory.grow (i32.const 16)) (i32.const -1))) (br $more))) unreachable"
_RECURSE: Final = (
    "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (call $deep (local.get 0))))"
)
_TABLE: Final = "(table 1 1 funcref) (type $t (func))"

HOSTILE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "loop on fuel": (tool("bad", spins(), limits={"fuel": 1_000_000}), "FUEL_EXHAUSTED"),
    "loop on time": (tool("bad", spins(), limits={"fuel": 10**10, "timeoutMs": 200}), "TIMEOUT"),
    "memory bomb": (tool("bad", code(_GROW), limits={"memoryBytes": 4 * 2**20}), "MEMORY_LIMIT"),
    "recursion": (tool("bad", code("(drop (call $deep (i32.const 0)))"), extra=_RECURSE), "STACK_OVERFLOW"),
    "unreachable": (tool("bad", traps()), "TRAP"),
    "division by zero": (tool("bad", code("(drop (i32.div_u (i32.const 1) (i32.const 0)))")), "TRAP"),
    "load out of bounds": (tool("bad", code("(drop (i32.load (i32.const -4)))")), "TRAP"),
    "call of null": (tool("bad", code("(call_indirect (type $t) (i32.const 0))"), extra=_TABLE), "TRAP"),
    "negative code": (tool("bad", code("(return (i32.const -7))")), "HANDLER_ERROR"),
    "suspended on nothing": (tool("bad", code("(return (i32.const 1))")), "HANDLER_ERROR"),
    "host call flood": (
        tool("bad", code("(loop $l (drop (call $now_ms)) (br "
                         "$l))"), limits={"hostCalls": 500}), "LIMIT_EXCEEDED",
    ),
    "event flood": (
        tool("bad", code("(loop "
                         "$l"), emit("e"), code("(br $l))"), limits={"hostCalls": 100_000}), "LIMIT_EXCEEDED",
    ),
    "output flood": (
        tool("bad", code("(loop $l"), emit("e", "x" * 20_000), code("(br $l))")), "LIMIT_EXCEEDED",
    ),
    "result that is no JSON": (tool("bad", returns_raw(b"{nope")), "INVALID_RESULT"),
    "result that is no UTF-8": (tool("bad", returns_raw(b'"\xff"')), "INVALID_RESULT"),
    "result of NaN": (tool("bad", returns_raw(b"NaN")), "INVALID_RESULT"),
    "result of a surrogate": (tool("bad", returns_raw(b'"\\ud800"')), "INVALID_RESULT"),
    "result nested deeply": (tool("bad", returns_raw(b"[" * 65 + b"]" * 65)), "INVALID_RESULT"),
    "result that breaks a frame": (tool("bad", returns_raw(b'1},"injected":{"a":1')), "INVALID_RESULT"),
    "lying result pointer": (tool("bad", code("(call $result (i32.const -1) (i32.const 10))")), "TRAP"),
    "lying result length": (tool("bad", code("(call $result (i32.const 0) (i32.const -1))")), "TRAP"),
    "lying key": (
        tool("bad", code("(drop (call $state_set (i32.const 131070) (i32.const 9) "
                         "(i32.const 0) (i32.const 1)))")), "TRAP",
    ),
    "lying value": (
        tool("bad", code("(drop (call $state_set (i32.const 0) (i32.const 1) "
                         "(i32.const 131071) (i32.const 2)))")), "TRAP",
    ),
    "lying buffer": (
        tool("bad", code("(drop (call $state_get (i32.const 16) (i32.const 4) "
                         "(i32.const -8) (i32.const 100000)))")), "TRAP",
    ),
    "lying "
    "log": (tool("bad", code("(call $log (i32.const 1) (i32.const 0) (i32.const 0x7fffffff))")), "TRAP"),
    "lying error": (tool("bad", code("(call $fail (i32.const 0x7fffffff) (i32.const 0x7fffffff))")), "TRAP"),
}  # fmt: skip
