"""Traps of every kind, wherever a guest can trap."""

from __future__ import annotations

from typing import Final

from benchmarks.isolation.attack import Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import module
from tests.support.hostile_handlers import HOSTILE

FAMILY: Final = "traps"
_TABLE: Final = (
    "(type $t (func)) (type $u (func (param i64))) (table $tab 2 2 funcref) (elem (i32.const 0) $f) (func $f)"
)
_DATA: Final = '(data $d "abcd")'

TRAPS: Final = {
    "unreachable": ("unreachable", ""),
    "division by zero": ("(drop (i32.div_u (i32.const 1) (local.get $n)))", ""),
    "64-bit remainder by zero": ("(drop (i64.rem_s (i64.const 1) (i64.extend_i32_u (local.get $n))))", ""),
    "overflow of a division": (
        "(drop (i32.div_s (i32.const 0x80000000) (i32.sub (local.get $n) (i32.const 1))))",
        "",
    ),
    "NaN as an integer": ("(drop (i32.trunc_f64_s (f64.const nan)))", ""),
    "infinity as an integer": ("(drop (i64.trunc_f32_u (f32.const inf)))", ""),
    "load beyond the end": ("(drop (i32.load (i32.const -4)))", ""),
    "load with an offset": ("(drop (i64.load offset=0xffffffff (i32.const -1)))", ""),
    "store beyond the end": ("(i32.store8 (i32.const 0x7fffffff) (i32.const 1))", ""),
    "store across the end": ("(i64.store (i32.const 131068) (i64.const -1))", ""),
    "memory.fill": ("(memory.fill (i32.const 1) (i32.const 0) (i32.const -1))", ""),
    "memory.copy": ("(memory.copy (i32.const -1) (i32.const 0) (i32.const 2))", ""),
    "memory.init": ("(memory.init $d (i32.const 0) (i32.const 3) (i32.const 2))", _DATA),
    "memory.init of what is dropped": (
        "(data.drop $d) (memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))",
        _DATA,
    ),
    "call of null": ("(call_indirect (type $t) (i32.const 1))", _TABLE),
    "call of another type": ("(call_indirect (type $u) (i64.const 1) (i32.const 0))", _TABLE),
    "call beyond the table": ("(call_indirect (type $t) (i32.const 2))", _TABLE),
    "call far beyond the table": ("(call_indirect (type $t) (i32.const -1))", _TABLE),
    "table.get": ("(drop (table.get $tab (i32.const 9)))", _TABLE),
    "table.set": ("(table.set $tab (i32.const -1) (ref.null func))", _TABLE),
    "table.fill": ("(table.fill $tab (i32.const 1) (ref.null func) (i32.const 2))", _TABLE),
    "table.copy": ("(table.copy $tab $tab (i32.const 0) (i32.const 1) (i32.const 2))", _TABLE),
    "data that does not fit": ("", '(data (i32.const 131070) "abcd")'),
    "elements that do not fit": ("", "(table 1 1 funcref) (func $f) (elem (i32.const 1) $f)"),
    "in a start function": ("", "(func $s unreachable) (start $s)"),
    "in _initialize": ("", '(func (export "_initialize") unreachable)'),
    "host call in a start function": (
        "",
        "(func $s (call $result (i32.const 16) (i32.const 4))) (start $s)",
    ),
}


def attacks() -> list[Attack]:
    """The family; the second attack is the tests' own list, each with the reason that the tests expect."""
    made = [
        call(name, module(body, fields=fields), "TRAP", "refused:malformed")
        for name, (body, fields) in TRAPS.items()
    ]
    made.append(call("in alloc", module("", alloc="unreachable"), "TRAP"))
    known = [
        Call(
            name=name,
            handler=tool["handler"],
            expected=frozenset((reason,)),
            args={"some": "args"},
            limits=tool.get("limits", {}),
        )
        for name, (tool, reason) in HOSTILE.items()
    ]
    return [
        attack(FAMILY, "traps of every kind", made),
        attack(FAMILY, "hostile handlers of the tests", known),
    ]
