"""What all tests share."""

from __future__ import annotations

import atexit

from wasmtime._managed import Managed


def _leave_wasmtime_alone() -> None:
    """Its finalizers want modules that are gone when the interpreter ends, and say so at
    length behind the report.
    """
    Managed.__del__ = lambda self: None  # type: ignore[method-assign]


atexit.register(_leave_wasmtime_alone)
