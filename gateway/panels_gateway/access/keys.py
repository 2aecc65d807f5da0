"""The keys that tokens are verified with.

They are read from files at start-up and on reload, never from the network.

A key fixes its algorithms before any token is seen: those of one family (HMAC, RSA, one elliptic
curve, Ed25519), so that a public key can never be taken for an HMAC secret. A token's header only
chooses among them, by ``kid``.

Identity providers publish more than we use: Keycloak lists an encryption key (RSA-OAEP) beside the one for
signatures, Azure AD names no ``alg``, some give one ``kid`` to two keys of different kinds. As RFC 7517
section 5 asks, a key that is not for us is skipped, with a warning; only a set in which no key can be used is
refused. A private key is refused always, because it must not be here at all.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from panels_gateway.access.strict_json import StrictJsonError, decode_strict
from panels_shared.errors import ConfigError
from panels_shared.keyfiles import exposure
from panels_shared.limits import KIB, MIB

_log = logging.getLogger("panels.gateway.keys")

#: Security limits on key files.
MAX_SECRET_FILE_BYTES: Final = 64 * KIB
MAX_JWKS_FILE_BYTES: Final = MIB
MAX_KEYS: Final = 64
MAX_KID_CHARS: Final = 256
#: Keys of one kid, each of which may have to be tried on a token. A security limit.
MAX_KEYS_PER_KID: Final = 4
MIN_RSA_BITS: Final = 2_048

#: HMAC algorithm → least bytes of its key (RFC 7518 section 3.2: no shorter than the hash).
HMAC_KEY_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
#: (kty, crv) → what a key of that kind may verify; the first is the default when the key names none.
_ALGORITHMS_OF: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("oct", None): ("HS256", "HS384", "HS512"),
    ("RSA", None): ("RS256", "RS384", "RS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS: Final = tuple(dict.fromkeys(name for names in _ALGORITHMS_OF.values() for name in names))

_IMPLEMENTATIONS: Final = get_default_algorithms()
_PRIVATE_MEMBERS: Final = ("d", "p", "q", "dp", "dq", "qi")
_MAX_SHOWN_CHARS: Final = 64
#: Skipped keys that the refusal of a whole set explains.
_MAX_EXPLAINED: Final = 3


class _UnusableKeyError(Exception):
    """A key of a set that is not for us, or that we cannot use.

    The text says what was expected and what came.
    """


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One key and the algorithms it is used with. ``kid`` None: it verifies tokens that name no key."""

    kid: str | None
    algorithms: Mapping[str, Algorithm]
    _prepared: Any = field(repr=False)

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether this key made ``signature`` by ``algorithm``, which must be one of its algorithms."""
        implementation = self.algorithms.get(algorithm)
        return implementation is not None and implementation.verify(message, self._prepared, signature)


class Keyring:
    """All keys, chosen by a token's ``kid``.

    A kid may name several keys, as RFC 7517 section 4.5 allows for keys of different kinds: the token's
    algorithm then tells which of them are tried, at most ``MAX_KEYS_PER_KID``.
    """

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._by_kid: dict[str | None, tuple[VerificationKey, ...]] = {}
        for key in keys:
            same = self._by_kid.get(key.kid, ())
            if len(same) >= MAX_KEYS_PER_KID:
                named = "no kid" if key.kid is None else f"kid {_shown(key.kid)}"
                _log.warning("a key is not used: %d others with %s come before it", len(same), named)
                continue
            self._by_kid[key.kid] = (*same, key)

    def __len__(self) -> int:
        return sum(map(len, self._by_kid.values()))

    def find(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """The keys with that kid, () if there are none.

        A token without a kid matches the keys without one, or all keys if there is only one kid.
        """
        if kid is None and None not in self._by_kid and len(self._by_kid) == 1:
            return next(iter(self._by_kid.values()))
        return self._by_kid.get(kid, ())


def load_keyring(secret_file: Path | None, jwks_file: Path | None, algorithms: Sequence[str]) -> Keyring:
    """Reads the key files. ``algorithms`` () allows each key its default.

    Keys of the set that cannot be used are logged and left out. Raises ``ConfigError``.
    """
    keys: list[VerificationKey] = []
    if secret_file is not None:
        keys.append(_load_secret(secret_file, algorithms))
    if jwks_file is not None:
        keys.extend(_load_jwks(jwks_file, algorithms))
    return Keyring(keys)


def _load_secret(path: Path, algorithms: Sequence[str]) -> VerificationKey:
    secret = read_key_file(path, "jwt-secret-file", MAX_SECRET_FILE_BYTES, secret=True)
    # an editor or `openssl rand -hex 32 > file` ends the file with a newline that is not part of the secret
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    chosen = tuple(name for name in algorithms if name in HMAC_KEY_BYTES) if algorithms else ("HS256",)
    if not chosen:
        raise ConfigError(
            f"jwt-algorithms: expected one of {', '.join(HMAC_KEY_BYTES)} for the secret in {path}, got "
            f"{', '.join(algorithms)}; add one, or give public keys by jwt-jwks-file"
        )
    try:
        return VerificationKey(None, _hmac(secret, chosen), secret)
    except _UnusableKeyError as exc:
        raise ConfigError(f"jwt-secret-file {path}: {exc}") from None


def _hmac(secret: bytes, algorithms: Sequence[str]) -> dict[str, Algorithm]:
    for name in algorithms:
        if len(secret) < HMAC_KEY_BYTES[name]:
            raise _UnusableKeyError(
                f"expected a secret of at least {HMAC_KEY_BYTES[name]} bytes for {name}, got {len(secret)}; "
                "make one with: openssl rand -hex 32"
            )
    try:
        for name in algorithms:
            _IMPLEMENTATIONS[name].prepare_key(secret)
    except PyJWTError:
        raise _UnusableKeyError(
            "expected a random secret, got a public key or certificate; give public keys by jwt-jwks-file"
        ) from None
    return {name: _IMPLEMENTATIONS[name] for name in algorithms}


def _load_jwks(path: Path, algorithms: Sequence[str]) -> list[VerificationKey]:
    text = read_key_file(path, "jwt-jwks-file", MAX_JWKS_FILE_BYTES)
    where = f"jwt-jwks-file {path}"
    try:
        document = decode_strict(text)
    except StrictJsonError as exc:
        raise ConfigError(f"{where}: expected a JWK set in JSON, got {exc}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_KEYS:
        raise ConfigError(f'{where}: expected {{"keys": [...]}} with 1 to {MAX_KEYS} keys')
    keys: list[VerificationKey] = []
    problems: list[str] = []
    for index, entry in enumerate(entries):
        _refuse_private(entry, f"{where}, key {index}")
        try:
            keys.append(_load_jwk(entry, algorithms))
        except _UnusableKeyError as exc:
            named = f"key {index}"
            if isinstance(entry, dict) and isinstance(entry.get("kid"), str):
                named += f" (kid {_shown(entry['kid'])})"
            problems.append(f"{named}: {exc}")
    if not keys:
        more = f"; and {len(problems) - _MAX_EXPLAINED} more" if len(problems) > _MAX_EXPLAINED else ""
        raise ConfigError(
            f"{where}: expected a key that tokens can be verified with, got none; "
            f"{'; '.join(problems[:_MAX_EXPLAINED])}{more}"
        )
    for problem in problems:
        _log.warning("%s: not used: %s", where, problem)
    return keys


def _refuse_private(entry: object, where: str) -> None:
    if isinstance(entry, dict) and any(member in entry for member in _PRIVATE_MEMBERS):
        raise ConfigError(
            f"{where}: expected a public key, got a private one; keep that with whoever signs tokens"
        )


def _load_jwk(entry: object, algorithms: Sequence[str]) -> VerificationKey:
    """The key of one entry. Members that are not named here (x5c, x5t, ...) are not looked at."""
    if not isinstance(entry, dict):
        raise _UnusableKeyError("expected an object")
    jwk: dict[str, Any] = entry
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID_CHARS):
        raise _UnusableKeyError(f"expected a kid of 1 to {MAX_KID_CHARS} characters")
    if jwk.get("use", "sig") != "sig":
        raise _UnusableKeyError(f"expected a key for signatures (use sig), got use {_shown(jwk['use'])}")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableKeyError(f"expected key_ops with verify, got {_shown(operations)}")
    names = _algorithms_of(jwk, algorithms)
    try:
        # key_ops and use were checked above, and PyJWT has views of its own on them
        prepared = PyJWK({k: v for k, v in jwk.items() if k not in ("key_ops", "use")}, names[0]).key
    except (PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        raise _UnusableKeyError(f"expected a valid JWK of kty {jwk['kty']}") from None
    if isinstance(prepared, RSAPublicKey) and prepared.key_size < MIN_RSA_BITS:
        raise _UnusableKeyError(
            f"expected an RSA key of at least {MIN_RSA_BITS} bits, got {prepared.key_size}"
        )
    if isinstance(prepared, bytes):
        return VerificationKey(kid, _hmac(prepared, names), prepared)
    return VerificationKey(kid, {name: _IMPLEMENTATIONS[name] for name in names}, prepared)


def _algorithms_of(jwk: Mapping[str, Any], algorithms: Sequence[str]) -> tuple[str, ...]:
    kty, crv = jwk.get("kty"), jwk.get("crv")
    possible = (
        _ALGORITHMS_OF.get((kty, crv)) if isinstance(kty, str) and isinstance(crv, str | None) else None
    )
    if possible is None:
        got = f"kty {_shown(kty)}" if crv is None else f"kty {_shown(kty)} with crv {_shown(crv)}"
        raise _UnusableKeyError(
            f"expected kty oct, RSA, EC (P-256, P-384, P-521) or OKP (Ed25519), got {got}"
        )
    named = jwk.get("alg")
    if named is not None and named not in possible:
        raise _UnusableKeyError(f"expected alg {' or '.join(possible)} for this key, got {_shown(named)}")
    chosen: tuple[str, ...]
    if named is not None:
        chosen = (str(named),)
    else:
        chosen = tuple(name for name in possible if name in algorithms) if algorithms else possible[:1]
    if not chosen or (algorithms and not set(chosen) <= set(algorithms)):
        raise _UnusableKeyError(
            f"expected a key for {', '.join(algorithms)} (jwt-algorithms), got one for {', '.join(possible)}"
        )
    return chosen


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


def read_key_file(path: Path, option: str, maximum: int, *, secret: bool = False) -> bytes:
    """The content of a key file, at most ``maximum`` bytes.

    A ``secret`` that everybody can read is taken, with a warning. Raises ``ConfigError``, naming ``option``.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = file.read(maximum + 1)
    except OSError as exc:
        raise ConfigError(f"{option}: expected a readable file at {path}, got: {exc.strerror}") from None
    if mode & stat.S_IWOTH:
        raise ConfigError(
            f"{option}: expected a file that only its owner can write, got mode "
            f"{mode:03o} on {path}; chmod 600"
        )
    if secret and (warning := exposure(mode, option=option, path=str(path))) is not None:
        _log.warning("%s", warning)
    if len(content) > maximum:
        raise ConfigError(f"{option}: expected at most {maximum} bytes in {path}, got more")
    return content
