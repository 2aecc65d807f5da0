"""Panel definitions: what is accepted, and the path that each refusal names."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.panels.definition import Manual, PanelDefinition, trigger_name
from panels_gateway.panels.definition_body import MAX_ELEMENTS, DefinitionLimits, parse
from panels_gateway.panels.quota import Quota
from panels_shared.errors import Code, RequestError
from panels_shared.handlers import DEFAULT_CAPABILITIES, MAX_SCRIPT_BYTES, handler_digest
from panels_shared.limits import DEFAULT_LIMITS, Limits
from panels_shared.names import is_name
from panels_shared.script_modules import decompose

LIMITS = DefinitionLimits(tools=3, state_bytes=1_000, state_keys=4)


def build(body: object, limits: DefinitionLimits = LIMITS, required_id: str | None = None) -> PanelDefinition:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse(text, limits, default_id="made-up", required_id=required_id)


def refusal(body: object, limits: DefinitionLimits = LIMITS, required_id: str | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        build(body, limits, required_id)
    return caught.value


def path_of(error: RequestError) -> object:
    assert error.code is Code.INVALID_REQUEST
    assert error.details is not None
    return error.details["path"]


def with_tool(**fields: Any) -> dict[str, Any]:
    return {"kind": "k", "tools": [{"name": "t", "handler": "return 1", **fields}]}


def test_handler_has_the_modules_that_it_imports_in_it() -> None:
    modules: dict[str, str] = {"a.js": "import './b.js'", "b.js": "1", "c.js": "2"}
    uses, does_not = "import './a.js'; export default () => 1", "return 1"
    tools = [{"name": "uses", "handler": uses}, {"name": "does_not", "handler": does_not}]
    made = build({"kind": "k", "tools": tools, "modules": modules})
    handlers = {tool.name: tool.handler for tool in made.tools}
    assert decompose(handlers["uses"].source) == (
        uses.encode(),
        (("b.js", b"1"), ("a.js", b"import './b.js'")),
    )
    assert handlers["does_not"] == build(with_tool(handler=does_not)).tools[0].handler
    assert made.modules == {name: sha256(text.encode()).hexdigest() for name, text in modules.items()}
    other = build({"kind": "k", "tools": tools, "modules": modules | {"b.js": "3"}})
    assert other.tools[0].handler.digest != made.tools[0].handler.digest
    assert other.tools[1].handler.digest == made.tools[1].handler.digest


def test_definition_takes_a_whole_body() -> None:
    made = build(
        {
            "id": "p.1",
            "kind": "todo",
            "title": "A list",
            "metadata": {"a": [1]},
            "capabilities": ["ext:http"],
            "initialState": {"n": 0, "deep": {"x": [1.5, None]}},
            "tools": [
                {
                    "name": "inc",
                    "handler": "$state.n++",
                    "trigger": {"type": "manual"},
                    "description": "Counts",
                },
                {
                    "name": "w",
                    "handler": {
                        "language": "wasm",
                        "source": base64.b64encode(b"\0asm").decode(),
                        "entry": "go",
                    },
                    "capabilities": ["state:read:*", "state:read:*"],
                    "limits": {"fuel": 7, "timeoutMs": 8, "memoryBytes": 65_536},
                },
            ],
        }
    )
    assert (made.id, made.kind, made.title, made.metadata) == ("p.1", "todo", "A list", b'{"a":[1]}')
    assert made.initial_state == {"n": b"0", "deep": b'{"x":[1.5,null]}'}
    inc, module = made.tools
    assert (inc.handler.language, inc.handler.source, inc.trigger) == ("javascript", b"$state.n++", Manual())
    assert inc.capabilities == ("ext:http",)
    assert inc.limits == DEFAULT_LIMITS
    assert (module.handler.entry, module.handler.source) == ("go", b"\0asm")
    assert module.handler.digest == handler_digest("wasm", "go", b"\0asm")
    assert module.capabilities == ("state:read:*",)
    assert (module.limits.fuel, module.limits.deadline_ms, module.limits.memory_bytes) == (7, 8, 65_536)
    assert module.limits.events == DEFAULT_LIMITS.events


def test_definition_takes_quotas_of_the_panel_and_of_a_tool() -> None:
    body = with_tool(quota={"fuel": 5, "windowS": 2.5})
    made = build({**body, "quota": {"timeMs": 7}})
    assert made.quotas == {"t": Quota(fuel=5, window_s=2.5), "": Quota(time_ms=7, window_s=60.0)}
    assert build(with_tool()).quotas == {}


@pytest.mark.parametrize(
    ("quota", "path"),
    [
        ({}, "tools[0].quota"),
        ({"fuel": 0}, "tools[0].quota.fuel"),
        ({"timeMs": 10**16}, "tools[0].quota.timeMs"),
        ({"fuel": 1, "windowS": 0}, "tools[0].quota.windowS"),
        ({"fuel": 1, "windowS": 86_401}, "tools[0].quota.windowS"),
    ],
)
def test_definition_refuses_a_quota_that_makes_no_sense(quota: dict[str, object], path: str) -> None:
    assert path_of(refusal(with_tool(quota=quota))) == path


def test_definition_takes_the_given_id_when_it_names_none() -> None:
    assert build({"kind": "k"}).id == "made-up"
    assert build({"kind": "k"}, required_id="there").id == "there"


def test_definition_keeps_no_state_apart_from_an_empty_one() -> None:
    assert build({"kind": "k"}).initial_state is None
    assert build({"kind": "k", "initialState": {}}).initial_state == {}


def test_definition_writes_state_without_white_space_or_duplicate_keys() -> None:
    made = build(b'{"kind":"k","initialState":{"a": {"x" : 1, "x": 2} }}')
    assert made.initial_state == {"a": b'{"x":2}'}


def test_tool_without_a_list_anywhere_gets_the_default() -> None:
    assert build(with_tool()).tools[0].capabilities == DEFAULT_CAPABILITIES
    assert build({**with_tool(), "capabilities": []}).tools[0].capabilities == ()


def test_definition_prefers_a_tools_own_empty_list_to_its_panels_capabilities() -> None:
    made = build({**with_tool(capabilities=[]), "capabilities": ["ext:http"]})
    assert made.tools[0].capabilities == ()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"{", ""),
        (b"\xff", ""),
        (b'{"kind":"\\ud800"}', ""),
        (b'{"kind":NaN}', ""),
        ([], ""),
        ({}, "kind"),
        ({"kind": 1}, "kind"),
        ({"kind": ""}, "kind"),
        ({"kind": "k" * 129}, "kind"),
        ({"kind": "k", "knid": "k"}, "knid"),
        ({"kind": "k", "id": "a b"}, "id"),
        ({"kind": "k", "id": ""}, "id"),
        ({"kind": "k", "id": ".."}, "id"),
        ({"kind": "k", "id": "é"}, "id"),
        ({"kind": "k", "id": "x" * 129}, "id"),
        ({"kind": "k", "title": "t" * 257}, "title"),
        ({"kind": "k", "metadata": {"m": "x" * 70_000}}, "metadata"),
        ({"kind": "k", "metadata": 1}, "metadata"),
        ({"kind": "k", "initialState": []}, "initialState"),
        ({"kind": "k", "initialState": dict.fromkeys("abcde", 0)}, "initialState"),
        ({"kind": "k", "initialState": {"é" * 129: 0}}, "initialState"),
        ({"kind": "k", "initialState": {"a": "x" * 1_000}}, "initialState"),
        ({"kind": "k", "capabilities": ["state:read:*", "fs:read:*"]}, "capabilities[1]"),
        ({"kind": "k", "capabilities": ["state:read:"]}, "capabilities[0]"),
        ({"kind": "k", "capabilities": ["state:read:a*b"]}, "capabilities[0]"),
        ({"kind": "k", "capabilities": ["ext:x"] * 65}, "capabilities"),
        ({"kind": "k", "tools": {}}, "tools"),
        ({"kind": "k", "tools": [{"name": str(n), "handler": "1"} for n in range(4)]}, "tools"),
        (
            {"kind": "k", "tools": [{"name": "a", "handler": "1"}, {"name": "a", "handler": "1"}]},
            "tools[1].name",
        ),
        ({"kind": "k", "tools": [{"handler": "1"}]}, "tools[0].name"),
        (with_tool(name="a/b"), "tools[0].name"),
        (with_tool(handler=None), "tools[0].handler"),
        (with_tool(handler=""), "tools[0].handler"),
        (with_tool(handler="x" * (MAX_SCRIPT_BYTES + 1)), "tools[0].handler"),
        (with_tool(handler={"language": "cobol", "source": "1"}), "tools[0].handler.language"),
        (with_tool(handler={"language": "javascript"}), "tools[0].handler.source"),
        (with_tool(handler={"language": "javascript", "source": ""}), "tools[0].handler.source"),
        (
            with_tool(handler={"language": "javascript", "source": "1", "entry": "x"}),
            "tools[0].handler.entry",
        ),
        (with_tool(handler={"language": "wat", "source": "(module)", "entry": ""}), "tools[0].handler.entry"),
        (with_tool(handler={"language": "wasm", "source": "a"}), "tools[0].handler.source"),
        (with_tool(handler={"language": "wasm", "source": "AGFz bQ=="}), "tools[0].handler.source"),
        (with_tool(handler={"language": "wasm", "source": "A" * 3_000_000}), "tools[0].handler.source"),
        (with_tool(handler="return '\0'"), "tools[0].handler"),
        ({**with_tool(), "modules": []}, "modules"),
        ({**with_tool(), "modules": {"a": "1"}}, "modules"),
        ({**with_tool(), "modules": {f"m{n}.js": "1" for n in range(33)}}, "modules"),
        ({**with_tool(), "modules": {"a.js": ""}}, "modules.a.js"),
        ({**with_tool(), "modules": {"a.js": "\0"}}, "modules.a.js"),
        ({**with_tool(), "modules": {"a.js": "1" * (MAX_SCRIPT_BYTES + 1)}}, "modules.a.js"),
        ({**with_tool(handler="import './a.js'"), "modules": {"a.js": "import './a.js'"}}, "modules.a.js"),
        ({**with_tool(handler="import './a.ts'"), "modules": {"a.ts": "1"}}, "tools[0].handler"),
        (
            {**with_tool(handler="import './a.js'"), "modules": {"a.js": "1" * MAX_SCRIPT_BYTES}},
            "tools[0].handler",
        ),
        (with_tool(limits={"fuel": 0}), "tools[0].limits.fuel"),
        (with_tool(limits={"fuel": True}), "tools[0].limits.fuel"),
        (with_tool(limits={"fuel": 10**10 + 1}), "tools[0].limits.fuel"),
        (with_tool(limits={"timeoutMs": 30_001}), "tools[0].limits.timeoutMs"),
        (with_tool(limits={"memoryBytes": 65_535}), "tools[0].limits.memoryBytes"),
        (with_tool(limits={"timeout": 1}), "tools[0].limits.timeout"),
        (with_tool(description="d" * 1_025), "tools[0].description"),
        (with_tool(capabilities=["ext:"]), "tools[0].capabilities[0]"),
        (with_tool(trigger={}), "tools[0].trigger.type"),
        (with_tool(trigger={"type": "often"}), "tools[0].trigger.type"),
        (with_tool(trigger={"type": "manual", "ms": 1}), "tools[0].trigger.ms"),
        (with_tool(trigger={"type": "interval", "ms": 99}), "tools[0].trigger.ms"),
        (with_tool(trigger={"type": "cron", "expression": "* * *"}), "tools[0].trigger.expression"),
        (with_tool(trigger={"type": "event", "pattern": ""}), "tools[0].trigger.pattern"),
        (with_tool(trigger={"type": "state_change"}), "tools[0].trigger.path"),
    ],
)
def test_definition_names_the_bad_field(body: object, path: str) -> None:
    assert path_of(refusal(body)) == path


@pytest.mark.parametrize(
    ("trigger", "name"),
    [
        ({"type": "interval", "ms": 1_000}, "interval"),
        ({"type": "interval", "ms": 1_000, "misfire": "all"}, "interval"),
        ({"type": "cron", "expression": "0 * * * *"}, "cron"),
        ({"type": "cron", "expression": "0 9 * * 1-5", "timezone": "Europe/Berlin"}, "cron"),
        ({"type": "event", "pattern": "done*"}, "event"),
        ({"type": "state_change", "path": "todos"}, "state_change"),
        ({"type": "mount"}, "mount"),
        ({"type": "unmount"}, "unmount"),
    ],
)
def test_definition_takes_a_trigger_that_fires_by_itself(trigger: dict[str, object], name: str) -> None:
    (tool,) = build(with_tool(trigger=trigger, exclusive=True)).tools
    assert trigger_name(tool.trigger) == name
    assert tool.exclusive


@pytest.mark.parametrize(
    ("trigger", "path"),
    [
        ({"type": "interval", "ms": 10**12}, "tools[0].trigger.ms"),
        ({"type": "interval", "ms": 1_000, "misfire": "later"}, "tools[0].trigger.misfire"),
        ({"type": "cron", "expression": "61 * * * *"}, "tools[0].trigger.expression"),
        ({"type": "cron", "expression": "0 0 31 2 *"}, "tools[0].trigger.expression"),
        ({"type": "cron", "expression": "0 * * * *", "timezone": "Mars/Base"}, "tools[0].trigger.timezone"),
        ({"type": "cron", "expression": "0 * * * *", "timezone": "../etc"}, "tools[0].trigger.timezone"),
        ({"type": "cron", "expression": "0 * * * *", "timezone": ""}, "tools[0].trigger.timezone"),
        ({"type": "mount", "ms": 1}, "tools[0].trigger.ms"),
    ],
)
def test_definition_refuses_times_that_make_no_sense(trigger: dict[str, object], path: str) -> None:
    assert path_of(refusal(with_tool(trigger=trigger))) == path


def test_definition_refuses_another_id_than_the_paths() -> None:
    assert path_of(refusal({"kind": "k", "id": "other"}, required_id="there")) == "id"
    assert build({"kind": "k", "id": "there"}, required_id="there").id == "there"


def test_definition_refuses_a_body_above_its_limit_before_it_looks_inside() -> None:
    assert refusal(b"x" * 101, DefinitionLimits(body_bytes=100)).code is Code.TOO_LARGE


def test_definition_refuses_more_elements_than_are_worth_decoding() -> None:
    body = b'{"kind":"k","metadata":{"a":[' + b"{}," * MAX_ELEMENTS + b"1]}}"
    assert path_of(refusal(body)) == ""


def test_definition_refuses_deep_nesting() -> None:
    assert path_of(refusal(b'{"kind":"k","metadata":{"a":' + b"[" * 70 + b"]" * 70 + b"}}")) == ""
    assert path_of(refusal(b"[" * 100_000)) == ""


def test_definition_shortens_what_it_quotes() -> None:
    error = refusal(with_tool(handler={"language": "x" * 100_000, "source": "1"}))
    assert len(error.message) < 1_000


def test_definition_lowers_defaults_to_the_maxima() -> None:
    made = build(with_tool(), DefinitionLimits(maxima=Limits(fuel=5)))
    assert made.tools[0].limits.fuel == 5


@given(st.text(max_size=200))
def test_name_is_what_a_path_segment_can_carry_unchanged(text: str) -> None:
    if is_name(text):
        assert text.isascii()
        assert not set(text) & set("/?#% ")
        assert text not in ("", ".", "..")


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_fields = ["kind", "id", "tools", "title", "initialState", "capabilities", "metadata"]
_tools = st.lists(
    st.dictionaries(
        st.sampled_from(["name", "handler", "trigger", "limits", "capabilities", "x"]), _json, max_size=6
    ),
    max_size=2,
)


@given(st.dictionaries(st.sampled_from(_fields), _json | _tools, max_size=7))
def test_definition_is_made_or_refused_whatever_comes(body: dict[str, object]) -> None:
    try:
        made = build(body)
    except RequestError as error:
        assert error.code is Code.INVALID_REQUEST
    else:
        assert is_name(made.id)


@given(st.binary(max_size=60))
def test_definition_refuses_bytes_that_are_no_definition(body: bytes) -> None:
    with pytest.raises(RequestError):
        build(body)
