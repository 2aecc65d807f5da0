"""Types of a panel's tools, in TypeScript and Python, from the JSON Schemas in its definition. Pure.

Whoever made the panel wrote names, descriptions and schemas, and the text that is made here is compiled:
names are quoted or made into identifiers, and nothing of them leaves a comment or a string. A schema is
followed ``MAX_DEPTH`` deep; what is deeper, or is not understood, may be anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MAX_DEPTH: Final = 24
#: Types within the types of one tool; what comes after them may be anything.
MAX_TYPES: Final = 1_024

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PYTHON_SCALARS: Final = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
}
_TS_SCALARS: Final = {
    "string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool's name, what is said of it, and its schemas; None where there is none."""

    name: str
    description: str
    args: Any
    returns: Any


def tools_of(shown: Mapping[str, Any]) -> list[Tool]:
    """The tools of a panel as the gateway shows it."""
    return [
        Tool(
            str(tool.get("name", "")),
            str(tool.get("description") or ""),
            tool.get("args"),
            tool.get("returns"),
        )
        for tool in shown.get("tools", ())
    ]


def typescript(panel: str, tools: Sequence[Tool]) -> str:
    """A module that exports ``Tools``: the arguments and the value of each tool, by its name."""
    lines = [
        f"// Types of the tools of the panel {_comment(panel)}, made by `panels types`. Do not edit them.",
        "",
        "export interface Tools {",
    ]
    for tool in tools:
        if tool.description:
            lines.append(f"  /** {_comment(tool.description)} */")
        args, returns = (_TypeScript(schema).text(schema) for schema in (tool.args, tool.returns))
        lines.append(f"  {_key(tool.name)}: {{ args: {args}; returns: {returns} }};")
    lines += [
        "}",
        "",
        "/** `panel.call` with these types: `const call = panel.call.bind(panel) as Call;` */",
        "export type Call = <Name extends keyof Tools>(",
        '  tool: Name, args: Tools[Name]["args"], options?: object,',
        ') => Promise<{ readonly value: Tools[Name]["returns"]; readonly seq: number }>;',
    ]
    return "\n".join(lines) + "\n"


def python(panel: str, tools: Sequence[Tool]) -> str:
    """A module with two names for each tool: of its arguments and of its value."""
    body: list[str] = []
    taken: set[str] = set()
    for tool in tools:
        base = _camel(tool.name, taken)
        body.append("")
        body.append(f"# {_comment(tool.name)}{': ' if tool.description else ''}{_comment(tool.description)}")
        for suffix, schema in (("Args", tool.args), ("Returns", tool.returns)):
            name = _camel(base + suffix, taken)
            made = _Python(schema, taken)
            alias = made.text(schema, name)
            body += made.classes
            if alias != name:
                body.append(f"{name} = {alias}")
    head = [
        f'"""Types of the tools of the panel {_comment(panel)}, made by `panels types`. Do not edit them."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any, Literal, NotRequired, TypedDict",
    ]
    return "\n".join([*head, *body]) + "\n"


# -- what both have in common ------------------------------------------------------------------------


@dataclass(slots=True)
class _Schemas:
    """One schema, its definitions, and how much of it has been followed."""

    root: Any
    types: int = field(default=0, init=False)

    def resolved(self, schema: Any) -> Any:
        """What ``schema`` refers to, or itself."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
                return schema
            parts = schema["$ref"].split("/")
            found: Any = self.root
            for part in parts[1:] if parts[0] == "#" else ("",):
                found = (
                    found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
                )
            schema = found
        return None

    def exhausted(self, depth: int) -> bool:
        """Whether nothing more is followed; counts one type."""
        self.types += 1
        return depth > MAX_DEPTH or self.types > MAX_TYPES


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """The types that a schema names, or the one that its keywords are about."""
    kind = schema.get("type")
    if isinstance(kind, str):
        return [kind]
    if isinstance(kind, list):
        return [one for one in kind if isinstance(one, str)]
    if any(name in schema for name in ("properties", "required", "additionalProperties")):
        return ["object"]
    if any(name in schema for name in ("items", "prefixItems")):
        return ["array"]
    return []


def _literals(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found = schema.get("enum")
    return found if isinstance(found, list) else None


def _variants(schema: Mapping[str, Any]) -> list[Any] | None:
    for name in ("anyOf", "oneOf"):
        if isinstance(schema.get(name), list):
            return list(schema[name])
    return None


def _properties(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Name, schema and whether it is required, of each property."""
    properties, required = schema.get("properties"), schema.get("required")
    needed = (
        set(required) if isinstance(required, list) and all(isinstance(n, str) for n in required) else set()
    )
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        yield name, inner, name in needed


def _unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _comment(text: str) -> str:
    """One line that ends no comment and no string, whatever it is of."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line.replace("*/", "* /").replace("\\", "/").replace('"', "'")[:500]


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name)


def _camel(name: str, taken: set[str]) -> str:
    """An identifier that no other tool has."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    text = "".join(word[0].upper() + word[1:] for word in words) or "Tool"
    base = chosen = text if not text[0].isdigit() else f"Tool{text}"
    number = 2
    while chosen in taken:
        chosen, number = f"{base}{number}", number + 1
    taken.add(chosen)
    return chosen


