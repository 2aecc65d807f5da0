"""Key files: what is refused before the gateway starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from panels_gateway.access.keys import MAX_KEYS_PER_KID, load_keyring
from panels_gateway.access.tokens import TokenError, TokenRules, TokenVerifier
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
        (key,) = load_keyring(write_secret(tmp_path, b"s" * 32 + ending), None, ()).find(None)
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


def test_secret_that_everybody_can_read_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_secret(tmp_path, b"s" * 32)
    file.chmod(0o644)
    load_keyring(file, None, ())
    (warning,) = caplog.messages
    assert warning.startswith("jwt-secret-file: expected a file that only its owner can read, got mode 644")
    caplog.clear()
    file.chmod(0o600)
    load_keyring(file, None, ())
    assert caplog.messages == []


def test_keyring_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_keyring(tmp_path / "none", None, ())


def test_keyring_gives_the_only_key_to_a_token_without_kid(tmp_path: Path) -> None:
    keyring = load_keyring(None, write_jwks(tmp_path, {**public_jwk(EC_KEY), "kid": "a"}), ())
    assert len(keyring.find("a")) == 1
    assert keyring.find(None) == keyring.find("a")
    assert keyring.find("b") == ()


def test_keyring_gives_no_named_key_to_a_token_without_kid_when_there_are_several(tmp_path: Path) -> None:
    key = public_jwk(EC_KEY)
    keyring = load_keyring(None, write_jwks(tmp_path, {**key, "kid": "a"}, {**key, "kid": "b"}), ())
    assert keyring.find(None) == ()


def test_keyring_holds_a_secret_beside_a_set(tmp_path: Path) -> None:
    keyring = load_keyring(
        write_secret(tmp_path, b"s" * 32), write_jwks(tmp_path, {**public_jwk(EC_KEY), "kid": "a"}), ()
    )
    (secret,), (public,) = keyring.find(None), keyring.find("a")
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
        pytest.param([{**public_jwk(EC_KEY), "key_ops": ["encrypt"]}], "key_ops with verify", id="key_ops"),
        pytest.param([{**public_jwk(EC_KEY), "key_ops": "verify"}], "key_ops with verify", id="key_ops text"),
        pytest.param([{**public_jwk(EC_KEY), "use": "enc"}] * 9, "; and 6 more", id="nine"),
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
    (default,) = load_keyring(None, file, ()).find(None)
    (chosen,) = load_keyring(None, file, ("RS384", "RS512", "ES256")).find(None)
    assert (list(default.algorithms), list(chosen.algorithms)) == (["RS256"], ["RS384", "RS512"])
    with pytest.raises(ConfigError, match="jwt-algorithms"):
        load_keyring(None, file, ("ES256",))


# -- what identity providers publish -----------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
RSA_KEY_2 = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
#: What a certificate chain and its thumbprints look like to somebody who does not read them.
X5 = {"x5c": ["MIICmzCCAYMCBgF" + "A" * 900], "x5t": "2yNqGpZ0zvE5oYh", "x5t#S256": "Qd1f" * 11}


def rsa_jwk(key: rsa.RSAPrivateKey, **members: object) -> dict[str, Any]:
    return {**public_jwk(key, "RS256"), **members}


SIGNING = rsa_jwk(RSA_KEY, kid="sig", use="sig", alg="RS256")
#: The member of the set that signs, as kid and algorithm, and the rest of each provider's set.
PROVIDERS: dict[str, list[dict[str, Any]]] = {
    "Keycloak": [{**SIGNING, **X5}, rsa_jwk(RSA_KEY_2, kid="enc", use="enc", alg="RSA-OAEP", **X5)],
    "Keycloak, encryption first": [rsa_jwk(RSA_KEY_2, kid="enc", use="enc", alg="RSA-OAEP"), SIGNING],
    "Keycloak with more realms' keys": [
        SIGNING,
        {**public_jwk(EC_KEY), "kid": "ec", "use": "sig", "alg": "ES256"},
        {"kty": "OKP", "crv": "Ed448", "kid": "448", "use": "sig", "alg": "EdDSA", "x": "A" * 76},
        rsa_jwk(RSA_KEY_2, kid="ps", use="sig", alg="PS256"),
    ],
    "Auth0": [
        {**SIGNING, "x5c": X5["x5c"], "x5t": X5["x5t"]},
        rsa_jwk(RSA_KEY_2, kid="next", use="sig", alg="RS256"),
    ],
    "Okta": [{**SIGNING, "e": SIGNING["e"]}],
    "Azure AD": [
        {k: v for k, v in SIGNING.items() if k != "alg"}
        | {"x5t": "sig", "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0", "x5c": X5["x5c"]},
        rsa_jwk(RSA_KEY_2, kid="other", use="sig", cloud_instance_name="microsoftonline.com"),
    ],
    "Google": [SIGNING, rsa_jwk(RSA_KEY_2, kid="second", use="sig", alg="RS256")],
    "Shibboleth: one kid for signing and encryption": [
        SIGNING,
        rsa_jwk(RSA_KEY_2, kid="sig", use="enc", alg="RSA-OAEP-256"),
        {**public_jwk(EC_KEY), "kid": "sig", "use": "sig"},
    ],
    "key_ops in place of use": [
        {k: v for k, v in SIGNING.items() if k != "use"} | {"key_ops": ["verify"]},
        rsa_jwk(RSA_KEY_2, kid="wrap", key_ops=["wrapKey", "encrypt"]),
    ],
    "key types of the future": [
        SIGNING,
        {"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": "EC"},
    ],
    "an old key that is too short": [SIGNING, public_jwk(_WEAK, "RS256")],
    "one key twice": [SIGNING, SIGNING],
    "something that is no key": [SIGNING, "key", {}, {"kty": "RSA", "kid": 5}],  # type: ignore[list-item]
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_keyring_verifies_with_the_signing_key_of_ordinary_providers(tmp_path: Path, provider: str) -> None:
    keyring = load_keyring(None, write_jwks(tmp_path, *PROVIDERS[provider]), ())
    token = jwt.encode({"exp": 2_000.0, "sub": "ann"}, RSA_KEY, "RS256", headers={"kid": "sig"})
    assert TokenVerifier(keyring, TokenRules(), clock=lambda: 1_000.0).verify(token).subject == "ann"
    forged = jwt.encode({"exp": 2_000.0}, RSA_KEY_2, "RS256", headers={"kid": "enc"})
    if "encryption" in provider or provider == "Keycloak":
        with pytest.raises(TokenError):
            TokenVerifier(keyring, TokenRules(), clock=lambda: 1_000.0).verify(forged)


def test_keyring_warns_once_for_each_key_that_it_skips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_jwks(tmp_path, *PROVIDERS["Keycloak"], "key")
    load_keyring(None, file, ())
    assert caplog.messages == [
        (
            f"jwt-jwks-file {file}: not used: key 1 (kid 'enc'): expected a key for "
            "signatures (use sig), got use 'enc'"
        ),
        f"jwt-jwks-file {file}: not used: key 2: expected an object",
    ]


def test_keyring_says_nothing_of_a_set_that_is_used_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_keyring(None, write_jwks(tmp_path, *PROVIDERS["Google"]), ())
    assert caplog.messages == []


def test_keyring_refuses_a_set_with_a_private_key_however_many_are_usable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 1: expected a public key, got a private one"):
        load_keyring(None, write_jwks(tmp_path, SIGNING, {**_PRIVATE, "use": "enc"}), ())


def test_keyring_skips_keys_that_jwt_algorithms_leave_out(tmp_path: Path) -> None:
    keyring = load_keyring(
        None, write_jwks(tmp_path, SIGNING, {**public_jwk(EC_KEY), "kid": "ec"}), ("ES256",)
    )
    assert (len(keyring), len(keyring.find("ec"))) == (1, 1)


def test_keyring_tells_keys_of_one_kid_by_their_algorithm(tmp_path: Path) -> None:
    okp = {**public_jwk(ED_KEY, "EdDSA"), "kid": "one"}
    keyring = load_keyring(
        None, write_jwks(tmp_path, rsa_jwk(RSA_KEY, kid="one"), {**public_jwk(EC_KEY), "kid": "one"}, okp), ()
    )
    verifier = TokenVerifier(keyring, TokenRules(), clock=lambda: 1_000.0)
    for key, algorithm in ((RSA_KEY, "RS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")):
        for headers in ({"kid": "one"}, None):
            verifier.verify(jwt.encode({"exp": 2_000.0}, key, algorithm, headers=headers))
    with pytest.raises(TokenError, match="algorithm of its key"):
        verifier.verify(jwt.encode({"exp": 2_000.0}, b"s" * 32, "HS256", headers={"kid": "one"}))


def test_keyring_tries_all_of_a_few_keys_of_one_kid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = [rsa_jwk(RSA_KEY_2, kid="one")] * (MAX_KEYS_PER_KID - 1)
    token = jwt.encode({"exp": 2_000.0}, RSA_KEY, "RS256", headers={"kid": "one"})
    for others, accepted in ((same, True), ([*same, same[0]], False)):
        keyring = load_keyring(None, write_jwks(tmp_path, *others, rsa_jwk(RSA_KEY, kid="one")), ())
        verifier = TokenVerifier(keyring, TokenRules(), clock=lambda: 1_000.0)
        assert len(keyring) == MAX_KEYS_PER_KID
        if accepted:
            verifier.verify(token)
        else:
            with pytest.raises(TokenError, match="valid signature"):
                verifier.verify(token)
    assert len(caplog.messages) == 1
