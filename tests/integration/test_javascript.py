"""Handlers in JavaScript and TypeScript through the whole system: the API that their authors are promised."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from tests.integration.guests import ROOT, counter, script
from tests.support.clients import Answer, Client
from tests.support.system import System


def run(
    system: System,
    source: str,
    args: object = None,
    *,
    state: dict[str, object] | None = None,
    language: str | None = None,
    **fields: object,
) -> tuple[Answer, dict[str, Any]]:
    """What one trigger of a handler brings, and the panel's state after it."""
    panel = system.make_panel(script("t", source, language=language, **fields), state=state)
    with system.connect(panel) as client:
        answer = client.trigger("t", args)
    return answer, system.state(panel)


def value(system: System, source: str, args: object = None, **options: Any) -> Any:
    """What a handler returns."""
    return run(system, source, args, **options)[0].value


# -- $args, return, $scope, $time
# -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [None, True, 0, -1, 1.5, "", "ünï\u2028\U0001f600", [], {}, [1, [2]], {"a": {"b": None}},
    {"__proto__": 1, "constructor": 2}],
)  # fmt: skip
def test_args_come_in_and_go_out_unchanged(system: System, args: object) -> None:
    assert value(system, "return $args;", args) == args


def test_handler_that_returns_nothing_returns_null(system: System) -> None:
    assert value(system, "1 + 1;") is None
    assert value(system, "return undefined;") is None


def test_scope_says_who_triggers(system: System) -> None:
    panel = system.make_panel(script("who", "return $scope;"))
    with system.connect(panel, token=system.token(subject="ada")) as client:
        assert client.call("who")["sub"] == "ada"
    with system.connect(panel, token=system.token(subject=None)) as client:
        assert client.call("who")["sub"] is None


def test_time_is_the_jobs_own_and_stands_still(system: System) -> None:
    first, second, date = value(
        system,
        "const first = $time.now(); for (let i = 0; i < 1e5; i++); return [first, $time.now(), Date.now()];",
    )
    assert first == second == date
    assert first > 1.7e12


def test_random_differs_between_jobs(system: System) -> None:
    panel = system.make_panel(script("roll", "return [Math.random(), Math.random()];"))
    with system.connect(panel) as client:
        rolls = [number for _ in range(10) for number in client.call("roll")]
    assert len(set(rolls)) == 20
    assert all(0 <= number < 1 for number in rolls)


# -- $state
# ---------------------------------------------------------------------------------------------------


def test_state_is_read_and_written_as_properties(system: System) -> None:
    answer, state = run(system, "$state.n += 5; $state.new = { a: [1] }; return $state.n;", state={"n": 2})
    assert answer.value == 7
    assert state == {"n": 7, "new": {"a": [1]}}


def test_nested_change_is_seen_and_committed(system: System) -> None:
    source = "$state.todos.push({ id: 2 }); $state.deep.a.b[0].c = 'x'; delete $state.deep.gone;"
    state: dict[str, object] = {"todos": [{"id": 1}], "deep": {"a": {"b": [{"c": 1}]}, "gone": 1}, "other": 1}
    answer, after = run(system, source, state=state)

    assert {mutation["key"] for mutation in answer.result["stateMutations"]} == {"todos", "deep"}
    assert after == {"todos": [{"id": 1}, {"id": 2}], "deep": {"a": {"b": [{"c": "x"}]}}, "other": 1}


def test_key_is_deleted(system: System) -> None:
    answer, state = run(
        system, "delete $state.a; return ['a' in $state, 'b' in $state];", state={"a": 1, "b": 2}
    )
    assert answer.value == [False, True]
    assert answer.result["stateMutations"] == [{"op": "delete", "key": "a"}]
    assert state == {"b": 2}


@pytest.mark.parametrize(
    "source",
    [
        "$state.a; $state.list.length;",
        "$state.a = $state.a;",
        "$state.a = 5; $state.a = 1;",
        "$state.list.push(9); $state.list.pop();",
        "JSON.stringify($state);",
        "$state.list = [1, 2];",
        "$state.b = 1; delete $state.b;",
        "delete $state.never;",
        "for (const key in $state) $state[key];",
    ],
)
def test_only_what_really_changed_becomes_a_mutation(system: System, source: str) -> None:
    panel = system.make_panel(script("t", source), state={"a": 1, "list": [1, 2]})
    with system.connect(panel) as client:
        answer = client.trigger("t")
    assert answer.result["stateMutations"] == []
    assert answer.heard == []
    assert system.seq(panel) == 0


