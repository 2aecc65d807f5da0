"""What is authenticated: key files, tokens, sealed images, compiled artifacts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import msgpack

from panels_gateway.access.keys import MAX_KEYS, MAX_KEYS_PER_KID, load_keyring
from panels_gateway.access.strict_json import StrictJsonError, decode_strict
from panels_gateway.access.tokens import TokenError, TokenRules, TokenVerifier
from panels_gateway.journal.records import Parked
from panels_gateway.kernel.suspension import is_sealed, seal
from panels_shared.errors import ConfigError
from panels_worker.artifacts import Artifact, ArtifactStore, Kind
from tests.fuzz.mutation import JSON, MSGPACK, Codec, NotOpenError
from tests.fuzz.target import Cost, Target, refused, require
from tests.gateway.journal.batches import parked

_SECRET: Final = b"s" * 64
_NOW_S: Final = 1_700_000_000.0


def encoded(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: bytes, payload: bytes, *, key: bytes = _SECRET) -> bytes:
    """A token over these bytes, with the signature that the gateway trusts."""
    text = f"{encoded(header)}.{encoded(payload)}".encode()
    return text + b"." + encoded(hmac.new(key, text, hashlib.sha256).digest()).encode()


def _open_token(data: bytes) -> Any:
    try:
        header, payload, _ = (base64.urlsafe_b64decode(part + b"==") for part in data.split(b"."))
    except ValueError:
        raise NotOpenError from None
    return [JSON.decode(header), JSON.decode(payload)]


def _seal_token(value: Any) -> bytes:
    if not isinstance(value, list) or len(value) < 2:
        raise NotOpenError
    return signed(JSON.encode(value[0]), JSON.encode(value[1]))


class Token(Target):
    """Tokens, with and without a valid signature: only what the secret signed is accepted, and never too
    late."""

    name = "token"
    codec = Codec(_open_token, _seal_token)
    tokens = (
        b".",
        b"exp",
        b"nbf",
        b"iat",
        b"sub",
        b"panels",
        b"allow",
        b"trigger:*",
        b"read",
        b"HS256",
        b"none",
        b"kid",
    )
    cost = Cost(per_byte=256)

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "secret"
            path.write_bytes(_SECRET)
            self._keyring = load_keyring(path, None, ())

    def seeds(self) -> list[bytes]:
        head = b'{"alg":"HS256","typ":"JWT"}'
        claims: list[dict[str, Any]] = [
            {"sub": "ada", "exp": _NOW_S + 60},
            {"exp": _NOW_S + 60, "iat": _NOW_S, "nbf": _NOW_S, "sub": "é"},
            {
                "exp": _NOW_S + 60,
                "panels": [{"id": "team-*", "allow": ["read", "trigger:add*", "answer:*", "manage"]}],
            },
            {"exp": _NOW_S - 60},
        ]
        return [
            *(signed(head, json.dumps(claim).encode()) for claim in claims),
            signed(head, b'{"exp":1700000060}', key=b"k" * 64),
            signed(b'{"alg":"none"}', b'{"exp":1700000060}'),
        ]

    def run(self, data: bytes) -> str:
        verifier = TokenVerifier(self._keyring, TokenRules(), clock=lambda: _NOW_S)
        token = data.decode("latin-1")
        try:
            principal = verifier.verify(token)
        except TokenError as exc:
            require(len(token) < 40 or token not in str(exc), "a refusal never quotes the token", str(exc))
            return refused(exc)
        text, _, signature = data.rpartition(b".")
        made = hmac.new(_SECRET, text, hashlib.sha256).digest()
        require(encoded(made).encode() == signature, "only what the secret signed is accepted", data)
        claims = json.loads(base64.urlsafe_b64decode(text.split(b".")[1] + b"=="))
        require(claims["exp"] > _NOW_S - 5.1, "nothing is accepted after its end", claims)
        require(claims.get("nbf", 0) <= _NOW_S + 5.1, "nor before its beginning", claims)
        require(
            ("panels" in claims) == (principal.grants is not None),
            "what is granted is what is written",
            claims,
        )
        require(
            json.loads(principal.scope) == {"sub": claims.get("sub")}, "the scope says whose it is", claims
        )
        if principal.grants is not None:
            written = [permission for grant in claims["panels"] for permission in grant["allow"]]
            require(principal.may_manage("x") <= ("manage" in written), "manage is never made up", claims)
            require(principal.may_read("x") <= ("read" in written), "read is never made up", claims)
        require(verifier.verify(token) == principal, "the cache says the same", data)
        return f"accepted {principal.grants is not None} {principal.subject is not None}"


class StrictJson(Target):
    """JSON for security decisions: nobody else reads anything else in it."""

    name = "strict-json"
    codec = JSON
    tokens = (b'"a":1,', b'"a":2,', b"NaN", b"Infinity", b"1e999", b"\xef\xbb\xbf", b"\\ud800", b"-")
    cost = Cost(per_byte=192)

    def seeds(self) -> list[bytes]:
        return [b'{"a":1,"b":{"a":[1,2.5,null,true]},"c":"\\u00e9"}', b'[{"a":1},{"a":1}]', b"-1.5e3"]

    def run(self, data: bytes) -> str:
        try:
            value = decode_strict(data)
        except StrictJsonError as exc:
            return refused(exc)
        require(json.loads(data) == value or value != value, "both parsers read the same value", data)
        return type(value).__name__


class Jwks(Target):
    """A file of keys."""

    name = "jwks"
    codec = JSON
    tokens = (
        b'"kty":"oct"',
        b'"kty":"RSA"',
        b'"crv":"P-256"',
        b'"d":"x"',
        b'"use":"enc"',
        b'"key_ops":["verify"]',
        b"AQAB",
    )
    quick = 200

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "jwks"

    def seeds(self) -> list[bytes]:
        point = {
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
        modulus = encoded(b"\xc5" + b"\x11" * 254 + b"\x13")
        keys: list[dict[str, Any]] = [
            {"kty": "EC", "crv": "P-256", "kid": "e", "alg": "ES256", "use": "sig", **point},
            {"kty": "RSA", "kid": "r", "n": modulus, "e": "AQAB", "key_ops": ["verify"]},
            {"kty": "oct", "kid": "h", "alg": "HS256", "k": encoded(_SECRET)},
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        ]
        return [json.dumps({"keys": [key]}).encode() for key in keys] + [json.dumps({"keys": keys}).encode()]

    def run(self, data: bytes) -> str:
        self._path.write_bytes(data)
        try:
            keyring = load_keyring(None, self._path, ())
        except ConfigError as exc:
            require(len(str(exc)) < 4_096, "a refusal is short", len(str(exc)))
            return refused(exc).replace(str(self._path), "")
        require(1 <= len(keyring) <= MAX_KEYS, "keys within their bound", len(keyring))
        for entry in json.loads(data)["keys"]:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            if kid is None or isinstance(kid, str):
                found = keyring.find(kid)
                require(len(found) <= MAX_KEYS_PER_KID, "keys of one kid within their bound")
                for key in found:
                    require(len({name[:2] for name in key.algorithms}) == 1, "a key has one family", key)
                    for algorithm in key.algorithms:
                        require(
                            not key.verify(algorithm, b"m", b""),
                            "no key verifies an empty signature",
                            algorithm,
                        )
        return f"{len(keyring)} keys"

    def close(self) -> None:
        self._folder.cleanup()


class SealedImage(Target):
    """The gateway's seal on images: it fits to the image, the suspension and the handler it was made for."""

    name = "seal"
    codec = MSGPACK
    envelope = True
    _key = b"k" * 32

    def seeds(self) -> list[bytes]:
        made = self._fields(parked(1, 2, 1, image=b"image" * 20))
        panel, suspension, digest, _, packed = made
        made[3] = seal(self._key, panel, suspension, digest, packed)
        return [msgpack.packb(made)]

    def run(self, data: bytes) -> str:
        try:
            panel, suspension, digest, given, image = MSGPACK.decode(data)
            record = parked(panel, suspension, 1, image=image)
            kinds = [isinstance(value, int) for value in (panel, suspension)]
            kinds += [isinstance(value, bytes) for value in (digest, given, image)]
        except (NotOpenError, ValueError, TypeError):
            return "no image"
        if not all(kinds):
            return "no image"
        changed = Parked(
            **{name: getattr(record, name) for name in record.__struct_fields__}
            | {"digest": digest, "seal": given}
        )
        accepted = is_sealed(self._key, changed, image)
        if accepted:
            original = MSGPACK.decode(self.seeds()[0])
            require(
                [panel, suspension, digest, given, image] == original,
                "only what was sealed is accepted",
                data,
            )
        return f"accepted {accepted}"

    def _fields(self, record: Parked) -> list[Any]:
        return [record.panel, record.suspension, record.digest, b"", record.image]


class CachedArtifact(Target):
    """Compiled code on disk: only the very bytes that the pool wrote are loaded, under their own name."""

    name = "artifact"
    _digest = bytes(range(32))
    _artifact = Artifact(Kind.MODULE, b"code" * 100)

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "key").write_bytes(b"k" * 32)
        self._store = ArtifactStore.open(folder)
        self._store.put(self._digest, self._artifact)
        self._path = folder / self._digest.hex()
        self._whole = self._path.read_bytes()

    def seeds(self) -> list[bytes]:
        return [self._whole]

    def run(self, data: bytes) -> str:
        self._path.write_bytes(data)
        found = self._store.get(self._digest)
        require(
            found is None or (data == self._whole and found == self._artifact), "only what was put is loaded"
        )
        return f"loaded {found is not None}"

    def close(self) -> None:
        self._folder.cleanup()


TARGETS: Final = (Token, StrictJson, Jwks, SealedImage, CachedArtifact)
