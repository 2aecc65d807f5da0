"""The body of POST and PUT, which defines a panel, validated.

``parse`` checks the cheap and structural first (size, JSON, shape), then the meaning of each field. Every
refusal is a ``RequestError`` with INVALID_REQUEST whose ``details.path`` names the field, like
``tools[0].handler.source``. Unknown fields are refused: a misspelt ``limits`` must not mean no limits. All
bounds are security limits.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from panels_gateway.panels.definition import (
    MANUAL,
    Cron,
    HandlerSource,
    Interval,
    Manual,
    Mount,
    OnEvent,
    OnStateChange,
    PanelDefinition,
    ToolDefinition,
    Trigger,
    Unmount,
)
from panels_gateway.panels.quota import Quota
from panels_gateway.panels.schema import SchemaError
from panels_gateway.panels.schema import read as read_schema
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError, RequestError
from panels_shared.handlers import (
    DEFAULT_CAPABILITIES,
    DEFAULT_ENTRY,
    MAX_ENTRY_CHARS,
    PRESENCE_CAPABILITY,
    handler_digest,
    max_source_bytes,
)
from panels_shared.limits import DEFAULT_LIMITS, DEFAULT_MAXIMA, KIB, MIB, Limits
from panels_shared.messages import Language
from panels_shared.names import MAX_NAME_CHARS, NAME_RULE, is_name
from panels_shared.script_modules import (
    MAX_MODULES,
    MODULE_NAME_RULE,
    ModuleError,
    compose,
    imported_by,
    is_module_name,
    language_of,
)

MAX_TITLE_CHARS: Final = 256
MAX_DESCRIPTION_CHARS: Final = 1_024
MAX_METADATA_BYTES: Final = 64 * KIB
MAX_CAPABILITIES: Final = 64
MAX_CAPABILITY_CHARS: Final = 300
MAX_KEY_BYTES: Final = 256
MAX_TRIGGER_TEXT_CHARS: Final = 256
MAX_SHOWN_CHARS: Final = 256
MIN_INTERVAL_MS: Final = 100
MAX_INTERVAL_MS: Final = 7 * 24 * 3_600 * 1_000
MIN_MEMORY_BYTES: Final = 64 * KIB
MAX_QUOTA: Final = 10**15
MIN_QUOTA_WINDOW_S: Final = 1
MAX_QUOTA_WINDOW_S: Final = 86_400

#: Commas and opening brackets in a body: what bounds the number of Python objects that decoding it makes, and
#: with it the time (some 50 ms) that everybody else waits.
MAX_ELEMENTS: Final = 262_144


_CAPABILITY_PATTERN: Final = re.compile(r"(state:read|state:write|events:emit|view:update|ext):([^*]+\*?|\*)")


# -- its shape ---------------------------------------------------------------------------------------


class _HandlerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    language: Language
    source: str
    entry: str | None = None


class _LimitsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    fuel: int | None = None
    timeout_ms: int | None = None
    memory_bytes: int | None = None
    host_calls: int | None = None
    output_bytes: int | None = None
    events: int | None = None
    log_bytes: int | None = None


class _QuotaBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    fuel: int | None = None
    time_ms: int | None = None
    window_s: float = 60.0


class _ToolBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    handler: str | _HandlerBody
    trigger: Trigger = MANUAL
    description: str | None = None
    capabilities: list[str] | None = None
    limits: _LimitsBody | None = None
    quota: _QuotaBody | None = None
    exclusive: bool = False
    args: dict[str, Any] | bool | None = None
    returns: dict[str, Any] | bool | None = None


class _PanelBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    kind: str
    tools: list[_ToolBody] = []
    id: str | None = None
    title: str | None = None
    initial_state: dict[str, Any] | None = None
    capabilities: list[str] | None = None
    quota: _QuotaBody | None = None
    metadata: dict[str, Any] = {}
    pool: str | None = None
    presence: bool = False
    modules: dict[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DefinitionLimits:
    """Bounds of a definition. ``maxima`` is how far a tool may raise its limits."""

    body_bytes: int = 4 * MIB
    tools: int = 64
    state_bytes: int = 16 * MIB
    state_keys: int = 65_536
    maxima: Limits = DEFAULT_MAXIMA


def parse(
    body: bytes, limits: DefinitionLimits, *, default_id: str, required_id: str | None = None
) -> PanelDefinition:
    """The definition that ``body`` (JSON) holds.

    ``default_id`` names the panel when the body does not; with ``required_id`` the body may name no other.
    Raises ``RequestError``: INVALID_REQUEST with ``details.path``, or TOO_LARGE.
    """
    shape = _shape_of(body, limits)
    panel_id = shape.id if shape.id is not None else (required_id if required_id is not None else default_id)
    if not is_name(panel_id):
        _refuse("id", f"expected {NAME_RULE}")
    if required_id is not None and panel_id != required_id:
        _refuse("id", f"expected the id in the path, {required_id}, or none")
    _check_chars("kind", shape.kind, MAX_NAME_CHARS)
    if shape.title is not None:
        _check_chars("title", shape.title, MAX_TITLE_CHARS, minimum=0)
    if shape.pool is not None and not is_name(shape.pool):
        _refuse("pool", f"expected {NAME_RULE}")
    capabilities = None if shape.capabilities is None else _capabilities("capabilities", shape.capabilities)
    modules = _modules(shape.modules)
    return PanelDefinition(
        id=panel_id,
        kind=shape.kind,
        title=shape.title,
        tools=_tools(shape.tools, modules, capabilities, limits),
        initial_state=None if shape.initial_state is None else _state(shape.initial_state, limits),
        capabilities=capabilities,
        metadata=_metadata(shape.metadata),
        quota=_quota("quota", shape.quota),
        pool=shape.pool,
        presence=shape.presence,
        modules={name: sha256(text.encode()).hexdigest() for name, text in modules.items()},
    )


# -- fields ------------------------------------------------------------------------------------------


def _refuse(path: str, problem: str) -> NoReturn:
    raise RequestError(Code.INVALID_REQUEST, f"{path}: {problem}" if path else problem, {"path": path})


def _check_chars(path: str, text: str, maximum: int, *, minimum: int = 1) -> None:
    if not minimum <= len(text) <= maximum:
        _refuse(path, f"expected {minimum} to {maximum} characters, got {len(text)}")


def _shape_of(body: bytes, limits: DefinitionLimits) -> _PanelBody:
    if len(body) > limits.body_bytes:
        raise RequestError(Code.TOO_LARGE, f"expected a body of at most {limits.body_bytes} bytes, got more")
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_ELEMENTS:
        _refuse("", f"expected at most {MAX_ELEMENTS} elements in the body, got more")
    try:
        value = jsonvalue.decode(body)
    except InvalidJsonError as exc:
        _refuse("", exc.problem)
    try:
        return msgspec.convert(value, _PanelBody)
    except msgspec.ValidationError as exc:
        problem, path = _split_location(str(exc))
        _refuse(path, problem)


def _split_location(text: str) -> tuple[str, str]:
    # msgspec writes "Expected `str`, got `int` - at `$.tools[0].name`", and may quote what came at any length
    problem, found, where = text.rpartition(" - at `")
    path = where.rstrip("`").removeprefix("$").removeprefix(".") if found else ""
    problem = (problem if found else text).replace("`", "")
    for words, meaning in _FIELD_PROBLEMS.items():
        if problem.startswith(words):
            name = problem.removeprefix(words)
            path, problem = (f"{path}.{name}" if path else name), meaning
    return _cut(problem[:1].lower() + problem[1:]), _cut(path)


_FIELD_PROBLEMS: Final[Mapping[str, str]] = {
    "Object missing required field ": "expected a value, got none",
    "Object contains unknown field ": "expected no such field",
}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "…"


def _modules(modules: dict[str, str]) -> dict[str, str]:
    if len(modules) > MAX_MODULES:
        _refuse("modules", f"expected at most {MAX_MODULES} modules, got {len(modules)}")
    for name, text in modules.items():
        if not is_module_name(name):
            _refuse("modules", f"expected {MODULE_NAME_RULE}, got {_cut(name)}")
        _check_script(f"modules.{name}", language_of(name), text.encode())
    return modules


def _tools(
    bodies: list[_ToolBody],
    modules: dict[str, str],
    inherited: tuple[str, ...] | None,
    limits: DefinitionLimits,
) -> tuple[ToolDefinition, ...]:
    if len(bodies) > limits.tools:
        _refuse("tools", f"expected at most {limits.tools} tools, got {len(bodies)}")
    names: set[str] = set()
    tools: list[ToolDefinition] = []
    for index, body in enumerate(bodies):
        path = f"tools[{index}]"
        if not is_name(body.name):
            _refuse(f"{path}.name", f"expected {NAME_RULE}")
        if body.name in names:
            _refuse(f"{path}.name", f"expected a name that no other tool has, got {body.name} again")
        names.add(body.name)
        tools.append(_tool(path, body, modules, inherited, limits.maxima))
    return tuple(tools)


def _tool(
    path: str,
    body: _ToolBody,
    modules: dict[str, str],
    inherited: tuple[str, ...] | None,
    maxima: Limits,
) -> ToolDefinition:
    if body.description is not None:
        _check_chars(f"{path}.description", body.description, MAX_DESCRIPTION_CHARS, minimum=0)
    _check_trigger(f"{path}.trigger", body.trigger)
    own = None if body.capabilities is None else _capabilities(f"{path}.capabilities", body.capabilities)
    return ToolDefinition(
        name=body.name,
        handler=_handler(f"{path}.handler", body.handler, modules),
        trigger=body.trigger,
        description=body.description,
        capabilities=own if own is not None else DEFAULT_CAPABILITIES if inherited is None else inherited,
        limits=_limits(f"{path}.limits", body.limits, maxima),
        exclusive=body.exclusive,
        quota=_quota(f"{path}.quota", body.quota),
        args=_schema(f"{path}.args", body.args),
        returns=_schema(f"{path}.returns", body.returns),
    )


def _schema(path: str, value: dict[str, Any] | bool | None) -> bytes | None:
    if value is None:
        return None
    try:
        return read_schema(value)
    except SchemaError as exc:
        _refuse(_cut(f"{path}.{exc.path}" if exc.path else path), exc.problem)


def _handler(path: str, body: str | _HandlerBody, modules: dict[str, str]) -> HandlerSource:
    if isinstance(body, str):
        return _script(path, "javascript", body, modules)
    path_of_source = f"{path}.source"
    if body.language in ("javascript", "typescript"):
        if body.entry is not None:
            _refuse(
                f"{path}.entry", f"expected none for {body.language}: a module's default export is what runs"
            )
        return _script(path_of_source, body.language, body.source, modules)
    entry = body.entry if body.entry is not None else DEFAULT_ENTRY
    _check_chars(f"{path}.entry", entry, MAX_ENTRY_CHARS)
    if body.language == "wasm":
        maximum = max_source_bytes("wasm")
        if len(body.source) > maximum * 4 // 3 + 4:
            _refuse(path_of_source, f"expected at most {maximum} bytes, got more")
        try:
            source = base64.b64decode(body.source, validate=True)
        except (binascii.Error, ValueError):
            _refuse(path_of_source, "expected a WebAssembly binary in base64")
        return _sourced(path_of_source, "wasm", entry, source)
    return _sourced(path_of_source, body.language, entry, body.source.encode())


def _script(path: str, language: Language, text: str, modules: dict[str, str]) -> HandlerSource:
    """A handler with what it imports."""
    source = text.encode()
    _check_script(path, language, source)
    try:
        imported = imported_by(language, text, modules)
    except ModuleError as exc:
        _refuse(f"modules.{exc.name}" if exc.name else path, str(exc))
    size, maximum = len(source) + sum(len(module) for _, module in imported), max_source_bytes(language)
    if size > maximum:
        _refuse(path, f"expected at most {maximum} bytes with the modules that it imports, got {size}")
    composed = compose(source, imported)
    return HandlerSource(language, "", composed, handler_digest(language, "", composed))


def _check_script(path: str, language: Language, source: bytes) -> None:
    _check_size(path, language, source)
    if b"\0" in source:
        _refuse(path, f"expected {language} without NUL characters")


def _check_size(path: str, language: Language, source: bytes) -> None:
    maximum = max_source_bytes(language)
    if not 1 <= len(source) <= maximum:
        _refuse(path, f"expected 1 to {maximum} bytes of {language}, got {len(source)}")


def _sourced(path: str, language: Language, entry: str, source: bytes) -> HandlerSource:
    _check_size(path, language, source)
    return HandlerSource(language, entry, source, handler_digest(language, entry, source))


#: Field of the body → field of ``Limits``.
_LIMIT_FIELDS: Final = (
    ("fuel", "fuel", "fuel"),
    ("timeoutMs", "timeout_ms", "deadline_ms"),
    ("memoryBytes", "memory_bytes", "memory_bytes"),
    ("hostCalls", "host_calls", "host_calls"),
    ("outputBytes", "output_bytes", "output_bytes"),
    ("events", "events", "events"),
    ("logBytes", "log_bytes", "log_bytes"),
)


def _limits(path: str, body: _LimitsBody | None, maxima: Limits) -> Limits:
    chosen = DEFAULT_LIMITS.clamp(maxima)
    if body is None:
        return chosen
    asked: dict[str, int] = {}
    for name, ours, theirs in _LIMIT_FIELDS:
        value: int | None = getattr(body, ours)
        if value is None:
            continue
        minimum = MIN_MEMORY_BYTES if theirs == "memory_bytes" else 1
        maximum: int = getattr(maxima, theirs)
        if not minimum <= value <= maximum:
            _refuse(f"{path}.{name}", f"expected {minimum} to {maximum}, got {value}")
        asked[theirs] = value
    return Limits(
        fuel=asked.get("fuel", chosen.fuel),
        deadline_ms=asked.get("deadline_ms", chosen.deadline_ms),
        memory_bytes=asked.get("memory_bytes", chosen.memory_bytes),
        host_calls=asked.get("host_calls", chosen.host_calls),
        output_bytes=asked.get("output_bytes", chosen.output_bytes),
        events=asked.get("events", chosen.events),
        log_bytes=asked.get("log_bytes", chosen.log_bytes),
    )


def _quota(path: str, body: _QuotaBody | None) -> Quota | None:
    if body is None:
        return None
    for name, value in (("fuel", body.fuel), ("timeMs", body.time_ms)):
        if value is not None and not 1 <= value <= MAX_QUOTA:
            _refuse(f"{path}.{name}", f"expected 1 to {MAX_QUOTA}, got {value}")
    if not MIN_QUOTA_WINDOW_S <= body.window_s <= MAX_QUOTA_WINDOW_S:
        bounds = f"{MIN_QUOTA_WINDOW_S} to {MAX_QUOTA_WINDOW_S}"
        _refuse(f"{path}.windowS", f"expected {bounds}, got {body.window_s:g}")
    if body.fuel is None and body.time_ms is None:
        _refuse(path, "expected fuel, timeMs or both, got neither")
    return Quota(fuel=body.fuel or 0, time_ms=body.time_ms or 0, window_s=body.window_s)


def _check_trigger(path: str, trigger: Trigger) -> None:
    match trigger:
        case Interval(ms=ms):
            if not MIN_INTERVAL_MS <= ms <= MAX_INTERVAL_MS:
                _refuse(f"{path}.ms", f"expected {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}, got {ms}")
        case Cron(expression=expression, timezone=timezone):
            _check_chars(f"{path}.expression", expression, MAX_TRIGGER_TEXT_CHARS)
            _check_chars(f"{path}.timezone", timezone, MAX_TRIGGER_TEXT_CHARS)
            if len(expression.split()) != 5:
                _refuse(f"{path}.expression", "expected five fields: minute hour day month weekday")
            check_cron(path, trigger)
        case OnEvent(pattern=pattern):
            _check_chars(f"{path}.pattern", pattern, MAX_TRIGGER_TEXT_CHARS)
        case OnStateChange(path=state_path):
            _check_chars(f"{path}.path", state_path, MAX_TRIGGER_TEXT_CHARS)
        case Manual() | Mount() | Unmount():
            pass


def check_cron(path: str, cron: Cron) -> None:
    """Refuses a cron trigger whose expression or time zone makes no sense."""
    try:
        zone = ZoneInfo(cron.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        _refuse(f"{path}.timezone", f"expected a time zone like Europe/Berlin, got {_cut(cron.timezone)}")
    try:
        next(CronSim(cron.expression, datetime.now(zone)))
    except CronSimError as exc:
        _refuse(f"{path}.expression", f"expected a cron expression: {exc}")
    except StopIteration:
        _refuse(f"{path}.expression", "expected a cron expression that is due at some time")


def _capabilities(path: str, patterns: list[str]) -> tuple[str, ...]:
    if len(patterns) > MAX_CAPABILITIES:
        _refuse(path, f"expected at most {MAX_CAPABILITIES} capabilities, got {len(patterns)}")
    for index, pattern in enumerate(patterns):
        _check_chars(f"{path}[{index}]", pattern, MAX_CAPABILITY_CHARS)
        if pattern != PRESENCE_CAPABILITY and _CAPABILITY_PATTERN.fullmatch(pattern) is None:
            _refuse(
                f"{path}[{index}]",
                "expected state:read:<key|*>, state:write:<key|*>, events:emit:<name|*>, "
                "view:update:<view|*>, ext:<name|*> or presence:read, with a * only at the end",
            )
    return tuple(dict.fromkeys(patterns))


def _state(values: dict[str, Any], limits: DefinitionLimits) -> dict[str, bytes]:
    if len(values) > limits.state_keys:
        _refuse("initialState", f"expected at most {limits.state_keys} keys, got {len(values)}")
    state: dict[str, bytes] = {}
    size = 0
    for key, value in values.items():
        if len(key.encode()) > MAX_KEY_BYTES:
            _refuse(
                "initialState", f"expected keys of at most {MAX_KEY_BYTES} bytes, got {len(key.encode())}"
            )
        # encoded again on purpose: one canonical text, without white space or duplicate keys, goes to
        # everyone
        encoded = state[key] = jsonvalue.encode(value)
        size += len(key) + len(encoded)
    if size > limits.state_bytes:
        _refuse("initialState", f"expected at most {limits.state_bytes} bytes, got {size}")
    return state


def _metadata(values: dict[str, Any]) -> bytes:
    encoded = jsonvalue.encode(values)
    if len(encoded) > MAX_METADATA_BYTES:
        _refuse("metadata", f"expected at most {MAX_METADATA_BYTES} bytes, got {len(encoded)}")
    return encoded
