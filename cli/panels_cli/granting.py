"""The claims of a development token, from the command line. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from panels_cli.faults import UsageError
from panels_shared.names import is_name_pattern

MIN_SECRET_BYTES: Final = 32
MAX_SECRET_BYTES: Final = 64 * 1024
MAX_TTL_S: Final = 366 * 24 * 3_600
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def duration_s(text: str) -> int:
    """Seconds in a text like ``90``, ``30m``, ``12h`` or ``1d``. Raises ``UsageError``."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 1 <= seconds <= MAX_TTL_S:
        raise UsageError(f"--ttl: expected a time from 1s to 366d, like 30m or 12h, got {text[:32]!r}")
    return seconds


def grant(text: str) -> dict[str, object]:
    """An entry of the claim ``panels``, from a text like ``todo-*=read,trigger:add``.

    Raises ``UsageError``.
    """
    pattern, sign, allowed = text.partition("=")
    permissions = allowed.split(",")
    if not sign or not is_name_pattern(pattern) or not all(map(_is_permission, permissions)):
        raise UsageError(
            "--allow: expected PANELS=PERMISSION,… with read, manage, trigger:TOOL or answer:TOOL, like "
            f"todo-*=read,trigger:*, got {text[:64]!r}"
        )
    return {"id": pattern, "allow": permissions}


def claims(subject: str | None, ttl_s: int, allow: Sequence[str], *, now_s: int) -> dict[str, object]:
    """The claims. Without ``allow`` the token allows everything; ``now_s`` is the time in Unix seconds."""
    made: dict[str, object] = {"iat": now_s, "exp": now_s + ttl_s}
    if subject is not None:
        made["sub"] = subject
    if allow:
        made["panels"] = [grant(text) for text in allow]
    return made


def secret_of(content: bytes) -> bytes:
    """The secret in a file, as the gateway reads it. Raises ``UsageError``."""
    secret = content.removesuffix(b"\n").removesuffix(b"\r")
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise UsageError(
            f"--secret-file: expected a secret of at least {MIN_SECRET_BYTES} bytes, got {len(secret)}; "
            "make one with: openssl rand -hex 32"
        )
    return secret


def _is_permission(text: str) -> bool:
    kind, sign, name = text.partition(":")
    return text in ("read", "manage") or (
        sign == ":" and kind in ("trigger", "answer") and is_name_pattern(name)
    )
