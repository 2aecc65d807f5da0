"""A definition as the journal keeps it comes back as it was, and a damaged one is refused."""

from __future__ import annotations

import msgspec
import pytest

from panels_gateway.journal.records import Source
from panels_gateway.panels import stored
from panels_gateway.panels.definition import PanelDefinition
from tests.support.gateway import make_definition


def sources_of(definition: PanelDefinition) -> dict[bytes, Source]:
    return {source.digest: source for source in stored.sources(definition)}


def full() -> PanelDefinition:
    """Everything that a definition may say; two of its three tools share a handler."""
    tools: list[dict[str, object]] = [
        {
            "name": "a",
            "handler": "$args",
            "description": "D",
            "capabilities": ["state:read:*"],
            "limits": {"timeoutMs": 77},
        },
        {"name": "b", "handler": "$args", "quota": {"timeMs": 5, "windowS": 2.5}},
        {"name": "c", "handler": {"language": "wat", "source": "(module)"}},
    ]
    return make_definition("p", tools=tools, title="T", metadata={"a": [1, {"b": None}]}, quota={"fuel": 9})


def test_definition_comes_back_as_it_was_but_for_its_first_state() -> None:
    made = full()
    assert stored.decode("p", stored.encode(made), sources_of(made)) == made
    with_state = make_definition("p", "t", state={"n": 1})
    back = stored.decode("p", stored.encode(with_state), sources_of(with_state))
    assert back.initial_state is None
    assert back.tools == with_state.tools


def test_definition_names_handlers_by_digest_and_each_source_is_there_once() -> None:
    made = full()
    data = stored.encode(made)
    digests = {tool.handler.digest for tool in made.tools}
    assert {source.digest for source in stored.sources(made)} == digests
    assert len(stored.sources(made)) == len(digests) < len(made.tools)
    for tool in made.tools:
        assert tool.handler.source not in data
        assert tool.handler.digest.hex().encode() in data


def test_heading_is_read_without_the_rest() -> None:
    assert stored.heading(stored.encode(full())) == ("test", "T")
    assert stored.heading(stored.encode(make_definition("p"))) == ("test", None)


def test_damaged_definition_is_refused() -> None:
    made = make_definition("p", "t")
    data, known = stored.encode(made), sources_of(made)
    for damaged in (b"", b"{", b"[]", b"{}", b'{"kind":1,"tools":[]}'):
        with pytest.raises(msgspec.DecodeError):
            stored.decode("p", damaged, known)
    with pytest.raises(KeyError):
        stored.decode("p", data, {})
    digest = made.tools[0].handler.digest.hex().encode()
    with pytest.raises(ValueError, match="hex"):
        stored.decode("p", data.replace(digest, b"zz" * 32), known)
    source = next(iter(known.values()))
    foreign = {source.digest: msgspec.structs.replace(source, language="cobol")}
    with pytest.raises(msgspec.ValidationError):
        stored.decode("p", data, foreign)


def test_definition_that_nests_too_deeply_is_refused_as_any_other() -> None:
    with pytest.raises(msgspec.DecodeError, match="deeply"):
        stored.decode("p", b'{"kind":"k","tools":[],"new":' + b"[" * 5_000 + b"]" * 5_000 + b"}", {})
