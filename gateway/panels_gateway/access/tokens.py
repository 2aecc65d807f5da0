"""Who is asking, and what they may do. This module knows no HTTP: it turns a token into a ``Principal``.

A token is a JWS in compact form (RFC 7519). It is checked in this order, the cheap and structural first:

    length → three base64url parts → strict JSON header → the key its kid names → its algorithms → signature
    → strict JSON claims → exp, nbf, iat → iss, aud → sub, jti, panels, panels_admin

``exp`` is required and must be a number no further away than ``TokenRules.max_lifetime_s``. The claim
``panels`` is optional: ``[{"id": "team-*", "allow": ["read", "trigger:add", "manage"]}]``. Without it the
bearer may do everything; with it, only what it lists. If it is malformed, the whole token is refused.

The claims that ``TokenRules.scope_claims`` names are shown to handlers, as they stand in the token.

``panels_admin: true`` lets the bearer revoke tokens. Nothing else does, and it allows nothing else.

What this does not protect against: a stolen token works until it expires, unless somebody revokes it
(``revocations``), for which ``jti`` or ``sub`` is what it is known by.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from panels_gateway.access.keys import Keyring
from panels_gateway.access.reach import EVERYTHING, Reach
from panels_gateway.access.strict_json import StrictJsonError, decode_strict
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError, PanelsError
from panels_shared.limits import KIB
from panels_shared.names import Pattern, is_name_pattern

#: Security limits of a token.
MAX_TOKEN_CHARS: Final = 8 * KIB
MAX_SUBJECT_CHARS: Final = 256
MAX_TOKEN_ID_CHARS: Final = 256
MAX_GRANTS: Final = 256
MAX_PERMISSIONS_PER_GRANT: Final = 64
#: What the claims that handlers see may take in all, as JSON. Every record of a commit has them.
MAX_SCOPE_CLAIMS_BYTES: Final = 2 * KIB
#: How many verified tokens are remembered; the least recently used one is forgotten first.
MAX_CACHED_TOKENS: Final = 1_024

_TOKEN_PATTERN: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_NO_CLAIMS: Final[Mapping[str, Any]] = {}
_encode: Final = msgspec.json.Encoder().encode


class TokenError(PanelsError):
    """A token that is not trusted. ``str()`` may be told to its bearer; it never quotes the token."""


class _Scope(msgspec.Struct):
    sub: str | None = None


_scope_decoder: Final = msgspec.json.Decoder(_Scope)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one entry of the claim ``panels`` allows on the panels it names."""

    panels: Pattern
    read: bool
    manage: bool
    triggers: tuple[Pattern, ...]
    answers: tuple[Pattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who sends requests, and what they may do.

    - ``subject``: the token's ``sub``, None when it has none and for the anonymous principal;
    - ``expires_at``: Unix seconds, None for never;
    - ``grants``: None for everything; permissions do not imply each other;
    - ``scope``: JSON of what handlers see of the token: ``{"sub": ..., <claims>}``. Never the token itself;
    - ``token_id``: the token's ``jti``, ``issued_at`` its ``iat`` in Unix seconds, None where it has none;
    - ``admin``: whether they may revoke tokens, which no grant says;
    - ``readable``: the ids that the grants allow to read.
    """

    subject: str | None
    expires_at: float | None
    grants: tuple[Grant, ...] | None
    scope: bytes
    token_id: str | None = None
    issued_at: float | None = None
    admin: bool = False
    readable: Reach = field(init=False)

    def __post_init__(self) -> None:
        grants = self.grants
        readable = EVERYTHING if grants is None else Reach.of(g.panels for g in grants if g.read)
        object.__setattr__(self, "readable", readable)

    def scope_in(
        self, panel_id: str, request_id: str | None, client_id: str | None, presence: bytes | None = None
    ) -> bytes:
        """The JSON that a handler sees as ``$scope`` when they trigger it: their ``scope``, and where it was.
        ``client_id`` is that of their connection, None over HTTP; ``presence`` is who watches the panel,
        JSON, None where the handler may not know.
        """
        # an id of a panel has no character that JSON escapes
        parts = [self.scope[:-1], b',"panelId":"%b"' % panel_id.encode()]
        if request_id is not None:
            parts.append(b',"requestId":%b' % _encode(request_id))
        if client_id is not None:
            parts.append(b',"clientId":%b' % _encode(client_id))
        if presence is not None:
            parts.append(b',"presence":%b' % presence)
        parts.append(b"}")
        return b"".join(parts)

    def may_read(self, panel_id: str) -> bool:
        """Whether they may watch the panel and fetch its state."""
        return self.grants is None or self.readable.covers(panel_id)

    def may_trigger(self, panel_id: str, tool: str) -> bool:
        """Whether they may trigger ``tool``."""
        if self.grants is None:
            return True
        return any(
            grant.panels.matches(panel_id) and any(pattern.matches(tool) for pattern in grant.triggers)
            for grant in self.grants
        )

    def may_answer(self, panel_id: str, tool: str) -> bool:
        """Whether they may answer what the handlers of ``tool`` ask."""
        if self.grants is None:
            return True
        return any(
            grant.panels.matches(panel_id) and any(pattern.matches(tool) for pattern in grant.answers)
            for grant in self.grants
        )

    def may_manage(self, panel_id: str) -> bool:
        """Whether they may create, replace and delete the panel."""
        return self.grants is None or any(g.manage and g.panels.matches(panel_id) for g in self.grants)


def principal_of(
    subject: str | None,
    *,
    expires_at: float | None,
    grants: tuple[Grant, ...] | None,
    claims: Mapping[str, Any] = _NO_CLAIMS,
) -> Principal:
    """A principal with the scope that handlers see: the subject, and these claims.

    Raises ``UnicodeEncodeError``.
    """
    return Principal(subject, expires_at, grants, _encode({"sub": subject, **claims}))


def subject_of(scope: bytes) -> str:
    """The subject in a ``Principal.scope`` or what ``scope_in`` made of it; "" where it has none."""
    try:
        return _scope_decoder.decode(scope).sub or ""
    except msgspec.DecodeError:
        return ""


#: Everybody, when the gateway runs without authentication.
ANONYMOUS: Final = principal_of(None, expires_at=None, grants=None)
#: Whom a client becomes whose token holds no more.
NOBODY: Final = principal_of(None, expires_at=None, grants=())


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What claims must say. ``audience`` and ``issuer`` None: not checked. All times in seconds.

    ``scope_claims`` are the names of claims that handlers see.
    """

    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 5.0
    max_lifetime_s: float = 24 * 3_600.0
    scope_claims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    not_before: float


class TokenVerifier:
    """Tells whose a token is.

    Verified tokens are remembered (at most ``MAX_CACHED_TOKENS``, keyed by the token itself, in memory only);
    their times are checked on every use all the same.
    """

    def __init__(self, keyring: Keyring, rules: TokenRules, *, clock: Callable[[], float]) -> None:
        """``clock`` gives Unix seconds."""
        self._keyring = keyring
        self._rules = rules
        self._clock = clock
        self._cache: OrderedDict[str, _Verified] = OrderedDict()

    def replace_keys(self, keyring: Keyring) -> None:
        """Verifies with these keys only from now on."""
        self._keyring = keyring
        self._cache.clear()

    def knows(self, token: str) -> bool:
        """Whether the signature of ``token`` was verified before."""
        return token in self._cache

    def verify(self, token: str) -> Principal:
        """The principal that ``token`` names. Raises ``TokenError``."""
        if len(token) > MAX_TOKEN_CHARS:
            raise TokenError(f"expected a token of at most {MAX_TOKEN_CHARS} characters")
        now = self._clock()
        verified = self._cache.get(token)
        if verified is None:
            verified = _verify_claims(self._verify_signature(token), self._rules, now)
            self._cache[token] = verified
            if len(self._cache) > MAX_CACHED_TOKENS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(token)
        _check_times(verified, self._rules, now)
        return verified.principal

    def _verify_signature(self, token: str) -> bytes:
        """The payload of a token whose signature is valid."""
        parts = _TOKEN_PATTERN.fullmatch(token)
        if parts is None:
            raise TokenError("expected a JWT in compact form")
        header = _decode_object(parts[1], "header")
        if "crit" in header or "b64" in header:
            raise TokenError("expected a header without critical extensions")
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(kid, str | None) or not isinstance(algorithm, str):
            raise TokenError("expected a header with alg and kid as strings")
        keys = self._keyring.find(kid)
        if not keys:
            raise TokenError("expected a token of a known key (kid)")
        keys = tuple(key for key in keys if algorithm in key.algorithms)
        if not keys:
            raise TokenError("expected a token signed with the algorithm of its key")
        text, _, encoded = token.encode("ascii").rpartition(b".")
        signature = _decode_part(encoded.decode("ascii"), "signature")
        if not any(key.verify(algorithm, text, signature) for key in keys):
            raise TokenError("expected a token with a valid signature")
        return _decode_part(parts[2], "payload")


def _decode_part(part: str, name: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise TokenError(f"expected a {name} in base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part.encode("ascii"):
        raise TokenError(f"expected a {name} in canonical base64url")  # one token has one spelling
    return decoded


def _decode_object(part: str, name: str) -> Mapping[str, Any]:
    return _object_in(_decode_part(part, name), name)


def _object_in(text: bytes, name: str) -> Mapping[str, Any]:
    try:
        value = decode_strict(text)
    except StrictJsonError:
        raise TokenError(f"expected a {name} of strict JSON") from None
    if not isinstance(value, dict):
        raise TokenError(f"expected a {name} that is a JSON object")
    return value


# -- claims ------------------------------------------------------------------------------------------


def _verify_claims(payload: bytes, rules: TokenRules, now: float) -> _Verified:
    claims = _object_in(payload, "payload")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenError("expected a token that expires (exp)")
    if expires_at > now + rules.max_lifetime_s + rules.leeway_s:
        raise TokenError(f"expected a token that expires within {rules.max_lifetime_s:g} s (exp)")
    issued_at, not_before = _time(claims, "iat"), _time(claims, "nbf")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise TokenError("expected a token of the configured issuer (iss)")
    if rules.audience is not None and not _names_audience(claims.get("aud"), rules.audience):
        raise TokenError("expected a token for the configured audience (aud)")
    subject = claims.get("sub")
    if subject is not None and not (isinstance(subject, str) and 1 <= len(subject) <= MAX_SUBJECT_CHARS):
        raise TokenError(f"expected a subject of 1 to {MAX_SUBJECT_CHARS} characters (sub)")
    token_id = claims.get("jti")
    if token_id is not None and not (isinstance(token_id, str) and 1 <= len(token_id) <= MAX_TOKEN_ID_CHARS):
        raise TokenError(f"expected an id of 1 to {MAX_TOKEN_ID_CHARS} characters (jti)")
    admin = claims.get("panels_admin", False)
    if not isinstance(admin, bool):
        raise TokenError("expected panels_admin to be true or false")
    shown = _shown(claims, rules.scope_claims)
    try:
        principal = replace(
            principal_of(subject, expires_at=expires_at, grants=_grants(claims), claims=shown),
            token_id=token_id,
            issued_at=issued_at,
            admin=admin,
        )
    except UnicodeEncodeError:
        raise TokenError("expected a subject of well-formed Unicode (sub)") from None
    return _Verified(principal, max(issued_at or 0.0, not_before or 0.0))


def _shown(claims: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    """The claims that handlers see, which are of bounded size and hold what every JSON reader can read."""
    found = {name: claims[name] for name in names if name in claims}
    if not found:
        return found
    try:
        # unlike msgspec, this refuses numbers that are infinite
        text = json.dumps(found, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        jsonvalue.validate(text)
    except (InvalidJsonError, ValueError, RecursionError):
        raise TokenError(f"expected {', '.join(found)} to hold JSON that handlers can read") from None
    if len(text) > MAX_SCOPE_CLAIMS_BYTES:
        raise TokenError(
            f"expected {', '.join(found)} to take at most {MAX_SCOPE_CLAIMS_BYTES} bytes, got {len(text)}"
        )
    return found


def _check_times(verified: _Verified, rules: TokenRules, now: float) -> None:
    expires_at = verified.principal.expires_at
    if expires_at is not None and now >= expires_at + rules.leeway_s:
        raise TokenError("the token has expired")
    if verified.not_before > now + rules.leeway_s:
        raise TokenError("the token is not valid yet (nbf, iat)")


def _names_audience(claimed: object, audience: str) -> bool:
    """Whether ``aud`` is our audience, or a list of strings that contains it (RFC 7519 section 4.1.3)."""
    if isinstance(claimed, list):
        return audience in claimed and all(isinstance(name, str) for name in claimed)
    return claimed == audience


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # bool is an int, and a number beyond a double's range reads as infinity
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"expected {name} to be a number of seconds")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise TokenError(f"expected {name} to be a finite number of seconds")
    return seconds


def _grants(claims: Mapping[str, Any]) -> tuple[Grant, ...] | None:
    if "panels" not in claims:
        return None
    entries = claims["panels"]
    if not isinstance(entries, list) or len(entries) > MAX_GRANTS:
        raise TokenError(f"expected panels to be a list of at most {MAX_GRANTS} entries")
    return tuple(_grant(entry) for entry in entries)


def _grant(entry: object) -> Grant:
    if not isinstance(entry, dict) or entry.keys() != {"id", "allow"}:
        raise TokenError("expected each entry of panels to have id and allow, and nothing else")
    allow: object = entry["allow"]
    if not isinstance(allow, list) or len(allow) > MAX_PERMISSIONS_PER_GRANT:
        raise TokenError(f"expected allow to be a list of at most {MAX_PERMISSIONS_PER_GRANT} permissions")
    triggers: list[Pattern] = []
    answers: list[Pattern] = []
    for permission in allow:
        if not isinstance(permission, str):
            raise TokenError("expected each permission to be a string")
        if permission.startswith("trigger:"):
            triggers.append(_pattern(permission.removeprefix("trigger:"), "trigger"))
        elif permission.startswith("answer:"):
            answers.append(_pattern(permission.removeprefix("answer:"), "answer"))
        elif permission not in ("read", "manage"):
            raise TokenError(
                "expected each permission to be read, manage, trigger:<tool|*> or answer:<tool|*>"
            )
    return Grant(
        _pattern(entry["id"], "id"), "read" in allow, "manage" in allow, tuple(triggers), tuple(answers)
    )


def _pattern(text: object, name: str) -> Pattern:
    if not isinstance(text, str) or not is_name_pattern(text):
        raise TokenError(f"expected {name} to be a name, or a prefix and *")
    return Pattern.of(text)
