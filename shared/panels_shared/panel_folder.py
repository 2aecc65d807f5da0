"""A panel as a folder: from ``panel.toml`` and the handlers beside it to a definition. Pure.

docs/panel-folders.md describes the format. Fields are named as in the definition that the gateway takes, and
their values are passed on: what a limit or a trigger may be is for the gateway to say. Only what the folder
adds is checked here: the names of files, and that TOML's values are JSON.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, TypeGuard

import msgspec

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError, PanelsError
from panels_shared.handlers import DEFAULT_CAPABILITIES, DEFAULT_ENTRY, handler_digest
from panels_shared.messages import Language
from panels_shared.names import NAME_RULE, is_name
from panels_shared.script_modules import (
    MAX_MODULES,
    MODULE_NAME_RULE,
    ModuleError,
    compose,
    imported_by,
    is_module_name,
    language_of,
)
from panels_shared.snippet import caret

PANEL_FILE: Final = "panel.toml"
#: Bytes of ``panel.toml``, of a handler, and of a file with the initial state; the gateway's are lower.
MAX_PANEL_FILE_BYTES: Final = 256 * 1024
MAX_HANDLER_BYTES: Final = 4 * 1024 * 1024
MAX_STATE_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_TOOLS: Final = 1_024
#: Where the metadata of the panel keep the digest of the folder that it was made from.
FINGERPRINT: Final = "panelsFolder"

#: What a file's name ends in → the language of its handler.
LANGUAGES: Final[Mapping[str, Language]] = {
    ".js": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".wat": "wat",
    ".wasm": "wasm",
}
_PANEL_FIELDS: Final = frozenset(
    {
        "id",
        "kind",
        "title",
        "capabilities",
        "metadata",
        "quota",
        "pool",
        "presence",
        "modules",
        "initialState",
        "tools",
    }
)
_TOOL_FIELDS: Final = frozenset(
    {"handler", "entry", "description", "trigger", "exclusive", "capabilities", "limits", "quota"}
    | {"args", "returns"}
)


class FolderError(PanelsError):
    """A folder is not as expected: one sentence that begins with the file. ``snippet`` is the source at the
    place that it names, empty where it names none.
    """

    snippet: tuple[str, ...] = ()


#: Gives the content of a file by its name, at most so many bytes. Raises ``FolderError``.
Read = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class FolderTool:
    """A tool: the digest of its handler as the gateway computes it, its file, and its other fields."""

    name: str
    digest: str
    language: str
    file: str
    fields: Mapping[str, Any] = field(repr=False)
    source: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that was read.

    ``made`` is the body of the POST that makes the panel, ``replaced`` that of the PUT that brings it up to
    date, which leaves the state alone. ``fingerprint`` is the SHA-256 of all that a PUT changes, in
    hexadecimal; it stands in the metadata of both.
    """

    id: str
    kind: str
    title: str | None
    tools: tuple[FolderTool, ...]
    fingerprint: str
    made: bytes = field(repr=False)
    replaced: bytes = field(repr=False)


def load(read: Read) -> Folder:
    """The folder whose files ``read`` gives. Raises ``FolderError``, which names file and field."""
    panel = _table(read(PANEL_FILE, MAX_PANEL_FILE_BYTES))
    _check_fields("", panel, _PANEL_FIELDS)
    panel_id, kind, title = (_text(panel, name, name != "title") for name in ("id", "kind", "title"))
    assert panel_id is not None
    assert kind is not None
    if not is_name(panel_id):
        raise _wrong("id", f"expected {NAME_RULE}, got {panel_id[:64]!r}")
    modules = _modules(panel.get("modules", []), read)
    tools = _tools(panel, modules, read)
    body: dict[str, Any] = {
        name: panel[name]
        for name in ("id", "kind", "title", "capabilities", "metadata", "quota", "pool", "presence")
        if name in panel
    }
    body["tools"] = [source for _, source in tools]
    if modules:
        body["modules"] = modules
    metadata = body.get("metadata", {})
    if not _is_table(metadata) or FINGERPRINT in metadata:
        raise _wrong("metadata", f"expected a table without {FINGERPRINT}, which panels apply writes")
    fingerprint = hashlib.sha256(_canonical(body)).hexdigest()
    body["metadata"] = {**metadata, FINGERPRINT: fingerprint}
    state = _state(panel.get("initialState"), read)
    return Folder(
        panel_id,
        kind,
        title,
        tuple(tool for tool, _ in tools),
        fingerprint,
        made=jsonvalue.encode(body if state is None else {**body, "initialState": state}),
        replaced=jsonvalue.encode(body),
    )


