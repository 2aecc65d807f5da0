"""JSON Schemas of tools: read from a definition within bounds, compiled once, and used to check arguments.

Whoever makes panels writes schemas, and they are checked in the gateway's own process, so nothing is left to
a schema that could cost more than its arguments do:

- The keywords are those of JSON Schema 2020-12 below, and no others. A misspelt ``require`` must not mean
  that nothing is required.
- ``$ref`` names a definition of the same schema and is put in its place here. What refers to itself is
  refused: a schema is a tree when it is compiled, and nothing is ever fetched.
- Patterns are matched in linear time.
- What checking may cost is known before it begins: ``MAX_STEPS`` bounds the size of the arguments times the
  most that the schema looks at in one place.

The library is jsonschema-rs: it is maintained, compiles, takes its patterns from an engine without
backtracking, and is some fifty times as fast as what is written in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

from panels_shared import jsonvalue
from panels_shared.errors import Code, PanelsError, RequestError
from panels_shared.limits import KIB, MIB

#: Security limits of one schema: bytes of JSON; schemas within it once references are resolved, and how deep
#: they are nested; characters of a pattern; how many schemas more than one may look at the same value.
MAX_SCHEMA_BYTES: Final = 16 * KIB
MAX_SCHEMAS: Final = 512
MAX_SCHEMA_DEPTH: Final = 24
MAX_PATTERN_CHARS: Final = 256
MAX_OVERLAPS: Final = 64
#: What checking arguments may cost, in looks at eight bytes of them; a security limit.
MAX_STEPS: Final = 4 * MIB
#: Up to so many, what does not match is told with its place.
MAX_EXPLAINED_STEPS: Final = 64 * KIB
#: What is told of a problem with arguments, in characters.
MAX_PROBLEM_CHARS: Final = 300

#: The versions of JSON Schema that a schema may name; what panels takes of them means the same in all.
_DIALECTS: Final = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
)
#: Keywords that say nothing about validity.
_ANNOTATIONS: Final = frozenset(
    (
        "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format",
        "$comment",
    )
)  # fmt: skip
_DEFINITIONS: Final = ("$defs", "definitions")
#: Keywords that hold a schema, a list of them, or an object of them.
_ONE: Final = frozenset(
    ("not", "if", "then", "else", "additionalProperties", "propertyNames", "items", "contains")
)
_LIST: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_MAP: Final = frozenset(("properties", "patternProperties"))
#: Those of them whose schemas look at a value beside another one.
_BESIDE: Final = frozenset(
    (
        "not", "if", "then", "else", "allOf", "anyOf", "oneOf", "contains", "patternProperties",
        "propertyNames",
    )
)  # fmt: skip
_COUNTS: Final = frozenset(
    f"{bound}{what}" for bound in ("min", "max") for what in ("Length", "Items", "Properties", "Contains")
)
_NUMBERS: Final = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_OTHERS: Final = frozenset(
    ("type", "enum", "const", "required", "dependentRequired", "uniqueItems", "pattern")
)

_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=MIB, dfa_size_limit=MIB)


class SchemaError(PanelsError):
    """A schema that is not taken. ``path`` is within it, like ``properties.title``; "" for the whole."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


class Schema:
    """One schema, by which values are checked. It is compiled when it is first needed."""

    __slots__ = ("_text", "_validator", "_weight")

    def __init__(self, text: bytes) -> None:
        """``text`` is JSON that ``read`` has returned, now or before a restart."""
        self._text = text
        self._validator: jsonschema_rs.Draft202012Validator | None = None
        self._weight = 1

    def check(self, args: bytes) -> None:
        """Raises ``RequestError`` INVALID_ARGUMENTS, whose details have the path of what does not match.

        ``args`` is valid JSON.
        """
        validator = self._validator
        if validator is None:
            try:
                validator = self._compile()
            except SchemaError as exc:
                raise _refusal("args", f"the tool's schema cannot be used any more: {exc.problem}") from None
        steps = self._weight * (len(args) // 8 + 1)
        if steps > MAX_STEPS:
            text = f"expected fewer bytes, got {len(args)}: checking them by the schema costs too much"
            raise _refusal("args", text)
        value = jsonvalue.decode(args)
        if validator.is_valid(value):
            return
        if steps > MAX_EXPLAINED_STEPS:
            raise _refusal("args", "expected what the tool's schema describes, got something else")
        # all problems are collected, with those of each branch of anyOf: far more work than to judge
        error = next(validator.iter_errors(value))
        path = "args" + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path
        )
        raise _refusal(path[:MAX_PROBLEM_CHARS], error.message)

    def _compile(self) -> jsonschema_rs.Draft202012Validator:
        tree = _Tree(jsonvalue.decode(self._text))
        schema = tree.resolved()
        try:
            # values are not quoted: they may be large, and messages are logged
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, validate_formats=False, pattern_options=_PATTERNS, mask="the value"
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as exc:
            problem = getattr(exc, "message", None) or str(exc)
            raise SchemaError("", f"expected a JSON Schema: {problem[:MAX_PROBLEM_CHARS]}") from None
        self._weight = tree.weight
        return self._validator


def read(value: object) -> bytes:
    """The JSON text of a schema, ``value`` in a definition, that may be kept and given to ``Schema``.

    Raises ``SchemaError``.
    """
    text = jsonvalue.encode(value)
    if len(text) > MAX_SCHEMA_BYTES:
        raise SchemaError("", f"expected at most {MAX_SCHEMA_BYTES} bytes, got {len(text)}")
    Schema(text)._compile()
    return text


