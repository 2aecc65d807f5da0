"""Types that are made of schemas: right for those of a panel, and safe for those of anybody."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_cli.declarations import Tool, python, tools_of, typescript

CARD: dict[str, Any] = {
    "type": "object",
    "required": ["title"],
    "properties": {
        "title": {"type": "string"},
        "column": {"enum": ["todo", "done"]},
        "a-b": {"type": ["integer", "null"]},
        "by": {"$ref": "#/$defs/person"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}
ADD = Tool("add", "Adds a card.", CARD, {"type": "string"})
PLAIN = Tool("plain.tool", "", None, None)


def test_typescript_has_arguments_and_value_of_each_tool() -> None:
    text = typescript("kanban", [ADD, PLAIN])
    assert (
        '  add: { args: { title: string; column?: "todo" | "done"; "a-b"?: number | null; by?: { name: string }; '
        "labels?: Array<string>; more?: { [key: string]: number } }; returns: string };"
    ) in text
    assert '  "plain.tool": { args: unknown; returns: unknown };' in text
    assert "  /** Adds a card. */" in text


def test_python_has_arguments_and_value_of_each_tool() -> None:
    text = python("kanban", [ADD, PLAIN])
    names: dict[str, Any] = {}
    exec(compile(text, "types", "exec"), names)  # that it can be is what is tested
    assert names["AddArgs"].__required_keys__ == {"title"}
    assert names["AddArgs"].__optional_keys__ == {"column", "a-b", "by", "labels", "more"}
    assert names["AddArgsBy"].__required_keys__ == {"name"}
    assert names["AddReturns"] is str
    assert names["PlainToolArgs"] is names["Any"]


@pytest.mark.parametrize(
    ("schema", "ts", "py"),
    [
        (True, "unknown", "Any"),
        ({}, "unknown", "Any"),
        ({"const": 5}, "5", "Literal[5]"),
        ({"enum": [True, None, "a"]}, 'true | null | "a"', "Literal[True, None, 'a']"),
        ({"enum": [1.5, {}]}, "unknown", "Any"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string | null", "str | None"),
        ({"oneOf": [{"type": "string"}, {}]}, "unknown", "Any"),
        ({"allOf": [{"type": "string"}]}, "string", "str"),
        ({"items": {"type": "boolean"}}, "Array<boolean>", "list[bool]"),
        ({"prefixItems": [{"type": "string"}], "items": False}, "[(string)?]", "list[Any]"),
        ({"additionalProperties": False}, "{ [key: string]: never }", "dict[str, Any]"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, "number", "int"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "unknown", "Any"),
        ({"$ref": "https://example.org"}, "unknown", "Any"),
    ],
)
def test_schema_becomes_a_type(schema: Any, ts: str, py: str) -> None:
    tool = Tool("t", "", schema, None)
    assert f"  t: {{ args: {ts}; returns: unknown }};" in typescript("p", [tool])
    assert f"TArgs = {py}\n" in python("p", [tool])


def test_schema_that_contains_itself_ends() -> None:
    schema = {"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"l": {"$ref": "#/$defs/tree"}, "r": {"$ref": "#/$defs/tree"}}}}}  # fmt: skip
    tool = Tool("t", "", schema, None)
    assert len(typescript("p", [tool])) < 200_000
    ast.parse(python("p", [tool]))


hostile = st.one_of(
    st.sampled_from(
        ["*/ evil()", '"""\nevil()', "a\nevil()", "\\", '"); evil(); ("', "class", "\u2028evil()", "1"]
    ),
    st.text(max_size=12),
)
schemas = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), hostile),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["type", "enum", "const", "properties", "required", "items", "anyOf", "$ref"]), hostile),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@given(hostile, hostile, hostile, schemas)
def test_nothing_of_a_definition_becomes_code(panel: str, name: str, description: str, schema: Any) -> None:
    tools = tools_of(
        {"tools": [{"name": name, "description": description, "args": schema, "returns": schema}]}
    )
    tree = ast.parse(python(panel, tools))
    allowed = {"TypedDict"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            assert node.func.id in allowed
    # the only comments are ours, and each ends where it is to
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', typescript(panel, tools))
    assert text.count("*/") == text.count("/**")
    assert all(line.isascii() or line.lstrip().startswith(("/**", "//")) for line in text.split("\n"))


TSC = shutil.which("tsc") or str(
    Path(__file__).parents[2] / "clients" / "typescript" / "node_modules" / ".bin" / "tsc"
)


@pytest.mark.skipif(not Path(TSC).exists(), reason="needs the TypeScript compiler of clients/typescript")
def test_typescript_compiles_and_checks_calls(tmp_path: Path) -> None:
    (tmp_path / "tools.ts").write_text(typescript("kanban", [ADD, PLAIN]))
    (tmp_path / "use.ts").write_text(
        'import type { Call } from "./tools.ts";\n'
        "declare const call: Call;\n"
        'const id: string = (await call("add", { title: "a", by: { name: "ann" } })).value;\n'
        "// @ts-expect-error: a title is missing\n"
        'await call("add", {});\n'
        "// @ts-expect-error: there is no such tool\n"
        'await call("remove", id);\n'
        "export {};\n"
    )
    flags = [
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
        "--allowImportingTsExtensions",
    ]
    done = subprocess.run([TSC, *flags, "use.ts"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


def test_types_are_printed(panels: Any, url: str, tmp_path: Path) -> None:
    folder = tmp_path / "typed"
    folder.mkdir()
    (folder / "panel.toml").write_text(
        'id = "typed"\nkind = "test"\n[tools.add]\nhandler = "add.js"\nargs = "add.json"\nreturns = { type = "string" }\n'
    )
    (folder / "add.js").write_text("return '';\n")
    (folder / "add.json").write_text(json.dumps(CARD))
    assert panels("apply", str(folder)).code == 0
    assert panels("apply", str(folder)).code == 0
    assert "returns: string" in panels("types", "typed").out
    assert "AddReturns = str" in panels("types", "typed", "--language", "python").out
    refused = panels("call", "typed", "add", '{"title": 5}')
    assert refused.code == 1
    assert "INVALID_ARGUMENTS" in refused.err
