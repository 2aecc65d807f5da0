"""Tokens for tests: what a trusted issuer signs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import jwt

LIFETIME_S = 3_600.0

Grants = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Issuer:
    """Whoever holds the secret that a gateway trusts."""

    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def mint(
        self,
        subject: str | None = "tester",
        *,
        grants: Grants | None = None,
        expires_in_s: float = LIFETIME_S,
        algorithm: str = "HS256",
        **claims: object,
    ) -> str:
        """A token. ``grants`` are pairs of a panel pattern and what is allowed on it; None: everything."""
        payload: dict[str, object] = {"exp": int(time.time() + expires_in_s), **claims}
        if subject is not None:
            payload["sub"] = subject
        if grants is not None:
            payload["panels"] = [{"id": pattern, "allow": list(allow)} for pattern, allow in grants]
        return jwt.encode(payload, self.secret, algorithm=algorithm)

    def mint_without_expiry(self) -> str:
        """A token that says nothing of when it ends."""
        return jwt.encode({"sub": "tester"}, self.secret, algorithm="HS256")
