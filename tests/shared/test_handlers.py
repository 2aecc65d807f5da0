"""What a handler is: its digest, its bounds, and what a capability may look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.handlers import (
    CAPABILITY_KINDS,
    DEFAULT_CAPABILITIES,
    MAX_SCRIPT_BYTES,
    MAX_WASM_BYTES,
    MAX_WAT_BYTES,
    handler_digest,
    is_capability,
    max_source_bytes,
)


@pytest.mark.parametrize("kind", CAPABILITY_KINDS)
@pytest.mark.parametrize("pattern", ["*", "a", "a*", "a:b", "a b*", "\n"])
def test_capability_is_a_kind_and_a_pattern(kind: str, pattern: str) -> None:
    assert is_capability(kind + pattern)


@pytest.mark.parametrize(
    "text", ["", "*", "ext", "ext:", "state:read:", "state:*", "ext:**", "ext:a*b", "state:list:a", " ext:a"]
)
def test_capability_is_nothing_else(text: str) -> None:
    assert not is_capability(text)


def test_default_capabilities_are_capabilities() -> None:
    assert all(map(is_capability, DEFAULT_CAPABILITIES))


def test_digest_tells_handlers_apart_whose_parts_join_alike() -> None:
    assert handler_digest("wat", "ab", b"c") != handler_digest("wat", "a", b"bc")
    assert handler_digest("wat", "a", b"b") != handler_digest("wasm", "a", b"b")


@given(st.text(max_size=8), st.binary(max_size=8))
def test_digest_is_that_of_the_same_handler_only(entry: str, source: bytes) -> None:
    assert handler_digest("wasm", entry, source) == handler_digest("wasm", entry, source)
    assert handler_digest("wasm", entry, source) != handler_digest("wasm", entry, source + b"\0")


def test_sources_are_bounded_by_language() -> None:
    assert max_source_bytes("wasm") == MAX_WASM_BYTES
    assert max_source_bytes("wat") == MAX_WAT_BYTES
    assert max_source_bytes("javascript") == max_source_bytes("typescript") == MAX_SCRIPT_BYTES
