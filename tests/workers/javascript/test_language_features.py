from __future__ import annotations

import pytest

from tests.workers.javascript.features import DOCUMENT, FEATURES, Absent, Feature, document
from tests.workers.javascript.scripts import failure, value


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name.replace(" ", "_")[:40])
def test_feature_does_what_the_table_says(feature: Feature) -> None:
    if isinstance(feature.expected, Absent):
        assert failure(feature.source).message.startswith(feature.expected.error)
    else:
        assert value(feature.source) == feature.expected


def test_document_is_made_from_the_table() -> None:
    assert DOCUMENT.read_text() == document()
