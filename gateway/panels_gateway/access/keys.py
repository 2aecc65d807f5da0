"""The keys that tokens are verified with. Read from files at start and on reload, never from the network.

A key fixes its algorithms before any token is seen: those of one family (HMAC, RSA, one elliptic curve, Ed25519), so that
a public key can never be taken for an HMAC secret. A token's header only chooses among them, by ``kid``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from panels_gateway.access.strict_json import StrictJsonError, decode_strict
from panels_shared.errors import ConfigError
from panels_shared.limits import KIB, MIB

#: Security limits on key files.
MAX_SECRET_FILE_BYTES: Final = 64 * KIB
MAX_JWKS_FILE_BYTES: Final = MIB
MAX_KEYS: Final = 64
MAX_KID_CHARS: Final = 256
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


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One key and the algorithms it is used with. ``kid`` None: it verifies tokens that name no key."""

    kid: str | None
    algorithms: Mapping[str, Algorithm]
    _prepared: Any = field(repr=False)

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is this key's by ``algorithm``; False too when that is not one of its algorithms."""
        implementation = self.algorithms.get(algorithm)
        return implementation is not None and implementation.verify(message, self._prepared, signature)


class Keyring:
    """All keys, chosen by a token's ``kid``."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._by_kid: dict[str | None, VerificationKey] = {}
        for key in keys:
            if key.kid in self._by_kid:
                named = "no kid" if key.kid is None else f"kid {key.kid!r}"
                raise ConfigError(
                    f"expected keys with different kids, got two with {named}; give each a kid of its own"
                )
            self._by_kid[key.kid] = key

    def __len__(self) -> int:
        return len(self._by_kid)

    def find(self, kid: str | None) -> VerificationKey | None:
        """The key of that kid. A token without a kid is for the key without one, or for the only key there is."""
        if kid is None and None not in self._by_kid and len(self._by_kid) == 1:
            return next(iter(self._by_kid.values()))
        return self._by_kid.get(kid)


def load_keyring(secret_file: Path | None, jwks_file: Path | None, algorithms: Sequence[str]) -> Keyring:
    """Reads the key files. ``algorithms`` () allows each key its default. Raises ``ConfigError``."""
    keys: list[VerificationKey] = []
    if secret_file is not None:
        keys.append(_load_secret(secret_file, algorithms))
    if jwks_file is not None:
        keys.extend(_load_jwks(jwks_file, algorithms))
    return Keyring(keys)


def _load_secret(path: Path, algorithms: Sequence[str]) -> VerificationKey:
    secret = read_key_file(path, "jwt-secret-file", MAX_SECRET_FILE_BYTES)
    # an editor or `openssl rand -hex 32 > file` ends the file with a newline that is not part of the secret
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    chosen = tuple(name for name in algorithms if name in HMAC_KEY_BYTES) if algorithms else ("HS256",)
    if not chosen:
        raise ConfigError(
            f"jwt-algorithms: expected one of {', '.join(HMAC_KEY_BYTES)} for the secret in {path}, got "
            f"{', '.join(algorithms)}; add one, or give public keys by jwt-jwks-file"
        )
    return VerificationKey(None, _hmac(secret, chosen, f"jwt-secret-file {path}"), secret)


def _hmac(secret: bytes, algorithms: Sequence[str], where: str) -> dict[str, Algorithm]:
    for name in algorithms:
        if len(secret) < HMAC_KEY_BYTES[name]:
            raise ConfigError(
                f"{where}: expected a secret of at least {HMAC_KEY_BYTES[name]} bytes for {name}, got {len(secret)}; "
                "make one with: openssl rand -hex 32"
            )
    try:
        for name in algorithms:
            _IMPLEMENTATIONS[name].prepare_key(secret)
    except PyJWTError:
        raise ConfigError(
            f"{where}: expected a random secret, got a public key or certificate; give public keys by jwt-jwks-file"
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
    return [_load_jwk(entry, algorithms, f"{where}, key {index}") for index, entry in enumerate(entries)]


def _load_jwk(entry: object, algorithms: Sequence[str], where: str) -> VerificationKey:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected an object")
    jwk: dict[str, Any] = entry
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID_CHARS):
        raise ConfigError(f"{where}: expected a kid of 1 to {MAX_KID_CHARS} characters")
    if any(member in jwk for member in _PRIVATE_MEMBERS):
        raise ConfigError(
            f"{where}: expected a public key, got a private one; keep that with whoever signs tokens"
        )
    if jwk.get("use", "sig") != "sig":
        raise ConfigError(f"{where}: expected a key for signatures (use sig), got use {jwk['use']!r}")
    names = _algorithms_of(jwk, algorithms, where)
    try:
        prepared = PyJWK(jwk, names[0]).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{where}: expected a valid JWK of kty {jwk['kty']}") from None
    if isinstance(prepared, RSAPublicKey) and prepared.key_size < MIN_RSA_BITS:
        raise ConfigError(
            f"{where}: expected an RSA key of at least {MIN_RSA_BITS} bits, got {prepared.key_size}"
        )
    if isinstance(prepared, bytes):
        return VerificationKey(kid, _hmac(prepared, names, where), prepared)
    return VerificationKey(kid, {name: _IMPLEMENTATIONS[name] for name in names}, prepared)


def _algorithms_of(jwk: Mapping[str, Any], algorithms: Sequence[str], where: str) -> tuple[str, ...]:
    kty, crv = jwk.get("kty"), jwk.get("crv")
    possible = (
        _ALGORITHMS_OF.get((kty, crv)) if isinstance(kty, str) and isinstance(crv, str | None) else None
    )
    if possible is None:
        raise ConfigError(f"{where}: expected kty oct, RSA, EC (P-256, P-384, P-521) or OKP (Ed25519)")
    named = jwk.get("alg")
    if named is not None and named not in possible:
        raise ConfigError(
            f"{where}: expected alg {' or '.join(possible)} for this key, got {str(named)[:32]!r}"
        )
    chosen: tuple[str, ...]
    if named is not None:
        chosen = (named,)
    elif algorithms:
        chosen = tuple(name for name in possible if name in algorithms)
    else:
        chosen = possible[:1]
    if not chosen or (algorithms and not set(chosen) <= set(algorithms)):
        raise ConfigError(
            f"{where}: expected a key for {', '.join(algorithms)} (jwt-algorithms), got one for {', '.join(possible)}"
        )
    return chosen


def read_key_file(path: Path, option: str, maximum: int) -> bytes:
    """What a file of keys holds, at most ``maximum`` bytes. Raises ``ConfigError``, naming ``option``."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = file.read(maximum + 1)
    except OSError as exc:
        raise ConfigError(f"{option}: expected a readable file at {path}, got: {exc.strerror}") from None
    if mode & stat.S_IWOTH:
        raise ConfigError(
            f"{option}: expected a file that only its owner can write, got mode {mode:03o} on {path}; chmod 600"
        )
    if len(content) > maximum:
        raise ConfigError(f"{option}: expected at most {maximum} bytes in {path}, got more")
    return content
