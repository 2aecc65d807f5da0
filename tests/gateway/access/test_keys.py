"""Key files: what is refused before the gateway starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from panels_gateway.access.keys import load_keyring
from panels_shared.errors import ConfigError

EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public_jwk(key: Any, algorithm: str = "ES256") -> dict[str, Any]:
    jwk: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return jwk


def write_jwks(path: Path, *keys: object) -> Path:
    file = path / "jwks.json"
    file.write_text(json.dumps({"keys": keys}))
    return file


def write_secret(path: Path, secret: bytes) -> Path:
    file = path / "secret"
    file.write_bytes(secret)
    return file


def test_keyring_takes_a_secret_with_or_without_a_newline(tmp_path: Path) -> None:
    for ending in (b"", b"\n", b"\r\n"):
        key = load_keyring(write_secret(tmp_path, b"s" * 32 + ending), None, ()).find(None)
        assert key is not None
        assert list(key.algorithms) == ["HS256"]
        signature = jwt.get_algorithm_by_name("HS256").sign(b"m", b"s" * 32)
        assert key.verify("HS256", b"m", signature)
        assert not key.verify("HS384", b"m", signature)


@pytest.mark.parametrize(("size", "algorithms"), [(31, ()), (47, ("HS384",)), (63, ("HS256", "HS512"))])
def test_keyring_refuses_a_short_secret(tmp_path: Path, size: int, algorithms: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=f"at least {size + 1} bytes"):
        load_keyring(write_secret(tmp_path, b"s" * size), None, algorithms)


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_keyring_refuses_a_public_key_as_secret(tmp_path: Path, encoding: serialization.Encoding) -> None:
    text = EC_KEY.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ConfigError, match="jwt-jwks-file"):
        load_keyring(write_secret(tmp_path, text), None, ())


def test_keyring_refuses_a_secret_that_its_algorithms_leave_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jwt-algorithms"):
        load_keyring(write_secret(tmp_path, b"s" * 32), None, ("ES256",))


def test_keyring_refuses_a_file_that_everybody_can_write(tmp_path: Path) -> None:
    file = write_secret(tmp_path, b"s" * 32)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod"):
        load_keyring(file, None, ())


def test_keyring_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_keyring(tmp_path / "none", None, ())


def test_keyring_gives_the_only_key_to_a_token_without_kid(tmp_path: Path) -> None:
    keyring = load_keyring(None, write_jwks(tmp_path, {**public_jwk(EC_KEY), "kid": "a"}), ())
    assert keyring.find(None) is keyring.find("a")
    assert keyring.find("b") is None


def test_keyring_gives_no_named_key_to_a_token_without_kid_when_there_are_several(tmp_path: Path) -> None:
    key = public_jwk(EC_KEY)
    keyring = load_keyring(None, write_jwks(tmp_path, {**key, "kid": "a"}, {**key, "kid": "b"}), ())
    assert keyring.find(None) is None


def test_keyring_holds_a_secret_beside_a_set(tmp_path: Path) -> None:
    keyring = load_keyring(
        write_secret(tmp_path, b"s" * 32), write_jwks(tmp_path, {**public_jwk(EC_KEY), "kid": "a"}), ()
    )
    secret, public = keyring.find(None), keyring.find("a")
    assert secret is not None
    assert public is not None
    assert (list(secret.algorithms), list(public.algorithms)) == (["HS256"], ["ES256"])


_WEAK = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
_PRIVATE = jwt.get_algorithm_by_name("ES256").to_jwk(EC_KEY, as_dict=True)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param([], "1 to 64 keys", id="none"),
        pytest.param([{}] * 65, "1 to 64 keys", id="many"),
        pytest.param(["key"], "an object", id="no object"),
        pytest.param([{}], "expected kty", id="no kty"),
        pytest.param([{"kty": "EC", "crv": "secp256k1"}], "expected kty", id="curve"),
        pytest.param([{"kty": []}], "expected kty", id="kty list"),
        pytest.param([{"kty": "EC", "crv": "P-256", "x": "!", "y": "!"}], "a valid JWK", id="not a point"),
        pytest.param([{**public_jwk(EC_KEY), "kid": 1}], "kid", id="kid"),
        pytest.param(
            [{**public_jwk(EC_KEY), "alg": "HS256"}], "expected alg ES256", id="alg of another family"
        ),
        pytest.param([{**public_jwk(EC_KEY), "alg": "none"}], "expected alg ES256", id="alg none"),
        pytest.param([{**public_jwk(EC_KEY), "use": "enc"}], "use sig", id="use"),
        pytest.param([_PRIVATE], "a public key", id="private"),
        pytest.param([public_jwk(_WEAK, "RS256")], "2048 bits", id="weak RSA"),
        pytest.param([{"kty": "oct", "k": "c2hvcnQ"}], "at least 32 bytes", id="short oct"),
        pytest.param([public_jwk(EC_KEY), public_jwk(EC_KEY)], "different kids", id="two without kid"),
    ],
)
def test_keyring_refuses_a_bad_set(tmp_path: Path, keys: list[object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_keyring(None, write_jwks(tmp_path, *keys), ())


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"keys":{}}', b'{"keys":[],"keys":[{}]}', b"\xff", b"[" * 100_000]
)
def test_keyring_refuses_a_file_that_is_no_set(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match="jwt-jwks-file"):
        load_keyring(None, file, ())


def test_keyring_lets_algorithms_choose_among_those_of_a_key(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    file = write_jwks(tmp_path, public_jwk(key, "RS256"))
    default = load_keyring(None, file, ()).find(None)
    chosen = load_keyring(None, file, ("RS384", "RS512", "ES256")).find(None)
    assert default is not None
    assert chosen is not None
    assert (list(default.algorithms), list(chosen.algorithms)) == (["RS256"], ["RS384", "RS512"])
    with pytest.raises(ConfigError, match="jwt-algorithms"):
        load_keyring(None, file, ("ES256",))