# -- TypeScript --------------------------------------------------------------------------------------


class _TypeScript(_Schemas):
    """Types as TypeScript writes them, in place."""

    def text(self, schema: Any, depth: int = 0) -> str:
        schema = self.resolved(schema)
        if schema is False:
            return "never"
        if not isinstance(schema, dict) or self.exhausted(depth):
            return "unknown"
        if (literals := _literals(schema)) is not None:
            return self._union([json.dumps(value) if _is_scalar(value) else "unknown" for value in literals])
        if (variants := _variants(schema)) is not None:
            return self._union([self.text(one, depth + 1) for one in variants])
        if isinstance(schema.get("allOf"), list):
            own = {name: value for name, value in schema.items() if name != "allOf"}
            parts = [*schema["allOf"], *([own] if _kinds(own) else [])]
            found = [text for text in (self.text(one, depth + 1) for one in parts) if text != "unknown"]
            return " & ".join(f"({text})" if "|" in text else text for text in _unique(found)) or "unknown"
        return self._union([self._kind(kind, schema, depth) for kind in _kinds(schema)])

    def _kind(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "array":
            prefix = schema.get("prefixItems")
            rest = schema.get("items", True)
            if isinstance(prefix, list):
                items = [f"({self.text(one, depth + 1)})?" for one in prefix]
                more = "" if rest is False else f", ...({self.text(rest, depth + 1)})[]"
                return f"[{', '.join(items)}{more}]" if items else f"({self.text(rest, depth + 1)})[]"
            return f"Array<{self.text(rest, depth + 1)}>"
        if kind == "object":
            found = [
                f"{_key(name)}{'' if needed else '?'}: {self.text(inner, depth + 1)}"
                for name, inner, needed in _properties(schema)
            ]
            if found:
                return "{ " + "; ".join(found) + " }"
            more = schema.get("additionalProperties", True)
            return f"{{ [key: string]: {self.text(more, depth + 1)} }}"
        return _TS_SCALARS.get(kind, "unknown")

    def _union(self, texts: Sequence[str]) -> str:
        found = _unique(texts)
        return "unknown" if not found or "unknown" in found else " | ".join(found)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


# -- Python ------------------------------------------------------------------------------------------


class _Python(_Schemas):
    """Types as Python writes them; an object with properties is a ``TypedDict`` in ``classes``."""

    __slots__ = ("classes", "names")

    def __init__(self, root: Any, names: set[str]) -> None:
        """``names`` are those of the module, which others must not have."""
        super().__init__(root)
        self.classes: list[str] = []
        self.names = names

    def text(self, schema: Any, name: str, depth: int = 0) -> str:
        schema = self.resolved(schema)
        if not isinstance(schema, dict) or self.exhausted(depth):
            return "Any"
        if (literals := _literals(schema)) is not None:
            if not literals or not all(
                value is None or isinstance(value, bool | int | str) for value in literals
            ):
                return "Any"
            return f"Literal[{', '.join(ascii(value) for value in literals)}]"
        if (variants := _variants(schema)) is not None:
            found = [self.text(one, f"{name}{number}", depth + 1) for number, one in enumerate(variants, 1)]
            return self._union(found)
        if isinstance(schema.get("allOf"), list):
            own = {key: value for key, value in schema.items() if key != "allOf"}
            parts = [*schema["allOf"], *([own] if _kinds(own) else [])]
            return self.text(parts[0], name, depth + 1) if len(parts) == 1 else "Any"
        return self._union([self._kind(kind, schema, name, depth) for kind in _kinds(schema)])

    def _kind(self, kind: str, schema: Mapping[str, Any], name: str, depth: int) -> str:
        if kind == "array":
            items = schema.get("items", True) if "prefixItems" not in schema else True
            return f"list[{self.text(items, f'{name}Item', depth + 1)}]"
        if kind == "object":
            properties = list(_properties(schema))
            if not properties:
                more = schema.get("additionalProperties", True)
                return f"dict[str, {self.text(more, f'{name}Value', depth + 1)}]"
            return self._typed_dict(properties, name, depth)
        return _PYTHON_SCALARS.get(kind, "Any")

    def _typed_dict(self, properties: Sequence[tuple[str, Any, bool]], name: str, depth: int) -> str:
        chosen = _camel(name, self.names) if depth else name
        members = []
        for key, inner, needed in properties:
            text = self.text(inner, f"{chosen}{_camel(key, set())}", depth + 1)
            members.append(f"{key!a}: {text if needed else f'NotRequired[{text}]'}")
        # the form with a call: a key may be no identifier, or a keyword
        self.classes.append(f'{chosen} = TypedDict("{chosen}", {{{", ".join(members)}}})')
        return chosen

    def _union(self, texts: Sequence[str]) -> str:
        found = _unique(texts)
        return "Any" if not found or "Any" in found else " | ".join(found)
