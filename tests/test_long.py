"""The table of tests that take long names files and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.long import LONG, is_long

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", sorted(LONG))
def test_long_test_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    source = (ROOT / file).read_text()
    assert not test or re.search(rf"^(?:async )?def {test}\(", source, re.MULTILINE)


def test_cases_of_a_test_are_as_long_as_it_is() -> None:
    image = "tests/workers/javascript/test_image.py::test_fresh_instances_are_alike_and_small"
    assert is_long(image)
    assert is_long(f"{image}[case]")
    assert not is_long(f"{image}_and_more")
    assert is_long("tests/test_isolation.py::test_any")
    assert not is_long("tests/test_isolation_of.py::test_any")