def test_state_looks_like_an_object(system: System) -> None:
    source = """
        const seen = [];
        for (const key in $state) seen.push(key);
        return { seen, keys: Object.keys($state), entries: Object.entries($state), spread: { ...$state },
                 text: JSON.stringify($state), missing: $state.nope === undefined, own: Object.hasOwn($state, "a") };
    """
    state: dict[str, object] = {"a": 1, "b": [2]}
    seen = value(system, source, state=state)

    assert seen["seen"] == seen["keys"] == ["a", "b"]
    assert seen["entries"] == [["a", 1], ["b", [2]]]
    assert seen["spread"] == json.loads(seen["text"]) == state
    assert seen["missing"] is True
    assert seen["own"] is True


def test_state_has_methods(system: System) -> None:
    source = """
        $state.set("s", 1);
        $state.update("n", (n) => n + 1);
        const removed = $state.delete("gone");
        return [$state.get("s"), $state.get("nope", "else"), $state.has("n"), $state.has("gone"), removed, [...$state.keys()].sort()];
    """
    answer, state = run(system, source, state={"n": 1, "gone": 1})
    assert answer.value == [1, "else", True, False, True, ["n", "s"]]
    assert state == {"n": 2, "s": 1}


@pytest.mark.parametrize(
    "key", ["__proto__", "constructor", "toString", "hasOwnProperty", "", "ключ \U0001f511", "a.b"]
)
def test_any_key_is_an_ordinary_key(system: System, key: str) -> None:
    source = "const was = $state.get($args) ?? null; $state.set($args, { x: 1 }); return [was, $state.has($args), ({}).x ?? null];"
    answer, state = run(system, source, key)
    assert answer.value == [None, True, None]
    assert state == {key: {"x": 1}}


def test_changes_of_one_trigger_are_seen_by_the_next(system: System) -> None:
    panel = system.make_panel(
        script("push", "$state.list.push($args); return $state.list.length;"), state={"list": []}
    )
    with system.connect(panel) as client:
        sent = [client.send_trigger("push", number) for number in range(50)]
        assert [answer.value for answer in client.await_answers(sent)] == list(range(1, 51))
    assert system.state(panel) == {"list": list(range(50))}


def test_scripts_and_modules_share_a_panels_state(system: System) -> None:
    panel = system.make_panel(counter("wasm"), script("js", "return ++$state.count;"), state={"count": 0})
    with system.connect(panel) as client:
        assert [client.call(name) for name in ["wasm", "js"] * 10] == list(range(1, 21))


# -- $emit, $view, $log
# ---------------------------------------------------------------------------------------


def test_events_are_emitted_in_order(system: System) -> None:
    answer, _ = run(system, "$emit('a', { n: 1 }); $emit('b'); $emit.toast('saved'); $emit('a', [2]);")
    events = [message["event"] for message in answer.heard]

    assert [(event["name"], event["payload"]) for event in events[:2] + events[3:]] == [
        ("a", {"n": 1}),
        ("b", None),
        ("a", [2]),
    ]
    assert events[2]["name"] == "toast"
    assert events[2]["payload"]["message"] == "saved"


def test_view_commands_come_with_the_result(system: System) -> None:
    source = "$view.setFilter('list', { done: false }); $view.scrollTo('list', 5); $view.focus('input'); $view.command('v', 'blink', { n: 3 });"
    answer, _ = run(system, source, capabilities=["view:update:*"])
    commands = answer.result["viewCommands"]

    assert [(command["viewId"], command["command"]) for command in commands] == [
        ("list", "setFilter"), ("list", "scrollTo"), ("input", "focus"), ("v", "blink"),
    ]  # fmt: skip
    assert commands[3]["params"] == {"n": 3}


def test_log_reaches_the_servers_log_and_nobody_else(system: System) -> None:
    mark = secrets.token_hex(8)
    source = f"$log.info('{mark} a', {{ x: 1 }}); console.error('{mark} b'); return 1;"
    answer, _ = run(system, source)
    assert mark not in json.dumps([answer.final, answer.heard])
    assert system.the_gateway().text.count(mark) == 2


