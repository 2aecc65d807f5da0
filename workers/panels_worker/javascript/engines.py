"""The compiled WebAssembly modules that scripts need, and the digests by which they are stored."""

from __future__ import annotations

import hashlib
from functools import cache

from wasmtime import Engine, Module

from panels_worker.javascript import image, rejections
from panels_worker.javascript.assets import QUICKJS, TRANSFORM, GuestChangedError, engine_source

__all__ = ["QUICKJS", "TRANSFORM", "GuestChangedError", "compile_engine", "engine_digest", "engine_source"]


def compile_engine(name: str, engine: Engine) -> bytes:
    """The serialized module that ``engine_digest`` names. Compiling takes a second or two.

    Raises ``GuestChangedError``.
    """
    source = image.build(engine) if name == QUICKJS else engine_source(name)
    return bytes(Module(engine, source).serialize())


@cache
def engine_digest(name: str) -> bytes:
    """The name of the compiled module in the artifact store: a digest of everything that it is made of."""
    parts = [b"panels engine v4", name.encode(), engine_source(name)]
    if name == QUICKJS:
        parts += [image.prelude(), rejections.TRACKER.encode()]
    return hashlib.sha256(b"\0".join(parts)).digest()
