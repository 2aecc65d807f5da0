"""What operators and owners hand in: definitions, definitions from the journal, exported panels."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from panels_gateway.commands.panel_files import _decode as decode_file
from panels_gateway.commands.panel_files import _records as records_of
from panels_gateway.journal.journal import CorruptError
from panels_gateway.journal.records import Created, Source
from panels_gateway.panels import definition_body, stored
from panels_gateway.panels.definition import trigger_name
from panels_gateway.panels.definition_body import DefinitionLimits
from panels_shared.errors import Code, RequestError
from panels_shared.names import is_name
from tests.fuzz.mutation import JSON
from tests.fuzz.target import Cost, Target, refused, require, require_json

_TOKENS: Final = (
    *(b'"tools":', b'"handler":', b'"trigger":', b'"type":"cron"', b'"expression":', b'"timezone":'),
    *(b'"interval"',),
    *(b'"limits":', b'"fuel":', b'"capabilities":', b"state:write:*", b'"metadata":', b'"initialState":'),
    *(b'"quota":',),
    *(b"* * * * *", b"0 0 30 2 *", b"*/0 * * * *", b"L", b"#", b"../../etc/passwd", b"Europe/Berlin"),
    *(b"UTC", b"-"),
)


def _definitions() -> list[dict[str, Any]]:
    module = base64.b64encode(b"\0asm\1\0\0\0").decode()
    return [
        {
            "kind": "k",
            "tools": [{"name": "t", "handler": "return $args"}],
            "initialState": {"a": [1, 2.5, None]},
        },
        {
            "id": "p",
            "kind": "k",
            "title": "T",
            "metadata": {"x": {"y": 1}},
            "capabilities": ["state:read:*"],
            "quota": {"fuel": 1, "timeMs": 2, "windowS": 60},
            "tools": [
                {
                    "name": "a",
                    "handler": {"language": "wasm", "source": module, "entry": "run"},
                    "limits": {"fuel": 1_000, "timeoutMs": 5, "memoryBytes": 65_536},
                    "trigger": {"type": "interval", "ms": 1_000, "misfire": "once"},
                    "capabilities": ["state:write:a*", "events:emit:e", "ext:http.get"],
                },
                {
                    "name": "b",
                    "handler": {"language": "typescript", "source": "export default () => 1"},
                    "trigger": {
                        "type": "cron",
                        "expression": "*/5 8-18 * * 1-5",
                        "timezone": "Europe/Berlin",
                    },
                    "exclusive": True,
                    "quota": {"timeMs": 5},
                    "description": "d",
                },
                {"name": "c", "handler": "1", "trigger": {"type": "event", "pattern": "e*"}},
                {"name": "d", "handler": "1", "trigger": {"type": "state_change", "path": "a"}},
                {"name": "e", "handler": "1", "trigger": {"type": "mount"}},
            ],
        },
    ]


class Definition(Target):
    """The body of POST and PUT. What is accepted can be stored and read back as it was."""

    name = "definition"
    codec = JSON
    tokens = _TOKENS
    cost = Cost(per_byte=192, constant=1 << 20)
    quick = 250

    def seeds(self) -> list[bytes]:
        return [json.dumps(body).encode() for body in _definitions()]

    def run(self, data: bytes) -> str:
        try:
            made = definition_body.parse(data, DefinitionLimits(), default_id="p")
        except RequestError as exc:
            require(exc.code in (Code.INVALID_REQUEST, Code.TOO_LARGE), "the code of a refusal", exc.code)
            require(len(exc.message) < 2_048, "a refusal is short", exc.message)
            require_json(msgspec.json.encode({"m": exc.message, "d": exc.details}), "the refusal is JSON")
            return refused(exc)
        require(is_name(made.id), "an id that can be one", made.id)
        require_json(made.metadata)
        for key, value in (made.initial_state or {}).items():
            require_json(value)
            require(len(key.encode()) <= definition_body.MAX_KEY_BYTES, "keys within their bound", key)
        text = stored.encode(made)
        sources = {source.digest: source for source in stored.sources(made)}
        again = stored.decode(made.id, text, sources)
        require(stored.encode(again) == text, "what is stored is read back", text)
        require(stored.heading(text) == (made.kind, made.title), "and so is its heading", text)
        return " ".join(sorted({trigger_name(tool.trigger) for tool in made.tools})) or "no tools"


class StoredDefinition(Target):
    """A definition as the journal has it: read, or refused by ``ValueError`` or ``KeyError`` and nothing
    else."""

    name = "stored-definition"
    codec = JSON
    tokens = _TOKENS
    cost = Cost(per_byte=192)

    def __init__(self) -> None:
        limits = DefinitionLimits()
        self._made = [
            definition_body.parse(json.dumps(body).encode(), limits, default_id="p")
            for body in _definitions()
        ]
        self._sources: dict[bytes, Source] = {
            source.digest: source for made in self._made for source in stored.sources(made)
        }

    def seeds(self) -> list[bytes]:
        return [stored.encode(made) for made in self._made]

    def run(self, data: bytes) -> str:
        try:
            made = stored.decode("p", data, self._sources)
        except (msgspec.DecodeError, KeyError, ValueError) as exc:
            return type(exc).__name__
        text = stored.encode(made)
        again = stored.decode("p", text, self._sources)
        require(stored.encode(again) == text, "encoding is stable", text)
        return f"{min(3, len(made.tools))} tools"


class ExportedPanel(Target):
    """A file that ``import`` is given: records that can be served, or ``CorruptError``."""

    name = "export"
    codec = JSON
    tokens = (
        b'"format":"panels.panel"',
        b'"version":1',
        b'"seq":',
        b'"state":',
        b'"sources":',
        b"\\ud800",
        *_TOKENS,
    )
    cost = Cost(per_byte=256, constant=1 << 18)

    def __init__(self) -> None:
        vectors = Path(__file__).parents[2] / "vectors" / "panels" / "export.json"
        self._vectors = json.loads(vectors.read_text())
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "export.json"

    def seeds(self) -> list[bytes]:
        return [json.dumps(vector["export"]).encode() for vector in self._vectors]

    def run(self, data: bytes) -> str:
        self._path.write_bytes(data)
        try:
            records = records_of(decode_file(self._path), 1, None)
        except CorruptError as exc:
            return refused(exc).replace(str(self._path), "")
        created = records[-1]
        assert isinstance(created, Created)
        require(is_name(created.id), "an id that can be one", created.id)
        require(created.seq >= 0, "a version that can be one")
        for value in created.state.values():
            require_json(value)
        sources = {record.digest: record for record in records if isinstance(record, Source)}
        stored.decode(created.id, created.definition, sources)
        # what is imported is a record, and has to be one that the journal reads back
        packed = msgspec.msgpack.encode(created)
        require(
            msgspec.msgpack.encode(msgspec.msgpack.decode(packed, type=Created)) == packed,
            "the record is stable",
        )
        return f"{len(sources)} sources, {min(3, len(created.state))} keys"

    def close(self) -> None:
        self._folder.cleanup()


TARGETS: Final = (Definition, StoredDefinition, ExportedPanel)