def _table(content: bytes) -> dict[str, Any]:
    try:
        panel = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise FolderError(f"{PANEL_FILE}: expected UTF-8, got other bytes") from None
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise _not_toml(content.decode(), str(exc)) from None
    _check_json("", panel, jsonvalue.MAX_DEPTH)
    return panel


def _not_toml(text: str, problem: str) -> FolderError:
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", problem)
    if place is None:
        return FolderError(f"{PANEL_FILE}: expected TOML: {problem}")
    lines = text.rstrip().splitlines() or [""]
    line, column = (int(place[1]), int(place[2])) if place[1] else (len(lines), len(lines[-1]) + 1)
    fault = FolderError(f"{PANEL_FILE}:{line}:{column}: expected TOML: {problem[: place.start()]}")
    fault.snippet = caret(text, line, column)
    return fault


def _check_json(path: str, value: Any, depth: int) -> None:
    # TOML has dates, nan and inf, which JSON has not
    if _is_table(value) or isinstance(value, list):
        if depth == 0:
            raise _wrong(path, f"expected nesting of at most {jsonvalue.MAX_DEPTH}, got more")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else str(key)
            _check_json(where, item, depth - 1)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise _wrong(path, f"expected a number that JSON has, got {value}")
    elif not isinstance(value, (str, int, bool)):
        raise _wrong(path, f"expected a value that JSON has, got a {type(value).__name__}; quote it")