# -- forms
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "language"),
    [
        ("return $args + 1;", None),
        ("return await Promise.resolve($args + 1);", None),
        ("const add = async (n) => n + 1; return add($args);", None),
        ("export default function () { return $args + 1; }", None),
        ("export default async function () { return (await $args) + 1; }", None),
        ("const one = 1;\nexport default () => $args + one;", None),
        ("const n: number = $args as number; return n + 1;", "typescript"),
        (("interface A { n: number }\nexport default function (): number { const a: A = { n: "
         "$args }; return a.n + 1; }"), "typescript"),
        ("enum E { One = 1 }\nreturn $args + E.One;", "typescript"),
        (("class P { constructor(private n: number) {} next() { return this.n + 1; } "
         "}\nreturn new P($args).next();"), "typescript"),
    ],
    ids=["body", "await", "async", "module", "async module", "module with more", "types", "interface", "enum",
    "parameter property"],
)  # fmt: skip
def test_handler_is_a_body_or_a_module(system: System, source: str, language: str | None) -> None:
    assert value(system, source, 41, language=language) == 42


@pytest.mark.parametrize("name", ["todo", "chat", "poll"])
def test_example_panel_is_accepted(system: System, name: str) -> None:
    body = json.loads((ROOT / "examples" / "panels" / f"{name}.json").read_text())
    body["id"] = f"{name}-{secrets.token_hex(4)}"
    assert system.http.post("/panels", json=body).status_code == 201


def test_example_todo_list_works(system: System) -> None:
    body = json.loads((ROOT / "examples" / "panels" / "todo.json").read_text())
    panel = system.make_panel(*body["tools"], state=body["initialState"])
    with system.connect(panel) as client:
        first, second = (client.call("add", {"text": text}) for text in ("a", "b"))
        assert client.call("toggle", {"id": first["id"]})["done"] is True
        assert client.trigger("toggle", {"id": 99}).reason == "HANDLER_ERROR"
        assert client.call("tidy") == 1
    assert system.state(panel)["todos"] == [second]


# -- errors
# ---------------------------------------------------------------------------------------------------


def test_thrown_error_tells_where_in_the_handlers_own_source(system: System) -> None:
    source = "const a = 1;\nfunction inner() {\n  throw new TypeError('what ' + a);\n}\ninner();"
    answer, _ = run(system, source)

    assert answer.reason == "HANDLER_ERROR"
    assert "what 1" in answer.final["message"]
    details = answer.final["details"]
    assert details["errorName"] == "TypeError"
    assert details["location"]["line"] == 3
    assert "throw new TypeError" in details["snippet"]
    assert "inner" in details["stack"]
    assert "prelude" not in json.dumps(details)
    assert "__panels" not in json.dumps(details)


def test_typescript_error_tells_where_in_the_typescript(system: System) -> None:
    source = "interface Unused {\n  a: number;\n}\nconst x: Unused | null = null;\nreturn x!.a;"
    answer, _ = run(system, source, language="typescript")
    assert answer.reason == "HANDLER_ERROR"
    assert answer.final["details"]["location"]["line"] == 5


@pytest.mark.parametrize(
    "thrown",
    ["'text'", "{ a: 1 }", "null", "undefined", "5", "Symbol('s')", "new Proxy({}, { get() { throw 1; } })"],
)
def test_anything_can_be_thrown(system: System, thrown: str) -> None:
    answer, state = run(system, f"$state.a = 1; throw {thrown};")
    assert answer.reason == "HANDLER_ERROR"
    assert state == {}


def test_failed_handler_changes_nothing(system: System) -> None:
    answer, state = run(system, "$state.a = 2; $emit('x'); throw new Error('no');", state={"a": 1})
    assert answer.heard == []
    assert state == {"a": 1}


SPIN = {"limits": {"fuel": 50_000_000}}


