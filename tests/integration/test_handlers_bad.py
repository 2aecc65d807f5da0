"""Handlers that are refused when a panel is made, and hostile ones that run: each with its
reason, and no other harm.
"""

from __future__ import annotations

import base64
import secrets
import time
from typing import Any, Final

import pytest
from wasmtime import wat2wasm

from tests.integration.conftest import MakeSystem
from tests.integration.guests import (
    code,
    counter,
    logs,
    returns,
    returns_keys,
    set_key,
    set_raw,
    spins,
    tool,
    wat,
)
from tests.support.hostile_handlers import HOSTILE
from tests.support.system import System

#: How long making a panel may take that is refused, in seconds.
REFUSED_WITHIN_S: Final = 6.0
#: And when the same handler was refused before.
REMEMBERED_WITHIN_S: Final = 0.5

MEMORY: Final = '(memory (export "memory") 1)'
ALLOC: Final = '(func (export "alloc") (param i32) (result i32) (i32.const 1024))'
HANDLE: Final = '(func (export "handle") (param i32 i32) (result i32) (i32.const 0))'


def binary(module: bytes) -> dict[str, Any]:
    handler = {"language": "wasm", "source": base64.b64encode(module).decode()}
    return {"name": "bad", "handler": handler}


def text(*fields: str) -> dict[str, Any]:
    """A module of these fields, and a comment that makes its hash its own."""
    source = f"(module ;; {secrets.token_hex(8)}\n" + "\n".join(fields) + ")"
    return {"name": "bad", "handler": {"language": "wat", "source": source}}


def leb(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def section(number: int, *items: bytes) -> bytes:
    body = leb(len(items)) + b"".join(items)
    return bytes((number,)) + leb(len(body)) + body


def module_of_one_body(body: bytes, locals_count: int) -> bytes:
    """A module whose third function, nobody's entry, has this body and so many i32 locals."""
    types = section(1, b"\x60\x02\x7f\x7f\x01\x7f", b"\x60\x01\x7f\x01\x7f", b"\x60\x00\x00")
    functions = section(3, b"\x00", b"\x01", b"\x02")
    memory = section(5, b"\x00\x01")
    exports = section(7, b"\x06memory\x02\x00", b"\x06handle\x00\x00", b"\x05alloc\x00\x01")
    bodies = [
        b"\x00\x41\x00\x0b",
        b"\x00\x41\x80\x08\x0b",
        b"\x01" + leb(locals_count) + b"\x7f" + body + b"\x0b",
    ]
    return (
        b"\0asm\1\0\0\0"
        + types
        + functions
        + memory
        + exports
        + section(10, *(leb(len(b)) + b for b in bodies))
    )


def compile_bomb(size: int) -> bytes:
    """Loops over many locals: tens of kilobytes that take a register allocator many seconds."""
    loops = (
        b"\x03\x40\x20"
        + leb(n)
        + b"\x0d\x00\x20"
        + leb(n * 7 % size)
        + b"\x21"
        + leb(n * 13 % size)
        + b"\x0b"
        for n in range(size)
    )
    return module_of_one_body(b"".join(loops), size)


def refused(system: System, *tools: dict[str, Any]) -> dict[str, Any]:
    """The error with which these tools are refused, twice: in time, and then at once."""
    for within_s in (REFUSED_WITHIN_S, REMEMBERED_WITHIN_S):
        started = time.monotonic()
        response = system.post_panel(*tools)
        took_s = time.monotonic() - started
        assert response.status_code == 422, response.text
        assert took_s < within_s
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == "INVALID_HANDLER"
    assert error["details"]["tool"] == tools[-1]["name"]
    assert len(error["message"]) < 1_000
    return error


# -- refused when the panel is made ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (b"nonsense", "malformed"),
        (b"\0asm", "malformed"),
        (b"\0asm\2\0\0\0", "malformed"),
        (b"\0asm\x0d\0\1\0", "unsupported"),
        (b"\0asm\1\0\0\0", "missing_export"),
        (b"\0asm\1\0\0\0\x01\xff\xff\xff\xff\x0f", "malformed"),
        (b"\0asm\1\0\0\0\x01\x05\xff\xff\xff\xff\x0f", "too_large"),
        (wat2wasm(wat(returns(1)))[:-10], "malformed"),
        (module_of_one_body(b"\x6a", 0), "malformed"),
    ],
    ids=[
        "nonsense",
        "cut magic",
        "version 2",
        "component",
        "empty",
        "long section",
        "many types",
        "cut",
        "invalid",
    ],
)
def test_module_that_is_none_is_refused(system: System, module: bytes, reason: str) -> None:
    error = refused(system, binary(module))
    assert error["details"]["reason"] == reason, error


