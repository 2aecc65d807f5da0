"""Schemas of tools: what is taken, what arguments they refuse, and that none is a way to harm the gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.panels import schema as module
from panels_gateway.panels.schema import (
    MAX_OVERLAPS,
    MAX_PATTERN_CHARS,
    MAX_PROBLEM_CHARS,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    Schema,
    SchemaError,
    read,
)
from panels_shared.errors import Code, RequestError

CARD: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A card",
    "type": "object",
    "required": ["title"],
    "additionalProperties": False,
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 200},
        "column": {"enum": ["todo", "done"], "default": "todo"},
        "labels": {"type": "array", "items": {"$ref": "#/$defs/label"}, "uniqueItems": True, "maxItems": 3},
    },
    "$defs": {"label": {"type": "string", "pattern": "^[a-z]+$", "description": "lower case"}},
}


def refusal(schema: object, value: object) -> RequestError | None:
    try:
        Schema(read(schema)).check(json.dumps(value).encode())
    except RequestError as exc:
        assert exc.code is Code.INVALID_ARGUMENTS
        assert exc.details == {"path": exc.message.partition(": ")[0]}
        assert len(exc.message) <= 2 * MAX_PROBLEM_CHARS + 2
        return exc
    return None


def refused(schema: object) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        read(schema)
    return caught.value


@pytest.mark.parametrize(
    "value",
    [{"title": "a"}, {"title": "a", "column": "done"}, {"title": "ä" * 200, "labels": ["a", "b"]}],
)
def test_arguments_that_match_are_taken(value: object) -> None:
    assert refusal(CARD, value) is None


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (None, "args"),
        ({}, "args"),
        ({"title": ""}, "args.title"),
        ({"title": "a" * 201}, "args.title"),
        ({"title": 5}, "args.title"),
        ({"title": "a", "more": 1}, "args"),
        ({"title": "a", "column": "doing"}, "args.column"),
        ({"title": "a", "labels": ["a", "B"]}, "args.labels[1]"),
        ({"title": "a", "labels": ["a", "a"]}, "args.labels"),
    ],
)
def test_arguments_that_do_not_match_are_refused_with_their_place(value: object, path: str) -> None:
    found = refusal(CARD, value)
    assert found is not None
    assert found.details == {"path": path}


def test_values_are_not_quoted() -> None:
    found = refusal({"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": "secret" * 1_000})
    assert found is not None
    assert "secret" not in found.message


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"require": ["a"]}, "require"),
        ({"properties": {"a": {"typ": "string"}}}, "properties.a.typ"),
        ({"properties": []}, "properties"),
        ({"items": [{"type": "string"}]}, "items"),
        ({"allOf": []}, "allOf"),
        ({"anyOf": {"type": "string"}}, "anyOf"),
        ({"minLength": -1}, "minLength"),
        ({"minLength": 1.5}, "minLength"),
        ({"minLength": True}, "minLength"),
        ({"maximum": "5"}, "maximum"),
        ({"pattern": "x" * (MAX_PATTERN_CHARS + 1)}, "pattern"),
        ({"patternProperties": {"x" * (MAX_PATTERN_CHARS + 1): True}}, "patternProperties"),
        ({"$schema": "https://example.org/mine"}, "$schema"),
        ({"$id": "https://example.org/mine"}, "$id"),
        ({"properties": {"a": {"$id": "b"}}}, "properties.a.$id"),
        ({"$dynamicRef": "#a"}, "$dynamicRef"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$ref": "https://example.org/schema"}, "$ref"),
        ({"$ref": "file:///etc/passwd"}, "$ref"),
        ({"$ref": "#"}, "$ref"),
        ({"$ref": ""}, "$ref"),
        ({"$ref": 5}, "$ref"),
        ({"$ref": "#/$defs/missing"}, "$ref"),
        ({"$ref": "#/properties/a", "properties": {"a": True}}, "$ref"),
        (
            {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
            "$defs.a.items.$ref",
        ),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"not": {"$ref": "#/$defs/a"}}},
            },
            "$defs.b.not.$ref",
        ),
        ({"type": "strin"}, ""),
        ({"type": 5}, ""),
        ({"pattern": "("}, ""),
        ({"pattern": "(?=a)b"}, ""),
        ({"pattern": r"(a)\1"}, ""),
        ({"multipleOf": 0}, ""),
        ({"required": "a"}, "required"),
        ({"required": [1]}, ""),
        ({"title": "x" * MAX_SCHEMA_BYTES}, ""),
    ],
)
def test_schema_that_is_not_taken_says_where(schema: object, path: str) -> None:
    assert refused(schema).path == path


def test_definitions_are_put_in_place_beside_other_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/short", "minLength": 1},
            "b": {"allOf": [{"$ref": "#/$defs/short"}], "$ref": "#/$defs/upper"},
        },
        "$defs": {"short": {"type": "string", "maxLength": 2}, "upper": {"pattern": "^[A-Z]*$"}},
    }
    assert refusal(schema, {"a": "x", "b": "AB"}) is None
    for value in ({"a": ""}, {"a": "xyz"}, {"b": "ab"}, {"b": "ABC"}):
        assert refusal(schema, value) is not None, value


def test_nothing_is_fetched() -> None:
    """A reference that survived in a schema would make the library ask the network."""
    tree = module._Tree(CARD)
    assert "$ref" not in json.dumps(tree.resolved())


# -- what would cost ---------------------------------------------------------------------------------


def test_references_that_double_are_bounded() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, 20):
        inner = {"$ref": f"#/$defs/d{number - 1}"}
        definitions[f"d{number}"] = {"properties": {"a": inner, "b": inner}}
    assert "at most" in refused({"$ref": "#/$defs/d19", "$defs": definitions}).problem


def test_depth_and_overlaps_are_bounded() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        deep = {"items": deep}
    assert "deep" in refused(deep).problem
    assert "beside" in refused({"anyOf": [{"minimum": n} for n in range(MAX_OVERLAPS + 1)]}).problem


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        pytest.param({"pattern": "^(a+)+$"}, "a" * 5_000 + "!", id="a pattern that backtracks"),
        pytest.param({"pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"}, "a" * 5_000, id="another"),
        pytest.param({"pattern": "(x{1,50}){1,50}y"}, "x" * 5_000, id="repeated repetition"),
        pytest.param({"items": {"enum": list(range(3_000))}}, [9_999] * 4_000, id="a long enum"),
        pytest.param({"uniqueItems": True}, list(range(20_000)), id="items that differ"),
        pytest.param({"uniqueItems": True}, [[n] for n in range(20_000)], id="lists that differ"),
        pytest.param(
            {"anyOf": [{"items": {"anyOf": [{"minimum": n + 1}]}} for n in range(30)]},
            [0] * 20_000,
            id="overlaps",
        ),
        pytest.param({"multipleOf": 1e-300}, 1e300, id="a fraction"),
        pytest.param({"maxLength": 1}, "\U0001f600" * 20_000, id="characters"),
    ],
)
def test_check_ends_soon_or_is_refused(schema: object, value: object) -> None:
    """What would take a backtracking or quadratic checker longer than a test may."""
    try:
        checker = Schema(read(schema))
    except SchemaError:
        return
    try:
        checker.check(json.dumps(value).encode())
    except RequestError as exc:
        assert exc.code is Code.INVALID_ARGUMENTS


def test_arguments_too_large_for_their_schema_are_refused_unread() -> None:
    checker = Schema(read({"items": {"enum": list(range(2_000))}}))
    with pytest.raises(RequestError, match="costs too much"):
        checker.check(b"[" + b"1," * 200_000 + b"1]")


keywords = st.sampled_from(
    ["type", "properties", "items", "anyOf", "allOf", "not", "$ref", "$defs", "enum", "const", "pattern", "required",
     "minimum", "if", "then", "prefixItems", "contains", "minContains", "dependentRequired", "propertyNames", "format"]
)  # fmt: skip
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=8),
        st.sampled_from(["string", "object", "#/$defs/a", "#", "(a", "a*"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(keywords, st.text(max_size=3)), inner, max_size=4)
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(keywords, values, max_size=5), values)
def test_hostile_schema_is_refused_or_judges_any_value(schema: dict[str, object], value: object) -> None:
    try:
        text = read(schema)
    except SchemaError as exc:
        assert exc.problem
        return
    try:
        Schema(text).check(json.dumps(value).encode())
    except RequestError as exc:
        assert exc.code is Code.INVALID_ARGUMENTS
