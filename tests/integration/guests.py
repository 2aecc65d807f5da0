"""Handlers for tests, written as lists of steps and compiled to the text form of WebAssembly.

    tool("greet", set_key("seen", True), emit("hello", {"to": "all"}), returns("done"))

They need nothing of the JavaScript engine, so that what they show is about the system and not about that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent

#: Where literals begin, and where ``alloc`` gives out memory.
_DATA_AT = 16
_HEAP_AT = 32_768

_IMPORTS = """
  (import "panels" "state_get" (func $state_get (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_set" (func $state_set (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_delete" (func $state_delete (param i32 i32) (result i32)))
  (import "panels" "state_keys" (func $state_keys (param i32 i32) (result i32)))
  (import "panels" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))
  (import "panels" "view" (func $view (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "panels" "result" (func $result (param i32 i32)))
  (import "panels" "fail" (func $fail (param i32 i32)))
  (import "panels" "fail_code" (func $fail_code (param i32 i32 i32 i32) (result i32)))
  (import "panels" "log" (func $log (param i32 i32 i32)))
  (import "panels" "now_ms" (func $now_ms (result f64)))
"""


@dataclass
class Literals:
    """The data segment: each text once."""

    text: bytearray = field(default_factory=bytearray)

    def place(self, text: str | bytes) -> str:
        """Pointer and length of ``text``, as two operands."""
        data = text.encode() if isinstance(text, str) else text
        at = self.text.find(data)
        if at < 0:
            at = len(self.text)
            self.text += data
        return f"(i32.const {_DATA_AT + at}) (i32.const {len(data)})"


Step = Callable[[Literals], str]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def set_key(key: str, value: object) -> Step:
    """state_set with a literal."""
    return lambda literals: f"(drop (call $state_set {literals.place(key)} {literals.place(_json(value))}))"


def set_raw(key: str | bytes, value: bytes) -> Step:
    """state_set with bytes that need not be JSON; what it answers is the return value of the handler."""
    return lambda literals: f"(return (call $state_set {literals.place(key)} {literals.place(value)}))"


def set_from_args(key: str) -> Step:
    """state_set with the arguments, whatever they are."""
    return lambda literals: (
        f"(drop (call $state_set {literals.place(key)} (local.get $args) (local.get $len)))"
    )


def delete_key(key: str) -> Step:
    """state_delete."""
    return lambda literals: f"(drop (call $state_delete {literals.place(key)}))"


def emit(name: str, payload: object = None) -> Step:
    """emit with a literal."""
    return lambda literals: f"(drop (call $emit {literals.place(name)} {literals.place(_json(payload))}))"


def emit_args(name: str) -> Step:
    """emit with the arguments as payload."""
    return lambda literals: f"(drop (call $emit {literals.place(name)} (local.get $args) (local.get $len)))"


def view(view_id: str, command: str, params: object) -> Step:
    """view."""
    return lambda literals: (
        f"(drop (call $view {literals.place(view_id)} {literals.place(command)} "
        f"{literals.place(_json(params))}))"
    )


def returns(value: object) -> Step:
    """result with a literal."""
    return lambda literals: f"(call $result {literals.place(_json(value))})"


def returns_raw(value: bytes) -> Step:
    """result with bytes that need not be JSON."""
    return lambda literals: f"(call $result {literals.place(value)})"


def returns_args() -> Step:
    """result with the arguments."""
    return lambda _: "(call $result (local.get $args) (local.get $len))"


def returns_keys() -> Step:
    """result with the keys of the state, an array."""
    return code(
        "(local.set $n (call $state_keys (i32.const 65536) (i32.const 65536)))"
        "(call $result (i32.const 65536) (local.get $n))"
    )


def fails_with_code(code: str, details: object) -> Step:
    """fail_code, for a failure that comes behind it."""
    return lambda literals: (
        f"(drop (call $fail_code {literals.place(code)} {literals.place(_json(details))}))"
    )


def fails(message: str) -> Step:
    """fail, and return a negative code."""
    return lambda literals: f"(call $fail {literals.place(message)}) (return (i32.const -1))"


def logs(level: int, text: str) -> Step:
    """log."""
    return lambda literals: f"(call $log (i32.const {level}) {literals.place(text)})"


def code(text: str) -> Step:
    """Instructions as they are; ``$args`` and ``$len`` are the arguments, ``$n`` a spare i32."""
    return lambda _: text


def traps() -> Step:
    """unreachable."""
    return code("unreachable")


def spins(times: int | None = None) -> Step:
    """A loop: for ever, or about ``times`` times (some ten units of fuel each)."""
    if times is None:
        return code("(loop $for_ever (br $for_ever))")
    return code(
        f"(local.set $n (i32.const {times})) (loop $again "
        "(br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
    )


def wat(*steps: Step, extra: str = "", pages: int = 2) -> str:
    """The module whose ``handle`` does these steps; ``extra`` are more fields of it."""
    literals = Literals()
    body = "\n    ".join(step(literals) for step in steps)
    data = "".join(f"\\{byte:02x}" for byte in literals.text)
    assert _DATA_AT + len(literals.text) < _HEAP_AT
    return f"""(module{_IMPORTS}
  (memory (export "memory") {pages})
  (data (i32.const {_DATA_AT}) "{data}")
  (global $heap (mut i32) (i32.const {_HEAP_AT}))
  (func (export "alloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (block $enough
      (loop $more
        (br_if $enough (i32.le_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))))
        (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        unreachable))
    (local.get $at))
  {extra}
  (func (export "handle") (param $args i32) (param $len i32) (result i32)
    (local $n i32)
    {body}
    (i32.const 0)))
"""


def tool(name: str, *steps: Step, extra: str = "", **fields: object) -> dict[str, Any]:
    """A tool of a definition whose handler does these steps."""
    return {"name": name, "handler": {"language": "wat", "source": wat(*steps, extra=extra)}, **fields}


def counter(name: str = "count") -> dict[str, Any]:
    """The tool that adds one to ``count``, emits ``counted`` and returns the new number."""
    source = (ROOT / "examples" / "wat" / "counter.wat").read_text()
    return {"name": name, "handler": {"language": "wat", "source": source}}


def script(name: str, source: str, *, language: str | None = None, **fields: object) -> dict[str, Any]:
    """A tool in JavaScript, or in ``language``."""
    handler: object = source if language is None else {"language": language, "source": source}
    return {"name": name, "handler": handler, **fields}