@pytest.mark.parametrize(
    ("fields", "reason", "named"),
    [
        ((ALLOC, HANDLE), "missing_export", "memory"),
        ((MEMORY, HANDLE), "missing_export", "alloc"),
        ((MEMORY, ALLOC), "missing_export", "handle"),
        ((MEMORY, ALLOC, '(func (export "handle"))'), "signature", "handle"),
        ((MEMORY, ALLOC, '(global (export "handle") i32 (i32.const 0))'), "missing_export", "handle"),
        ((MEMORY, HANDLE, ('(func (export "alloc") (param i64) (result i32) (i32.const '
                          '0))')), "signature", "alloc"),
        (('(import "env" "abort" (func))', MEMORY, ALLOC, HANDLE), "unknown_import", "abort"),
        (('(import "panels" "format_disk" (func))', MEMORY, ALLOC, HANDLE), "unknown_import", "format_disk"),
        ((('(import "wasi_snapshot_preview1" "sock_connect" '
          '(func))'), MEMORY, ALLOC, HANDLE), "unknown_import", "sock_connect"),
        (('(import "panels" "emit" (func (param f64)))', MEMORY, ALLOC, HANDLE), "signature", "emit"),
        (('(import "panels" "memory" (memory 1))', ALLOC, HANDLE), "unknown_import", "memory"),
        (('(memory (export "memory") 65536)', ALLOC, HANDLE), "memory", ""),
        ((MEMORY, "(memory 1)", ALLOC, HANDLE), "unsupported", ""),
        (('(memory (export "memory") 1 1 shared)', ALLOC, HANDLE), "unsupported", ""),
        (('(memory (export "memory") i64 1)', ALLOC, HANDLE), "unsupported", ""),
        ((MEMORY, ALLOC, HANDLE, "(table 100000000 funcref)"), "memory", ""),
        ((MEMORY, ALLOC, HANDLE, '(func (export "x") (param v128))'), "signature", ""),
        ((MEMORY, ALLOC, HANDLE, ('(func (export "x") (result externref) (ref.null '
                                 'extern))')), "signature", ""),
        ((MEMORY, ALLOC, HANDLE, "(type (struct))"), "unsupported", ""),
        ((MEMORY, ALLOC, HANDLE, "(tag)"), "unsupported", ""),
        ((MEMORY, ALLOC, HANDLE, "(func $f) (func return_call $f)"), "malformed", ""),
        ((MEMORY, ALLOC, HANDLE, "(func (drop (i32.atomic.load (i32.const 0))))"), "malformed", ""),
    ],
    ids=[
        "no memory", "no alloc", "no entry", ("entry without "
                                             "parameters"), "entry a global", "alloc of i64", "import env",
        "import panels", "import wasi", ("import of another "
                                        "type"), "imported memory", "4 GiB", "two memories", "shared memory",
        "64-bit memory", "huge table", "v128", "externref", "struct", "exception", "tail call", "atomics",
    ],
)  # fmt: skip
def test_module_that_we_do_not_support_is_refused_with_the_reason(
    system: System, fields: tuple[str, ...], reason: str, named: str
) -> None:
    error = refused(system, text(*fields))
    accepted = (
        {reason, "unsupported"}
        if reason in ("signature", "memory", "malformed", "unknown_import")
        else {reason}
    )
    assert error["details"]["reason"] in accepted, error
    assert named in error["message"], error


def test_module_that_is_too_large_is_refused_before_it_is_compiled(system: System) -> None:
    response = system.post_panel(binary(b"\0asm\1\0\0\0" + b"\0" * (2 * 1024 * 1024)))
    assert response.status_code == 400
    assert response.json()["error"]["details"]["path"] == "tools[0].handler.source"


def test_compile_bomb_is_refused_and_others_are_served(system: System) -> None:
    panel = system.make_panel(counter())
    bomb = compile_bomb(3_000 + secrets.randbelow(200))
    with system.connect(panel) as bystander:
        error = refused(system, binary(bomb))
        assert bystander.call("count") == 1
    assert error["details"]["reason"] == "too_costly", error