def _refusal(path: str, problem: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENTS, f"{path}: {problem[:MAX_PROBLEM_CHARS]}", {"path": path})


class _Tree:
    """A schema whose references are resolved."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._schemas = 0
        self._overlaps = 0
        self._heaviest = 1
        #: names of the definitions that are being put in place, outermost first
        self._open: list[str] = []

    @property
    def weight(self) -> int:
        """The most that is looked at for one value, once the schema is resolved."""
        return (1 + self._overlaps) * self._heaviest

    def resolved(self) -> dict[str, Any] | bool:
        """The schema without references, definitions and annotations. Raises ``SchemaError``."""
        return self._schema(self._root, "", 0)

    def _schema(self, schema: object, path: str, depth: int) -> dict[str, Any] | bool:
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise SchemaError(path, f"expected at most {MAX_SCHEMAS} schemas within one, got more")
        if depth > MAX_SCHEMA_DEPTH:
            raise SchemaError(path, f"expected schemas nested at most {MAX_SCHEMA_DEPTH} deep, got more")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaError(path, "expected a schema: an object, true or false")
        made: dict[str, Any] = {}
        weight = 1
        for name, value in schema.items():
            where = f"{path}.{name}" if path else name
            if name in _ANNOTATIONS or (name in _DEFINITIONS and not path):
                continue
            if name == "$schema" and not path:
                if not isinstance(value, str) or value.rstrip("#") not in _DIALECTS:
                    raise SchemaError(where, f"expected {_DIALECTS[0]} or none")
            elif name == "$ref":
                # beside others it is one more that has to match
                beside = made.setdefault("allOf", [])
                assert isinstance(beside, list)
                self._overlap(where)
                beside.append(self._definition(value, where, depth))
            elif name in _ONE or name in _LIST or name in _MAP:
                found = self._within(name, value, where, depth)
                if name == "allOf" and "allOf" in made:
                    assert isinstance(found, list)
                    found = [*_list(made["allOf"]), *found]
                made[name] = found
            else:
                weight += _checked(name, value, where)
                made[name] = value
        self._heaviest = max(self._heaviest, weight)
        return made

    def _within(self, name: str, value: object, where: str, depth: int) -> object:
        if name in _ONE:
            if name in _BESIDE:
                self._overlap(where)
            return self._schema(value, where, depth + 1)
        if name in _LIST:
            if not isinstance(value, list) or not value:
                raise SchemaError(where, "expected a list of at least one schema")
            for _ in value if name in _BESIDE else ():
                self._overlap(where)
            return [self._schema(one, f"{where}[{number}]", depth + 1) for number, one in enumerate(value)]
        if not isinstance(value, dict):
            raise SchemaError(where, "expected an object of schemas")
        for key in value if name in _BESIDE else ():
            self._overlap(where)
            self._heaviest = max(self._heaviest, _pattern(key, where))
        return {key: self._schema(one, f"{where}.{key}", depth + 1) for key, one in value.items()}

    def _overlap(self, where: str) -> None:
        self._overlaps += 1
        if self._overlaps > MAX_OVERLAPS:
            text = f"expected at most {MAX_OVERLAPS} schemas that look at values beside others, got more"
            raise SchemaError(where, text)

    def _definition(self, reference: object, where: str, depth: int) -> object:
        parts = reference.split("/") if isinstance(reference, str) else []
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in _DEFINITIONS:
            raise SchemaError(where, 'expected a definition of the same schema, like "#/$defs/name"')
        name = parts[2].replace("~1", "/").replace("~0", "~")
        root = self._root if isinstance(self._root, dict) else {}
        definitions = root.get(parts[1])
        if not isinstance(definitions, Mapping) or name not in definitions:
            raise SchemaError(where, f"expected a definition that is there, got {name[:80]}")
        full = f"{parts[1]}.{name}"
        if full in self._open:
            text = f"expected a definition that does not contain itself, got {name[:80]}"
            raise SchemaError(where, text)
        self._open.append(full)
        try:
            return self._schema(definitions[name], full, depth + 1)
        finally:
            self._open.pop()


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _pattern(value: object, where: str) -> int:
    if not isinstance(value, str) or len(value) > MAX_PATTERN_CHARS:
        raise SchemaError(where, f"expected a pattern of at most {MAX_PATTERN_CHARS} characters")
    return 1 + len(value)


def _checked(name: str, value: Any, where: str) -> int:
    """Whether the keyword holds what it may, as far as the library does not say so; what it weighs."""
    if name in _COUNTS:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
            raise SchemaError(where, "expected a whole number from 0")
    elif name in _NUMBERS:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise SchemaError(where, "expected a number")
    elif name == "pattern":
        return _pattern(value, where)
    elif name in ("enum", "required"):
        if not isinstance(value, list):
            raise SchemaError(where, "expected a list")
        return len(jsonvalue.encode(value)) // 8
    elif name == "uniqueItems":
        return 8
    elif name in ("const", "dependentRequired"):
        return len(jsonvalue.encode(value)) // 8
    elif name not in _OTHERS:
        raise SchemaError(where, "expected a keyword of JSON Schema that panels knows")
    return 1
