"""The definitions in examples/ are what the gateway takes, and what they embed is what lies beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from panels_gateway.panels.definition_body import DefinitionLimits, parse

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DEFINITIONS = sorted((EXAMPLES / "panels").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)
def test_definition_is_accepted_by_the_gateway(path: Path) -> None:
    definition = parse(path.read_bytes(), DefinitionLimits(), default_id="unnamed")

    assert definition.id == path.stem
    assert all(tool.description for tool in definition.tools)


def test_counter_definition_embeds_the_module_beside_it() -> None:
    source = load(EXAMPLES / "panels" / "counter.json")["tools"][0]["handler"]["source"]

    assert source == (EXAMPLES / "wat" / "counter.wat").read_text()
    assert wat2wasm(source).startswith(b"\0asm")


def test_readme_shows_the_handler_of_the_poll() -> None:
    handler = load(EXAMPLES / "panels" / "poll.json")["tools"][0]["handler"]

    assert f"```js\n{handler}\n```\n" in (EXAMPLES.parent / "README.md").read_text()
