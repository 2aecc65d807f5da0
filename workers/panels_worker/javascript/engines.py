"""The WebAssembly modules that scripts need: what ``quickjs-rs`` ships, and what is compiled and kept of it."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from wasmtime import Engine, Module

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


def compile_engine(name: str, engine: Engine) -> bytes:
    """The serialized module, as ``engine_digest`` names it. Takes a second or two. Raises ``GuestChangedError``."""
    from panels_worker.javascript import image

    source = image.build(engine) if name == QUICKJS else engine_source(name)
    return bytes(Module(engine, source).serialize())


@cache
def engine_digest(name: str) -> bytes:
    """Names the compiled module in the artifact store: by everything that it is made of."""
    from panels_worker.javascript import image

    parts = [b"panels engine v2", name.encode(), engine_source(name)]
    if name == QUICKJS:
        parts.append(image.prelude())
    return hashlib.sha256(b"\0".join(parts)).digest()
