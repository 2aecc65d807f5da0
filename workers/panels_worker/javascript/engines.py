"""The WebAssembly modules that scripts need, as ``quickjs-rs`` ships them: QuickJS, and the TypeScript transform."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

QUICKJS: Final = "quickjs"
TRANSFORM: Final = "transform"

_FILES: Final = {QUICKJS: "_guest.wasm", TRANSFORM: "_transform.wasm"}


class GuestChangedError(RuntimeError):
    """What the installed ``quickjs-rs`` ships is not what this host was written for."""


def engine_source(name: str) -> bytes:
    """The module's bytes. Raises ``GuestChangedError`` when the package does not have it."""
    try:
        return (files("quickjs_rs") / _FILES[name]).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise GuestChangedError(f"expected quickjs-rs to ship {_FILES[name]}, and it does not") from None


@cache
def engine_digest(name: str) -> bytes:
    """Names the compiled module in the artifact store."""
    return hashlib.sha256(b"panels engine v1\0" + name.encode() + b"\0" + engine_source(name)).digest()
