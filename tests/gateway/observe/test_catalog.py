"""The catalog of metrics, and the document that is made of it."""

from __future__ import annotations

import re
from pathlib import Path

from panels_gateway.observe.catalog import OWN, reference

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def test_document_shows_the_catalog() -> None:
    found = re.search(r"<!-- metrics -->\n(.*)<!-- end of metrics -->", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    assert found[1].strip() == reference(), "run python -m panels_gateway.observe.catalog"


def test_document_names_no_metric_that_is_not_there() -> None:
    known = {family.name for family in OWN}
    for name in re.findall(r"`(panels_[a-z_]+)`", DOCUMENT.read_text()):
        assert name in known, name


def test_names_have_units_and_follow_the_convention() -> None:
    assert len({family.name for family in OWN}) == len(OWN)
    for family in OWN:
        assert (family.kind == "counter") == family.name.endswith("_total")
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")
        assert not re.search(r"_(ms|us|kb|mb|count|sum|bucket)(_|$)", family.name), family.name