def _modules(names: Any, read: Read) -> dict[str, str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong("modules", 'expected names of files in the folder, like ["rules.js"]')
    if len(names) > MAX_MODULES:
        raise _wrong("modules", f"expected at most {MAX_MODULES}, got {len(names)}")
    for name in names:
        if not is_module_name(name):
            raise _wrong("modules", f"expected {MODULE_NAME_RULE}, got {name[:100]!r}")
    return {name: _source(name, language_of(name), read(name, MAX_HANDLER_BYTES)) for name in names}


def _tools(
    panel: Mapping[str, Any], modules: Mapping[str, str], read: Read
) -> list[tuple[FolderTool, dict[str, Any]]]:
    tables = panel.get("tools", {})
    if not _is_table(tables) or not all(_is_table(table) for table in tables.values()):
        raise _wrong("tools", "expected tables [tools.NAME]")
    if len(tables) > MAX_TOOLS:
        raise _wrong("tools", f"expected at most {MAX_TOOLS}, got {len(tables)}")
    return [_tool(name, table, panel, modules, read) for name, table in tables.items()]


def _tool(
    name: str, table: Mapping[str, Any], panel: Mapping[str, Any], modules: Mapping[str, str], read: Read
) -> tuple[FolderTool, dict[str, Any]]:
    path = f"tools.{name}"
    if not is_name(name):
        raise _wrong(path, f"expected a name of {NAME_RULE}")
    _check_fields(path, table, _TOOL_FIELDS)
    file = table.get("handler")
    if not isinstance(file, str) or not is_inside(file):
        raise _wrong(f"{path}.handler", 'expected the name of a file in the folder, like "add.js"')
    language = LANGUAGES.get(PurePosixPath(file).suffix)
    if language is None:
        raise _wrong(f"{path}.handler", f"expected a file that ends in {', '.join(LANGUAGES)}, got {file!r}")
    source = read(file, MAX_HANDLER_BYTES)
    entry = table.get("entry", "")
    if not isinstance(entry, str):
        raise _wrong(f"{path}.entry", "expected the name of an export")
    if language in ("javascript", "typescript"):
        if entry:
            raise _wrong(f"{path}.entry", f"expected none for {language}")
    else:
        entry = entry or DEFAULT_ENTRY
    text = _source(file, language, source)
    composed = source
    if language in ("javascript", "typescript"):
        try:
            composed = compose(source, imported_by(language, text, modules))
        except ModuleError as exc:
            raise FolderError(f"{exc.name or file}: {exc}") from None
    handler: dict[str, Any] = {"language": language, "source": text}
    if entry:
        handler["entry"] = entry
    fields = {key: value for key, value in table.items() if key not in ("handler", "entry")}
    for schema in ("args", "returns"):
        if isinstance(fields.get(schema), str):
            fields[schema] = _schema(f"{path}.{schema}", fields[schema], read)
    tool = FolderTool(
        name,
        handler_digest(language, entry, composed).hex(),
        language,
        file,
        # what the panel's list, or the default, gives to a tool without one
        {"capabilities": panel.get("capabilities", list(DEFAULT_CAPABILITIES)), **fields},
        source,
    )
    return tool, {"name": name, "handler": handler, **fields}


def _schema(path: str, file: str, read: Read) -> Any:
    if not is_inside(file) or not file.endswith(".json"):
        raise _wrong(path, 'expected a JSON Schema: a table, or the name of a file like "add.args.json"')
    try:
        return jsonvalue.decode(read(file, MAX_PANEL_FILE_BYTES))
    except InvalidJsonError as exc:
        raise FolderError(f"{file}: {exc.problem}") from None


def _source(file: str, language: Language, content: bytes) -> str:
    if language == "wasm":
        return base64.b64encode(content).decode()
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise FolderError(f"{file}: expected UTF-8, got other bytes") from None


def is_inside(file: str) -> bool:
    """Whether ``file`` names something below the folder; a folder comes from anywhere, and what it names is
    sent away.
    """
    path = PurePosixPath(file)
    return bool(file) and "\0" not in file and not path.is_absolute() and ".." not in path.parts


def _state(value: Any, read: Read) -> Any:
    if value is None or _is_table(value):
        return value
    if not isinstance(value, str) or not is_inside(value) or not value.endswith(".json"):
        raise _wrong("initialState", 'expected a table, or the name of a file like "state.json"')
    try:
        state = jsonvalue.decode(read(value, MAX_STATE_FILE_BYTES))
    except InvalidJsonError as exc:
        raise FolderError(f"{value}: {exc.problem}") from None
    if not _is_table(state):
        raise FolderError(f"{value}: expected a JSON object, got something else")
    return state


def _canonical(body: Mapping[str, Any]) -> bytes:
    # the order of tools and of keys says nothing
    tools = sorted(body["tools"], key=lambda tool: str(tool["name"]))
    return msgspec.json.encode({**body, "tools": tools}, order="deterministic")


def _check_fields(path: str, table: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in table:
        if name not in known:
            where = f"{path}.{name}" if path else name
            raise _wrong(where, f"expected one of {', '.join(sorted(known))}")


def _text(panel: Mapping[str, Any], name: str, required: bool) -> str | None:
    value = panel.get(name)
    if isinstance(value, str) or (value is None and not required):
        return value
    got = f'none; write {name} = "…"' if value is None else "something else"
    raise _wrong(name, f"expected a text, got {got}")


def _is_table(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _wrong(path: str, problem: str) -> FolderError:
    return FolderError(f"{PANEL_FILE}: {path}: {problem}" if path else f"{PANEL_FILE}: {problem}")