@pytest.mark.parametrize(
    ("source", "fields", "reasons"),
    [
        ("while (true);", SPIN, {"FUEL_EXHAUSTED"}),
        ("while (true);", {"limits": {"timeoutMs": 200, "fuel": 10**10}}, {"TIMEOUT"}),
        ("try { while (true); } catch { return 1; } finally { return 2; }", SPIN, {"FUEL_EXHAUSTED"}),
        ("/(a+)+$/.test('a'.repeat(40) + 'b');", SPIN, {"FUEL_EXHAUSTED"}),
        ("return 'x'.repeat(2 ** 28);", {}, {"MEMORY_LIMIT"}),
        (("const kept = []; for (;;) kept.push('x'.repeat(65536) + "
         "kept.length);"), {}, {"MEMORY_LIMIT", "FUEL_EXHAUSTED"}),
        ("const f = () => 1 + f(); return f();", {}, {"STACK_OVERFLOW"}),
        (("let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return "
         "a;"), {}, {"INVALID_RESULT", "STACK_OVERFLOW"}),
        (("return JSON.parse('['.repeat(1e5) + "
         "']'.repeat(1e5));"), {}, {"INVALID_RESULT", "STACK_OVERFLOW", "HANDLER_ERROR"}),
        ("const a = {}; a.a = a; return a;", {}, {"INVALID_RESULT"}),
        ("$state.x = 'y'.repeat(2 ** 21);", {}, {"LIMIT_EXCEEDED"}),
        ("for (let i = 0; i < 1e4; i++) $emit('e');", {}, {"LIMIT_EXCEEDED"}),
        ("for (let i = 0; ; i++) $state.has('k' + i);", {}, {"LIMIT_EXCEEDED", "FUEL_EXHAUSTED"}),
        ("await new Promise(() => {});", {}, {"HANDLER_ERROR"}),
        ("await $ext.http.get('http://example.org');", {"capabilities": ["ext:http"]},
        {"HANDLER_ERROR", "PERMISSION_DENIED"}),
        ("$state.secret = 1;", {"capabilities": ["state:read:*"]}, {"PERMISSION_DENIED"}),
        ("return $state.secret;", {"capabilities": ["state:read:open"]}, {"PERMISSION_DENIED"}),
        ("$emit('x');", {"capabilities": ["state:read:*"]}, {"PERMISSION_DENIED"}),
        ("$view.focus('v');", {}, {"PERMISSION_DENIED"}),
        ("eval('1');", {}, {"HANDLER_ERROR"}),
        ("new Function('return 1')();", {}, {"HANDLER_ERROR"}),
        ("(() => {}).constructor('return 1')();", {}, {"HANDLER_ERROR"}),
        ("return await import('fs');", {}, {"HANDLER_ERROR"}),
        ("setTimeout(() => {}, 1);", {}, {"HANDLER_ERROR"}),
    ],
)  # fmt: skip
def test_hostile_script_is_stopped_with_its_reason(
    system: System, source: str, fields: dict[str, Any], reasons: set[str]
) -> None:
    panel = system.make_panel(
        script("bad", source, **fields), script("fine", "return ++$state.n;"), state={"n": 0}
    )
    with system.connect(panel) as client:
        answer = client.trigger("bad")
        assert answer.reason in reasons, answer.final
        assert answer.heard == []
        assert client.call("fine") == 1
    assert system.state(panel) == {"n": 1}


@pytest.mark.parametrize(
    ("expression", "path"),
    [
        ("{ a: { b: NaN } }", "a.b"),
        ("[1, Infinity]", "[1]"),
        ("{ big: 10n }", "big"),
        ("{ s: Symbol() }", "s"),
        ("{ f() {} }", "f"),
        ("{ m: new Map() }", "m"),
        ("[undefined]", "[0]"),
        ("{ t: new Uint8Array(2) }", "t"),
        ("{ x: '\\ud800' }", "x"),
        ("{ d: new Date(NaN) }", "d"),
    ],
)
def test_value_that_json_cannot_hold_is_named_by_its_path(system: System, expression: str, path: str) -> None:
    for source in (f"return {expression};", f"$state.v = {expression};", f"$emit('e', {expression});"):
        answer, state = run(system, source)
        if expression == "{ d: new Date(NaN) }" and answer.final["type"] == "RESULT":
            continue  # toJSON of an invalid date is null, as in JSON.stringify
        assert answer.reason == "INVALID_RESULT", (source, answer.final)
        assert path in answer.final["details"]["path"]
        assert state == {}


