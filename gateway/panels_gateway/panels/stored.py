"""A panel's definition as the journal keeps it: JSON in which each handler is named by its digest.

A definition that ``definition.parse`` accepted is read back as it was, without being judged again: a later
version with narrower bounds must still serve existing panels.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from panels_gateway.journal.records import Source
from panels_gateway.panels.definition import HandlerSource, PanelDefinition, ToolDefinition, Trigger
from panels_gateway.panels.quota import Quota
from panels_shared.limits import Limits
from panels_shared.messages import Digest, Language


class _Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    digest: str
    trigger: Trigger
    capabilities: tuple[str, ...]
    limits: Limits
    description: str | None = None
    exclusive: bool = False
    quota: Quota | None = None
    args: msgspec.Raw | None = None
    returns: msgspec.Raw | None = None


class _Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: str
    tools: tuple[_Tool, ...]
    title: str | None = None
    capabilities: tuple[str, ...] | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    quota: Quota | None = None
    pool: str | None = None
    presence: bool = False
    modules: dict[str, str] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Definition)


def encode(definition: PanelDefinition) -> bytes:
    """The definition as JSON, without its id, its initial state and its sources."""
    return _encoder.encode(
        _Definition(
            kind=definition.kind,
            title=definition.title,
            tools=tuple(
                _Tool(
                    name=tool.name,
                    digest=tool.handler.digest.hex(),
                    trigger=tool.trigger,
                    capabilities=tool.capabilities,
                    limits=tool.limits,
                    description=tool.description,
                    exclusive=tool.exclusive,
                    quota=tool.quota,
                    args=None if tool.args is None else msgspec.Raw(tool.args),
                    returns=None if tool.returns is None else msgspec.Raw(tool.returns),
                )
                for tool in definition.tools
            ),
            capabilities=definition.capabilities,
            metadata=msgspec.Raw(definition.metadata),
            quota=definition.quota,
            pool=definition.pool,
            presence=definition.presence,
            modules=dict(definition.modules),
        )
    )


def sources(definition: PanelDefinition) -> list[Source]:
    """The sources that the definition names, each once."""
    handlers = {tool.handler.digest: tool.handler for tool in definition.tools}
    return [
        Source(handler.digest, handler.language, handler.entry, handler.source)
        for handler in handlers.values()
    ]


def decode(panel_id: str, data: bytes, known: Mapping[bytes, Source]) -> PanelDefinition:
    """The definition in ``data``.

    Raises ``msgspec.DecodeError``, ``ValueError`` (a digest that is none) or ``KeyError`` (one without its
    source).
    """
    try:
        stored = _decoder.decode(data)
    except RecursionError:
        raise msgspec.DecodeError("expected a definition, got one that nests too deeply") from None
    return PanelDefinition(
        id=panel_id,
        kind=stored.kind,
        title=stored.title,
        tools=tuple(
            ToolDefinition(
                name=tool.name,
                handler=handler(known[bytes.fromhex(tool.digest)]),
                trigger=tool.trigger,
                description=tool.description,
                capabilities=tool.capabilities,
                limits=tool.limits,
                exclusive=tool.exclusive,
                quota=tool.quota,
                args=None if tool.args is None else bytes(tool.args),
                returns=None if tool.returns is None else bytes(tool.returns),
            )
            for tool in stored.tools
        ),
        capabilities=stored.capabilities,
        metadata=bytes(stored.metadata),
        quota=stored.quota,
        pool=stored.pool,
        presence=stored.presence,
        modules=stored.modules,
    )


class _Heading(msgspec.Struct, frozen=True):
    kind: str
    title: str | None = None


_heading_decoder = msgspec.json.Decoder(_Heading)


def heading(data: bytes) -> tuple[str, str | None]:
    """The kind and the title of the definition in ``data``."""
    found = _heading_decoder.decode(data)
    return found.kind, found.title


def handler(source: Source) -> HandlerSource:
    """The handler that a record has."""
    return HandlerSource(
        msgspec.convert(source.language, Language), source.entry, source.source, Digest(source.digest)
    )