def test_start_function_that_never_ends_harms_one_trigger(system: System) -> None:
    """A module may have a start function; it runs in the job, under the job's limits."""
    handler = text(MEMORY, ALLOC, HANDLE, "(func $s (loop $l (br $l)))", "(start $s)")
    response = system.post_panel({**handler, "limits": {"fuel": 1_000_000}}, tool("fine", returns(1)))
    if response.status_code == 422:
        return
    with system.connect(response.json()["id"]) as client:
        assert client.trigger("bad").reason == "FUEL_EXHAUSTED"
        assert client.call("fine") == 1


# -- hostile when it runs ----------------------------------------------------------------------------

LYING_ALLOC: Final = wat(returns(1)).replace("(local $at i32)", "(local $at i32) (return (i32.const -16))")


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_handler_is_stopped_with_its_reason(system: System, kind: str) -> None:
    bad, reason = HOSTILE[kind]
    # what it did before it was stopped must not be seen either
    touched = {**bad, "handler": {**bad["handler"], "source": _touching(str(bad["handler"]["source"]))}}
    panel = system.make_panel(touched, counter(), state={"count": 0})
    with system.connect(panel) as client, system.connect(panel) as watcher:
        answer = client.trigger("bad", {"some": "args"})
        assert answer.reason == reason, answer.final
        assert answer.final["message"]
        assert answer.heard == []
        assert client.call("count") == 1
        assert [message["type"] for message in watcher.barrier()] == ["PATCH", "EVENT"]
    assert system.state(panel) == {"count": 1}
    assert system.seq(panel) == 1


def _touching(source: str) -> str:
    """The module with a state_set and an emit before anything else that its handler does."""
    key_and_value = '(data (i32.const 0) "touched") (data (i32.const 8) "true")'
    first = "(drop (call $state_set (i32.const 0) (i32.const 7) (i32.const 8) (i32.const 4)))"
    first += "(drop (call $emit (i32.const 0) (i32.const 7) (i32.const 8) (i32.const 4)))"
    assert source.count("(local $n i32)") == 1
    return source.replace("(local $n i32)", f"(local $n i32) {first}").replace(
        "(global $heap", f"{key_and_value} (global $heap"
    )


def test_alloc_that_lies_is_a_trap(system: System) -> None:
    panel = system.make_panel(
        {"name": "bad", "handler": {"language": "wat", "source": LYING_ALLOC}}, counter()
    )
    with system.connect(panel) as client:
        assert client.trigger("bad", "x" * 1_000).reason == "TRAP"
        assert client.call("count") == 1


def test_value_that_is_no_json_is_told_to_the_guest_and_not_stored(system: System) -> None:
    panel = system.make_panel(
        tool("nonsense", set_raw("a", b"{nope")),
        tool("utf8", set_raw("a", b'"\xff"')),
        tool("key", set_raw(b"\xff", b"1")),
        tool("surrogate", set_raw("a", b'"\\ud800"')),
    )
    with system.connect(panel) as client:
        for name in ("nonsense", "utf8", "key", "surrogate"):
            answer = client.trigger(name)
            assert answer.reason == "HANDLER_ERROR", answer.final
            assert "-4" in answer.final["message"]
    assert system.state(panel) == {}


def test_handler_without_the_capability_is_told_so_and_changes_nothing(system: System) -> None:
    panel = system.make_panel(
        tool("write", set_raw("secret", b"1"), capabilities=["state:write:open*", "state:read:*"]),
        tool(
            "emit",
            code(_returning("emit", "boom", "1")),
            capabilities=["state:write:*"],
            extra=_data("boom", "1"),
        ),
        tool("allowed", set_key("opened", 1), capabilities=["state:write:open*"]),
        state={"secret": 0},
    )
    with system.connect(panel) as client:
        for name in ("write", "emit"):
            answer = client.trigger(name)
            assert answer.reason in ("HANDLER_ERROR", "PERMISSION_DENIED"), answer.final
            assert answer.heard == []
        client.call("allowed")
    assert system.state(panel) == {"secret": 0, "opened": 1}


def _data(*texts: str) -> str:
    return "".join(f'(data (i32.const {20_000 + 100 * at}) "{text}")' for at, text in enumerate(texts))


def _returning(function: str, *texts: str) -> str:
    operands = " ".join(
        f"(i32.const {20_000 + 100 * at}) (i32.const {len(text)})" for at, text in enumerate(texts)
    )
    return f"(return (call ${function} {operands}))"


