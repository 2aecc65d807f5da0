"""What the compile child answers; the limits of the real process are tested with the compiler."""

from __future__ import annotations

import os

import pytest

from panels_shared.handlers import MAX_WASM_BYTES
from panels_shared.messages import Language
from panels_worker.compiling.compile import answer
from panels_worker.javascript.engines import QUICKJS
from tests.workers.javascript.scripts import engines
from tests.workers.modules import GOOD


@pytest.mark.parametrize(
    ("language", "source", "code"),
    [
        ("wasm", b"\0asm", "malformed"),
        ("wasm", b"x" * (MAX_WASM_BYTES + 1), "too_large"),
        ("wasm", GOOD[:-3], "malformed"),
        ("wat", b"\xff", "malformed"),
        ("wat", b"(module\n  (nonsense))", "syntax"),
    ],
)
def test_answer_refuses_what_is_no_module(language: Language, source: bytes, code: str) -> None:
    word, found, message, *_ = answer(language, "handle", source, {})
    assert (word, found) == ("refusal", code)
    assert message.startswith("expected ")


def test_answer_places_what_the_assembler_refuses() -> None:
    assert answer("wat", "handle", b"(module\n  (nonsense))", {})[3:] == [2, 4]


def test_answer_compiles_a_module() -> None:
    word, kind, payload = answer("wasm", "handle", GOOD, {})
    assert (word, kind) == ("artifact", 1)
    assert payload


def test_answer_prepares_a_script_in_the_engine_that_it_is_given() -> None:
    descriptor = os.memfd_create("engine")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(engines()[QUICKJS])
        word, kind, _ = answer("javascript", "", b"return 1", {QUICKJS: descriptor})
    finally:
        os.close(descriptor)
    assert (word, kind) == ("artifact", 2)
