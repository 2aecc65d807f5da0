"""What a handler is before anything is known of it: language, source and entry, its
digest, and what it may do.
"""

from __future__ import annotations

import hashlib
from typing import Final

from panels_shared.limits import KIB, MIB
from panels_shared.messages import Digest, Language

#: Security limits on what is compiled.
MAX_WASM_BYTES = 2 * MIB
MAX_WAT_BYTES = 2 * MIB
MAX_SCRIPT_BYTES = 256 * KIB
MAX_ENTRY_CHARS = 128

DEFAULT_ENTRY = "handle"

#: How the kinds of capabilities begin: reading and writing keys of the state, emitting events, updating
#: views, calling extensions. A name, a prefix and ``*``, or ``*`` alone follows.
CAPABILITY_KINDS: Final = ("state:read:", "state:write:", "events:emit:", "view:update:", "ext:")
#: The capability to know who watches the panel.
PRESENCE_CAPABILITY: Final = "presence:read"
#: What a tool may touch that names nothing, nor does its panel: the panel's own state, and events.
DEFAULT_CAPABILITIES = ("state:read:*", "state:write:*", "events:emit:*")


#: What stands around a script and the modules that travel with it, in bytes: their names and lengths.
MAX_COMPOSING_BYTES: Final = 4 * KIB


def max_source_bytes(language: Language) -> int:
    """How long the source of a handler in ``language`` may be, in bytes, with the modules that it
    imports.
    """
    if language == "wasm":
        return MAX_WASM_BYTES
    if language == "wat":
        return MAX_WAT_BYTES
    return MAX_SCRIPT_BYTES


def is_capability(text: str) -> bool:
    """Whether ``text`` is ``PRESENCE_CAPABILITY``, or one of ``CAPABILITY_KINDS`` followed by a pattern, in
    which ``*`` stands last.
    """
    if text == PRESENCE_CAPABILITY:
        return True
    for kind in CAPABILITY_KINDS:
        if text.startswith(kind):
            pattern = text.removeprefix(kind)
            return pattern != "" and "*" not in pattern[:-1]
    return False


def handler_digest(language: Language, entry: str, source: bytes) -> Digest:
    """SHA-256 that names a handler. Lengths are hashed too, so that no two handlers share an encoding."""
    digest = hashlib.sha256(b"panels handler v1\0")
    for part in (language.encode(), entry.encode(), source):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return Digest(digest.digest())