def test_log_of_a_handler_is_cut_and_its_trigger_succeeds(system: System) -> None:
    mark = secrets.token_hex(8)
    noisy = tool("noisy", logs(1, f"{mark} first"), code("(local.set $n (i32.const 900)) (loop "
                                                         "$l"), logs(1, "x" * 500),
                 code("(br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"),
                 logs(1, f"{mark} last"), returns("ok"))  # fmt: skip
    panel = system.make_panel(noisy)
    with system.connect(panel) as client:
        assert client.call("noisy") == "ok"
    log = system.the_gateway().text
    assert f"{mark} first" in log
    assert f"{mark} last" not in log


def test_line_breaks_of_a_handlers_log_cannot_forge_lines(system: System) -> None:
    mark = secrets.token_hex(8)
    panel = system.make_panel(
        tool("forge", logs(1, f"innocent\n2026-01-01 ERROR panels.gateway: {mark}"), returns(1))
    )
    with system.connect(panel) as client:
        assert client.call("forge") == 1
    assert not any(line.startswith("2026-01-01 ERROR") for line in system.the_gateway().text.splitlines())


def test_state_above_its_limit_is_refused_and_the_replica_agrees(system: System) -> None:
    """A commit that the gateway refuses is undone in the worker too: the next job does not see it."""
    grow = code(
        "(return (call $state_set (local.get $args) (i32.const 8) (local.get $args) (local.get $len)))"
    )
    panel = system.make_panel(tool("grow", grow), tool("keys", returns_keys()), counter())
    with system.connect(panel) as client:
        # each key is the beginning of its own value: distinct keys of about 0.9 MiB
        values = [f"{number:07d}" + "x" * 900_000 for number in range(25)]
        answers = [client.trigger("grow", value).final["type"] for value in values]
        fitting = answers.index("ERROR")
        assert 16 <= fitting <= 19
        keys = ['"' + value[:7] for value in values[:fitting]]
        assert client.call("keys") == keys
        assert client.call("count") == 1
        assert client.trigger("grow", values[fitting]).reason == "LIMIT_EXCEEDED"
        assert client.call("count") == 2
    state = system.state(panel)
    assert state.pop("count") == 2
    assert list(state) == keys


def test_many_hostile_triggers_at_once_delay_another_panel_little(system: System) -> None:
    """Two sandboxes, one of them kept busy: the other panel's triggers are served meanwhile."""
    spinning = system.make_panel(tool("spin", spins(), limits={"fuel": 10**10, "timeoutMs": 300}))
    other = system.make_panel(counter())
    with system.connect(spinning) as attacker, system.connect(other) as honest:
        honest.call("count")
        sent = [attacker.send_trigger("spin") for _ in range(5)]
        started = time.monotonic()
        for _ in range(20):
            honest.call("count")
        assert time.monotonic() - started < 1.2
        assert {answer.reason for answer in attacker.await_answers(sent)} == {"TIMEOUT"}


def test_handlers_leave_nothing_for_the_next_job(system: System) -> None:
    """Fresh instance per job: globals and memory are as they were compiled."""
    count = tool(
        "count",
        code(
            "(global.set $seen (i32.add (global.get $seen) (i32.const 1)))"
            "(i32.store8 (i32.const 4000) (i32.add (i32.const 48) (global.get $seen)))"
            "(i32.store8 (i32.const 4100) (i32.add (i32.load8_u (i32.const 4100)) (i32.const 1)))"
            "(i32.store8 (i32.const 4001) (i32.add (i32.const 48) (i32.load8_u (i32.const 4100))))"
            "(call $result (i32.const 4000) (i32.const 2))"
        ),
        extra="(global $seen (mut i32) (i32.const 0))",
    )
    panel = system.make_panel(count)
    with system.connect(panel) as client:
        assert {client.call("count") for _ in range(50)} == {11}


def test_sandbox_holds_more_handlers_than_it_has_descriptors_for_other_things(
    make_system: MakeSystem,
) -> None:
    """Each module with data keeps a file open: many small handlers of one stranger must not use them up."""
    system = make_system(processes=1)
    mark = secrets.token_hex(4)
    for batch in range(4):
        tools = [tool(f"t{at}", returns(f"{mark} {batch} {at}")) for at in range(20)]
        with system.connect(system.make_panel(*tools)) as client:
            assert [client.call(f"t{at}") for at in range(20)] == [f"{mark} {batch} {at}" for at in range(20)]