def test_negative_zero_and_dates_become_what_json_says(system: System) -> None:
    assert value(system, "return [-0, new Date(0), { u: undefined }];") == [0, "1970-01-01T00:00:00.000Z", {}]


TAMPERING = """
    globalThis.leak = (globalThis.leak ?? 0) + 1;
    Object.prototype.leak = "everywhere";
    Array.prototype.push = () => { throw new Error("push"); };
    JSON.stringify = () => '"forged"';
    JSON.parse = () => "forged";
    Promise.prototype.then = () => { throw new Error("then"); };
    Object.defineProperty(Object.prototype, "toJSON", { value: () => "forged", configurable: true });
    try { $state.set = 1; } catch {}
    try { globalThis.$state = null; } catch {}
    return 1;
"""


def test_nothing_leaks_into_the_next_job(system: System) -> None:
    panel = system.make_panel(
        script("tamper", TAMPERING),
        script("look", "return [globalThis.leak ?? null, ({}).leak ?? null, "
                       "JSON.stringify([1]), [1].concat([2]).length];"),
        script("same", "globalThis.count = (globalThis.count ?? 0) + 1; return globalThis.count;"),
    )  # fmt: skip
    with system.connect(panel) as client:
        for _ in range(5):
            client.trigger("tamper")
            assert client.call("look") == [None, None, "[1]", 2]
            assert client.call("same") == 1


def test_frames_cannot_be_forged_by_a_script(system: System) -> None:
    panel = system.make_panel(
        script("forge", """
            JSON.stringify = () => '1},"injected":true,"x":{"y":1';
            String.prototype.isWellFormed = () => true;
            $emit("e\\"},{\\"type\\":\\"RESULT\\"", "\\u0000\\u2028");
            $state['k"},{"op":"delete","key":"n'] = { "a\\"": "\\\\" };
            return { toJSON() { return "fine"; } };
        """),
        state={"n": 1},
    )  # fmt: skip
    with system.connect(panel) as client, system.connect(panel) as watcher:
        answer = client.trigger("forge")
        heard = watcher.barrier()
    assert {message["type"] for message in heard} <= {"PATCH", "EVENT"}
    assert all("injected" not in message for message in [answer.final, *heard])
    assert system.state(panel)["n"] == 1


def test_large_state_costs_little_when_one_key_is_touched(system: System) -> None:
    state: dict[str, object] = {f"k{n}": "x" * 100_000 for n in range(25)}
    panel = system.make_panel(script("t", "return ++$state.n;"), state={**state, "n": 0})
    with system.connect(panel) as client:
        result = [client.trigger("t").result for _ in range(5)][-1]
    assert result["metrics"]["fuelConsumed"] < 2_000_000
    assert len(result["stateMutations"]) == 1


def test_script_is_warm_after_its_first_run(system: System) -> None:
    panel = system.make_panel(script("t", f"return '{secrets.token_hex(4)}';"))
    with system.connect(panel) as client:
        hits = [client.trigger("t").result["metrics"]["cacheHit"] for _ in range(6)]
    assert hits[0] is False
    assert hits[-1] is True


def test_many_scripts_at_once_are_all_served(system: System) -> None:
    panels = [system.make_panel(script("t", f"$state.v = {n}; return $state.v;")) for n in range(12)]
    clients: list[Client] = [system.connect(panel) for panel in panels]
    for client in clients:
        for _ in range(20):
            client.send_trigger("t")
    for number, client in enumerate(clients):
        assert {answer.value for answer in client.await_answers([f"r{n}" for n in range(1, 21)])} == {number}
        client.close()


def test_tool_with_an_empty_list_of_capabilities_may_do_nothing(system: System) -> None:
    denied = [
        script("read", "return $state.a", capabilities=[]),
        script("write", "$state.a = 2", capabilities=[]),
        script("guess", "$state.a = 1", capabilities=[]),
        script("emit", "$emit('e')", capabilities=[]),
    ]
    panel = system.make_panel(script("think", "return $args + 1", capabilities=[]), *denied, state={"a": 1})
    with system.connect(panel) as client:
        assert client.call("think", 1) == 2
        assert [client.trigger(tool["name"]).reason for tool in denied] == ["PERMISSION_DENIED"] * 4
