"""The WebAssembly modules that the package ``quickjs-rs`` ships, as they are shipped."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

QUICKJS: Final = "quickjs"
TRANSFORM: Final = "transform"

_FILES: Final = {QUICKJS: "_guest.wasm", TRANSFORM: "_transform.wasm"}


class GuestChangedError(RuntimeError):
    """The installed ``quickjs-rs`` ships something other than what this host was written for."""


def engine_source(name: str) -> bytes:
    """The bytes of the module. Raises ``GuestChangedError`` when the package does not contain it."""
    try:
        return (files("quickjs_rs") / _FILES[name]).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise GuestChangedError(f"expected quickjs-rs to ship {_FILES[name]}, and it does not") from None
