"""What all tests share."""

from __future__ import annotations

import pytest

#: Above this a value says nothing to a reader as a test's name, and it may differ between the processes that share the
#: tests (a token with a time in it), which have to agree on the names.
MAX_ID_CHARS = 64


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """The argument's name (pytest numbers those that are equal) instead of a long value; None leaves it to pytest."""
    if isinstance(val, str | bytes) and len(val) > MAX_ID_CHARS:
        return argname
    return None
