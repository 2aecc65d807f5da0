"""Looking for what a previous job left in memory, in tables, in globals, or in a script's heap."""

from __future__ import annotations

import secrets
from typing import Final

from benchmarks.isolation.attack import RETURNED, Attack, Call, attack, call
from benchmarks.isolation.corpus.guests import module
from panels_shared.limits import MIB

FAMILY: Final = "snooping"
#: So often a victim leaves something and a thief looks for it: there are several slots for instances.
_ROUNDS: Final = 4
_PAGES: Final = 320
_ROOM: Final = {"memoryBytes": 32 * MIB, "fuel": 10**10, "timeoutMs": 5_000}

_FILL: Final = """(drop (memory.grow (i32.const 318)))
  (memory.fill (i32.const 12288) (i32.const 0x5a) (i32.const 20000000))
  (table.fill $t (i32.const 0) (ref.func $f) (i32.const 1000))
  (global.set $g (i64.const 0x5a5a5a5a))"""
_PLACES: Final = (
    "(table $t 1000 funcref) (func $f) (elem declare func $f) (global $g (mut i64) (i64.const 0))"
)
#: Counts the words above its own data that are not zero, entries of the table that are set, and the global.
_COUNT: Final = """(drop (memory.grow (i32.const 318)))
  (local.set $n (i32.const 12288))
  (loop $l
    (local.set $m (i32.add (local.get $m) (i32.ne (i32.const 0) (i32.load (local.get $n)))))
    (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 4))) (i32.const 20900000))))
  (local.set $n (i32.const 0))
  (loop $l
    (local.set $m (i32.add (local.get $m) (i32.eqz (ref.is_null (table.get $t (local.get $n))))))
    (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))
  (local.set $m (i32.add (local.get $m) (i64.ne (global.get $g) (i64.const 0))))
  (call $number (local.get $m))"""


def attacks() -> list[Attack]:
    """The family. A panel's jobs run in one process, so thief and victim meet."""
    return [
        attack(FAMILY, "memory of an earlier job", _memory()),
        attack(FAMILY, "heap of an earlier script", _heap()),
        attack(FAMILY, "state that capabilities hide", _hidden(), state={"secret": _SECRET, "open": 1}),
        attack(FAMILY, "other panels", _others()),
    ]


_SECRET: Final = "s" + secrets.token_hex(12)


def _memory() -> list[Call]:
    made: list[Call] = []
    for at in range(_ROUNDS):
        # a comment makes each module another, with a slot of its own
        victim = module(f";; {at}\n{_FILL}", fields=_PLACES)
        trap = module(f";; {at}\n{_FILL} unreachable", fields=_PLACES)
        thief = module(f";; {at}\n{_COUNT}", fields=_PLACES)
        made += [
            call(f"victim {at}", victim, RETURNED, limits=_ROOM),
            call(f"thief {at}", thief, RETURNED, returns=0, limits=_ROOM),
            call(f"victim {at} that traps", trap, "TRAP", limits=_ROOM),
            call(f"thief {at} after the trap", thief, RETURNED, returns=0, limits=_ROOM),
        ]
    made += [
        call("the same module", module(_COUNT + _FILL, fields=_PLACES), RETURNED, returns=0, limits=_ROOM),
        call(
            "the same module again", module(_COUNT + _FILL, fields=_PLACES), RETURNED, returns=0, limits=_ROOM
        ),
    ]
    return made  # fmt: skip


def _heap() -> list[Call]:
    victim = "globalThis.leaked = $args; Object.prototype.leaked = $args; Array.prototype.push = () => $args; const kept = []; for (let i = 0; i < 50000; i++) kept[i] = $args + i; return kept.length;"
    thief = "const found = [globalThis.leaked, ({}).leaked]; const a = []; a.push(1); for (let i = 0; i < 40; i++) { const u = new Uint8Array(100000); for (let at = 0; at < u.length; at += 97) if (u[at]) found.push(u[at]); } return found.filter((x) => x !== undefined).length + a.length - 1;"
    made: list[Call] = []
    for at in range(_ROUNDS):
        made += [
            call(f"victim {at}", f"// {at}\n{victim}", RETURNED, args=_SECRET, returns=50_000),
            call(
                f"thief {at}",
                f"// {at}\n{thief}",
                RETURNED,
                returns=0,
                secret=_SECRET,
                limits={"fuel": 10**10},
            ),
        ]
    return made


def _hidden() -> list[Call]:
    narrow = ("state:read:open", "state:write:open")
    expressions = {
        "reading": "return $state.secret ?? null",
        "a method": "return $state.get('secret') ?? null",
        "enumeration": "return Object.entries($state)",
        "spreading": "return { ...$state }",
        "stringifying": "return JSON.stringify($state)",
        "descriptors": "return Object.getOwnPropertyDescriptors($state)",
        "has": "return 'secret' in $state && $state.secret",
        "deleting": "delete $state.secret; return 1",
        "writing": "$state.secret = 1; return 1",
        "writing by prototype": "Object.getPrototypeOf($state).secret = 1; return $state.secret",
        "reflection": "return Reflect.get($state, 'secret') ?? null",
    }
    made = [
        call(name, source, RETURNED, "PERMISSION_DENIED", "HANDLER_ERROR", "INVALID_RESULT",
             capabilities=narrow, secret=_SECRET)
        for name, source in expressions.items()
    ]  # fmt: skip
    text = '(data (i32.const 1024) "secret")'
    for name, body in {
        "state_get": "(call $number (i32.add (i32.const 2) (call $state_get (i32.const 1024) (i32.const 6) (i32.const 4096) (i32.const 100))))",
        "state_delete": "(call $number (i32.add (i32.const 2) (call $state_delete (i32.const 1024) (i32.const 6))))",
    }.items():
        made.append(call(name, module(body, fields=text), RETURNED, returns=0, capabilities=narrow))
    keys = "(call $result (i32.const 4096) (call $state_keys (i32.const 4096) (i32.const 1000)))"
    made.append(
        call("state_keys", module(keys), RETURNED, returns=["open"], capabilities=narrow, secret="secret")
    )
    return made


def _others() -> list[Call]:
    """No call names a panel; names that look like another's key are keys of one's own."""
    return [
        call(f"key {key!r}", f"return $state[{key!r}] ?? null", RETURNED, returns=None)
        for key in ("panels/neighbour-0", "neighbour-0", "../neighbour-0/count", "\0", "count")
    ]
