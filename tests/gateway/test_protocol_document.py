"""The protocol's document: its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from panels_shared.errors import CODES, CloseCode
from panels_shared.outcome import Reason

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def between(mark: str) -> list[str]:
    found = re.search(rf"<!-- {mark} -->\n(.*)<!-- end of {mark} -->", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1].strip().splitlines()


def test_document_lists_every_code() -> None:
    rows = [
        f"| `{code.value}` | {info.http_status} | {'yes' if info.retryable else ''} | {info.meaning} |"
        for code, info in CODES.items()
    ]
    assert between("codes") == ["| Code | HTTP | Retry | Meaning |", "|---|---|---|---|", *rows]


def test_document_lists_every_close_code() -> None:
    named = [row.split("|")[1:3] for row in between("close codes")[2:]]
    assert [(int(number), name.strip()) for number, name in named] == [
        (code.value, code.name) for code in CloseCode
    ]


def test_document_lists_every_reason() -> None:
    for reason in Reason:
        assert f"| `{reason.value}` |" in DOCUMENT
