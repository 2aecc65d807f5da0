"""The table of bounds: nothing is missing in it, nothing in it is gone, and the document shows it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from panels_gateway.extensions.errors import ErrorCode
from panels_shared.bounds import BOUNDS, INTERNAL, POLICIES, Bound, constant, options, reference
from panels_shared.errors import CloseCode, Code
from panels_shared.outcome import Reason

ROOT = Path(__file__).resolve().parents[2]
ALL = [bound for bounds in BOUNDS.values() for bound in bounds]
#: Options with a number that bounds nothing: a port, samples, a wait.
NO_BOUNDS = {"--port", "--stage-sampling", "--trace-ratio", "panels-worker --nice", "panels-worker --spin-us"}


def constants() -> Iterator[str]:
    """Every constant named MAX_* at the top of a module, by its dotted name."""
    for package in ("gateway/panels_gateway", "shared/panels_shared", "workers/panels_worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to((ROOT / package).parent).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                for target in targets:
                    if isinstance(target, ast.Name) and target.id.startswith("MAX_"):
                        yield f"{module}.{target.id}"


def test_every_constant_is_in_the_table_or_named_as_internal() -> None:
    named = {bound.name for bound in ALL}
    found = set(constants())
    assert len(found) > 100
    assert found - named - INTERNAL == set(), "put them into panels_shared.bounds"
    assert {name for name in named | INTERNAL if "--" not in name} - found == set(), "these are gone"
    assert named & INTERNAL == set()


def test_every_option_with_a_number_is_in_the_table() -> None:
    known = {**options("--"), **options("panels-worker --")}
    numbers = {name for name, option in known.items() if option.kind in ("integer", "bytes", "number")}
    named = {bound.name for bound in ALL if "--" in bound.name}
    assert numbers - named == NO_BOUNDS
    assert named - numbers == set()


@pytest.mark.parametrize("bound", ALL, ids=lambda bound: bound.name)
def test_bound_says_what_happens_in_words_that_are_known(bound: Bound) -> None:
    codes = {code.value for code in Code} | {reason.value for reason in Reason}
    codes |= {code.value for code in ErrorCode} | {str(code.value) for code in CloseCode}
    codes |= {"", "65", "74", "78"}
    assert bound.code in codes or re.fullmatch(r"HTTP [45][0-9]{2}", bound.code)
    assert bound.policy in POLICIES
    assert bound.what
    if "--" not in bound.name:
        assert constant(bound.name) > 0


def test_bounds_are_named_once() -> None:
    assert [name for name, count in Counter(bound.name for bound in ALL).items() if count > 1] == []


def test_document_holds_the_table() -> None:
    """After a change of bounds: python -m panels_shared.bounds > the part between the marks."""
    document = (ROOT / "docs" / "limits.md").read_text()
    found = re.search(r"<!-- bounds -->\n(.*)<!-- end of bounds -->", document, re.DOTALL)
    assert found is not None
    assert found[1].strip() == reference().strip()
