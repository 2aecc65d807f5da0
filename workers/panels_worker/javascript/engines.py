"""The compiled WebAssembly modules that scripts need, and the digests by which they are stored.

There is one for each build of the guest that is carried (``builds``), and the one that strips TypeScript.
"""

from __future__ import annotations

import hashlib
from functools import cache

from wasmtime import Engine, Module

from panels_worker.javascript import image, rejections
from panels_worker.javascript.assets import QUICKJS, TRANSFORM, GuestChangedError, engine_source
from panels_worker.javascript.builds import PREVIOUS, carried, prelude_of

__all__ = [
    "PREVIOUS",
    "QUICKJS",
    "TRANSFORM",
    "GuestChangedError",
    "carried",
    "compile_engine",
    "engine_digest",
    "engine_source",
]


def compile_engine(name: str, engine: Engine) -> bytes:
    """The serialized module that ``engine_digest`` names. Compiling takes a second or two.

    Raises ``GuestChangedError``, and ``KeyError`` for a build that is not carried.
    """
    source = engine_source(name) if name == TRANSFORM else image.build(engine, prelude_of(name))
    return bytes(Module(engine, source).serialize())


@cache
def engine_digest(name: str) -> bytes:
    """The name of the compiled module in the artifact store: a digest of everything that it is made of.

    A build has the same digest as the present one as later as the previous one.
    """
    if name == TRANSFORM:
        parts = [b"panels engine v4", name.encode(), engine_source(name)]
    else:
        parts = [b"panels engine v4", QUICKJS.encode(), engine_source(QUICKJS), prelude_of(name)]
        parts.append(rejections.TRACKER.encode())
    return hashlib.sha256(b"\0".join(parts)).digest()
