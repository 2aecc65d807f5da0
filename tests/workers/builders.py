"""Tasks and programs for tests of the sandbox."""

from __future__ import annotations

from typing import Any

import wasmtime

from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import Limits
from panels_worker.guest.abi import WasmHost
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.engine import make_engine
from panels_worker.guest.task import Task
from panels_worker.guest.wasm import WasmProgram

ENGINE = make_engine()
HOST = WasmHost(ENGINE)

#: Everything that a module of panels ABI v1 needs besides its ``handle``.
ABI = """
  (import "panels" "state_get" (func $state_get (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_set" (func $state_set (param i32 i32 i32 i32) (result i32)))
  (import "panels" "state_delete" (func $state_delete (param i32 i32) (result i32)))
  (import "panels" "state_has" (func $state_has (param i32 i32) (result i32)))
  (import "panels" "state_keys" (func $state_keys (param i32 i32) (result i32)))
  (import "panels" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))
  (import "panels" "emit_to" (func $emit_to (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "panels" "view" (func $view (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "panels" "result" (func $result (param i32 i32)))
  (import "panels" "fail" (func $fail (param i32 i32)))
  (import "panels" "fail_code" (func $fail_code (param i32 i32 i32 i32) (result i32)))
  (import "panels" "log" (func $log (param i32 i32 i32)))
  (import "panels" "now_ms" (func $now_ms (result f64)))
  (import "panels" "random" (func $random (param i32 i32)))
  (import "panels" "ext_call" (func $ext_call (param i32 i32 i32 i32 i32 i32) (result i64)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 8192))
"""


def make_task(**changes: Any) -> Task:
    """A task with an empty state and the default limits; keywords replace what they name."""
    limits = changes.pop("limits", {})
    capabilities = changes.pop("capabilities", DEFAULT_CAPABILITIES)
    values: dict[str, Any] = {
        "tool": "t",
        "args": b"null",
        "scope": b"{}",
        "now_ms": 1_700_000_000_000.0,
        "seed": 7,
        "limits": Limits(**limits),
        "capabilities": Capabilities.of(capabilities),
        "state": {},
    }
    values.update(changes)
    return Task(**values)


def make_program(body: str, *, data: dict[int, str] | None = None, extra: str = "") -> WasmProgram:
    """A program of ABI v1 whose ``handle`` has this body ($ptr, $len are its arguments) and these texts in
    memory.
    """
    segments = "".join(f'(data (i32.const {at}) "{text}")' for at, text in (data or {}).items())
    handle = f'(func (export "handle") (param $ptr i32) (param $len i32) (result i32) {body})'
    source = f"(module {ABI} {segments} {extra} {handle})"
    return WasmProgram(HOST, wasmtime.Module(ENGINE, source), "handle")
