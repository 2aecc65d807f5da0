"""Which tokens are refused although they are valid: those with a revoked ``jti``, or of a revoked ``sub``.

Pure: whoever changes the list sees to it that the change is recorded.

A revocation by ``sub`` may say ``before``: then it concerns the tokens that were issued before that time
(``iat``), and those that do not say when they were issued. Tokens issued later are good, so that a person can
come back with a new one. A revocation ends when the tokens that it concerns must have expired, and is then
dropped. There is at most one for each ``jti`` and each ``sub``: another one is merged into it, and never
makes it weaker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from panels_gateway.access.tokens import Principal

#: How many revocations there may be at a time. A security limit.
MAX_REVOCATIONS: Final = 65_536
_NAME_BYTES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """Tokens that are refused. Either ``token_id`` or ``subject`` is given. All times are Unix seconds.

    ``before`` None: whenever they were issued. ``expires_at`` is when the revocation itself ends.
    """

    token_id: str | None = None
    subject: str | None = None
    before: float | None = None
    revoked_at: float
    expires_at: float

    @property
    def name(self) -> str:
        """Its id: the same for the same ``jti`` or ``sub``, and it tells neither."""
        kind, text = ("jti", self.token_id) if self.token_id is not None else ("sub", self.subject)
        return hashlib.sha256(f"{kind}\0{text}".encode()).digest()[:_NAME_BYTES].hex()

    def concerns(self, principal: Principal) -> bool:
        """Whether the principal's token is among those that are refused."""
        if self.token_id is not None:
            return principal.token_id == self.token_id
        if self.subject is None or principal.subject != self.subject:
            return False
        issued_at = principal.issued_at
        return self.before is None or issued_at is None or issued_at < self.before

    def merged(self, other: Revocation) -> Revocation:
        """One that refuses at least what this and ``other``, which has the same name, refuse."""
        before = None
        if self.before is not None and other.before is not None:
            before = max(self.before, other.before)
        return Revocation(
            token_id=self.token_id,
            subject=self.subject,
            before=before,
            revoked_at=self.revoked_at,
            expires_at=max(self.expires_at, other.expires_at),
        )


class Revocations:
    """All of them, at most ``MAX_REVOCATIONS``. Asking costs two look-ups."""

    def __init__(self) -> None:
        self._by_name: dict[str, Revocation] = {}
        self._by_token: dict[str, Revocation] = {}
        self._by_subject: dict[str, Revocation] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, name: str) -> Revocation | None:
        """The revocation of that name."""
        return self._by_name.get(name)

    def page(self, *, after: str, limit: int) -> list[Revocation]:
        """Those whose names are greater than ``after``, at most ``limit``, in the order of their names."""
        names = nsmallest(limit, (name for name in self._by_name if name > after))
        return [self._by_name[name] for name in names]

    def add(self, revocation: Revocation) -> None:
        """Refuses its tokens from now on, in place of one of the same name."""
        self._by_name[revocation.name] = revocation
        if revocation.token_id is not None:
            self._by_token[revocation.token_id] = revocation
        elif revocation.subject is not None:
            self._by_subject[revocation.subject] = revocation

    def remove(self, name: str) -> None:
        """Refuses its tokens no more. Does nothing if there is none of that name."""
        revocation = self._by_name.pop(name, None)
        if revocation is None:
            return
        if revocation.token_id is not None:
            del self._by_token[revocation.token_id]
        elif revocation.subject is not None:
            del self._by_subject[revocation.subject]

    def drop_ended(self, now: float) -> None:
        """Forgets those that have ended."""
        for name in [name for name, found in self._by_name.items() if found.expires_at <= now]:
            self.remove(name)

    def restore(self, revocations: Iterable[Revocation]) -> None:
        """Adds those that were recorded."""
        for revocation in revocations:
            self.add(revocation)

    def refuse(self, principal: Principal) -> bool:
        """Whether the principal's token is revoked."""
        found = self._by_token.get(principal.token_id) if principal.token_id is not None else None
        if found is not None:
            return True
        found = self._by_subject.get(principal.subject) if principal.subject is not None else None
        return found is not None and found.concerns(principal)
