"""What all tests share."""

from __future__ import annotations

import atexit

import pytest
from wasmtime._managed import Managed

from tests.long import is_long


def _leave_wasmtime_alone() -> None:
    """Its finalizers want modules that are gone when the interpreter ends, and say so at
    length behind the report.
    """
    Managed.__del__ = lambda self: None  # type: ignore[method-assign]


atexit.register(_leave_wasmtime_alone)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that ``scripts/test`` leaves out."""
    for item in items:
        if is_long(item.nodeid):
            item.add_marker(pytest.mark.long)
