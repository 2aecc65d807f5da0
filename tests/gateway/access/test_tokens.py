"""Tokens: which are trusted, and what they allow."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.access.keys import Keyring, VerificationKey, load_keyring
from panels_gateway.access.tokens import (
    ANONYMOUS,
    MAX_CACHED_TOKENS,
    MAX_TOKEN_CHARS,
    Principal,
    TokenError,
    TokenRules,
    TokenVerifier,
    principal_of,
    subject_of,
)

NOW = 1_800_000_000.0
SECRET = b"0123456789abcdef" * 4
OTHER = b"another secret of thirty-two bytes"


class Clock:
    """A wall clock that stands still."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(secret_file: Path, clock: Clock) -> TokenVerifier:
    return TokenVerifier(load_keyring(secret_file, None, ()), TokenRules(), clock=clock)


def make_token(
    secret: bytes = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    return jwt.encode({"exp": NOW + 60, **claims}, secret, algorithm=algorithm, headers=headers)


def make_raw_token(header: str, payload: str, secret: bytes = SECRET) -> str:
    """A token with a good HS256 signature over any header and payload."""

    def encode(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    message = encode(header.encode("utf-8", "surrogatepass")) + b"." + encode(payload.encode())
    signature = jwt.get_algorithm_by_name("HS256").sign(message, secret)
    return (message + b"." + encode(signature)).decode()


def with_payload(payload: str) -> str:
    return make_raw_token('{"alg":"HS256"}', payload)


def with_header(header: str) -> str:
    return make_raw_token(header, json.dumps({"exp": NOW + 60}))


# -- trust -------------------------------------------------------------------------------------------


def test_verifier_trusts_a_token_of_its_key(verifier: TokenVerifier) -> None:
    principal = verifier.verify(make_token(sub="ann"))
    assert principal == Principal("ann", NOW + 60, None, b'{"sub":"ann"}')


def test_verifier_trusts_a_token_without_a_subject(verifier: TokenVerifier) -> None:
    assert verifier.verify(make_token()).scope == b'{"sub":null}'


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("a.b", id="two parts"),
        pytest.param("a.b.c.d", id="four parts"),
        pytest.param(make_token(OTHER), id="other secret"),
        pytest.param(make_token(SECRET, "HS512"), id="another algorithm, same secret"),
        pytest.param(make_token(SECRET[:48], "HS384"), id="other algorithm and secret"),
        pytest.param(jwt.encode({"exp": NOW + 60}, "", algorithm="none"), id="unsigned"),
        pytest.param(with_header('{"alg":"none"}'), id="alg none"),
        pytest.param(with_header('{"alg":"nOnE"}'), id="alg nOnE"),
        pytest.param(with_header('{"alg":["HS256"]}'), id="alg list"),
        pytest.param(with_header('{"typ":"JWT"}'), id="alg absent"),
        pytest.param(with_header('{"alg":"none","alg":"HS256"}'), id="alg twice"),
        pytest.param(with_header('{"alg":"HS256","crit":["x"],"x":1}'), id="crit"),
        pytest.param(with_header('{"alg":"HS256","crit":["b64"],"b64":true}'), id="crit b64"),
        pytest.param(with_header('{"alg":"HS256","b64":false}'), id="b64"),
        pytest.param(with_header('{"alg":"HS256","kid":"../../etc/passwd"}'), id="unknown kid"),
        pytest.param(with_header('{"alg":"HS256","kid":1}'), id="kid number"),
        pytest.param(with_header('["HS256"]'), id="header list"),
        pytest.param(with_header("[" * 4_000), id="header deep"),
        pytest.param(with_header('\ufeff{"alg":"HS256"}'), id="byte order mark"),
        pytest.param(with_payload("null"), id="payload null"),
        pytest.param(with_payload("{"), id="payload no JSON"),
        pytest.param(with_payload("{}"), id="no exp"),
        pytest.param(with_payload('{"exp":null}'), id="exp null"),
        pytest.param(with_payload('{"exp":"1800000060"}'), id="exp string"),
        pytest.param(with_payload('{"exp":true}'), id="exp boolean"),
        pytest.param(with_payload('{"exp":1e18}'), id="exp far"),
        pytest.param(with_payload('{"exp":1e999}'), id="exp infinite"),
        pytest.param(with_payload('{"exp":NaN}'), id="exp NaN"),
        pytest.param(with_payload('{"exp":' + "9" * 400 + "}"), id="exp beyond a double"),
        pytest.param(with_payload('{"exp":' + "9" * 5_000 + "}"), id="exp of too many digits"),
        pytest.param(with_payload('{"exp":1800000060,"exp":1800000061}'), id="exp twice"),
        pytest.param(make_token(exp=NOW + 86_500), id="exp beyond the horizon"),
        pytest.param(make_token(exp=NOW - 6), id="expired"),
        pytest.param(make_token(nbf=NOW + 100), id="nbf in the future"),
        pytest.param(make_token(iat=NOW + 100), id="iat in the future"),
        pytest.param(make_token(nbf="1"), id="nbf string"),
        pytest.param(with_payload('{"exp":1800000060,"sub":7}'), id="sub number"),
        pytest.param(with_payload('{"exp":1800000060,"sub":""}'), id="sub empty"),
        pytest.param(with_payload('{"exp":1800000060,"sub":"\\ud800"}'), id="sub surrogate"),
        pytest.param(make_token(sub="x" * 257), id="sub long"),
        pytest.param(make_token() + "=", id="padding"),
        pytest.param(make_token() + "\n", id="newline"),
        pytest.param(" " + make_token(), id="space"),
        pytest.param(make_token() + "\u0661", id="non-ASCII digit"),
    ],
)
def test_verifier_refuses(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenError) as caught:
        verifier.verify(token)
    assert not token or token not in str(caught.value)


def test_verifier_refuses_a_second_spelling_of_the_same_signature(verifier: TokenVerifier) -> None:
    token = make_token()
    # the last character of a 32-byte signature carries two unused bits
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    verifier.verify(token)
    with pytest.raises(TokenError, match="canonical"):
        verifier.verify(twin)


def test_verifier_refuses_a_huge_token_by_its_length_alone() -> None:
    class NoKeys(Keyring):
        def find(self, kid: str | None) -> tuple[VerificationKey, ...]:
            raise AssertionError("looked into the token")

    verifier = TokenVerifier(NoKeys([]), TokenRules(), clock=Clock())
    with pytest.raises(TokenError, match=str(MAX_TOKEN_CHARS)):
        verifier.verify("a" * 5_000_000)


def test_verifier_allows_leeway(verifier: TokenVerifier) -> None:
    verifier.verify(make_token(exp=NOW - 4))
    verifier.verify(make_token(iat=NOW + 4, nbf=NOW + 4))


@pytest.mark.parametrize(
    "aud", ["panels", ["panels"], ["account", "panels"], ["panels", "https://id.example/userinfo"]]
)
def test_verifier_takes_our_audience_alone_or_among_others(secret_file: Path, aud: object) -> None:
    verifier = TokenVerifier(
        load_keyring(secret_file, None, ()), TokenRules(audience="panels"), clock=Clock()
    )
    verifier.verify(with_payload(json.dumps({"exp": NOW + 60, "aud": aud})))


@pytest.mark.parametrize(
    "aud",
    [None, "other", [], ["other"], [["panels"]], ["panels", 1], {"panels": 1}, "panel", "panelss", 1],
)
def test_verifier_refuses_another_audience(secret_file: Path, aud: object) -> None:
    verifier = TokenVerifier(
        load_keyring(secret_file, None, ()), TokenRules(audience="panels"), clock=Clock()
    )
    verifier.verify(make_token(aud="panels"))
    with pytest.raises(TokenError, match="audience"):
        verifier.verify(
            make_token() if aud is None else with_payload(json.dumps({"exp": NOW + 60, "aud": aud}))
        )


@pytest.mark.parametrize(
    "iss", [None, "https://id.example.org/", "https://id.example", ["https://id.example.org"]]
)
def test_verifier_refuses_another_issuer(secret_file: Path, iss: object) -> None:
    rules = TokenRules(issuer="https://id.example.org")
    verifier = TokenVerifier(load_keyring(secret_file, None, ()), rules, clock=Clock())
    verifier.verify(make_token(iss="https://id.example.org"))
    with pytest.raises(TokenError, match="issuer"):
        verifier.verify(with_payload(json.dumps({"exp": NOW + 60, "iss": iss})))


def test_verifier_remembers_a_token_but_not_beyond_its_expiry(verifier: TokenVerifier, clock: Clock) -> None:
    token = make_token()
    assert verifier.verify(token) is verifier.verify(token)
    clock.now = NOW + 64
    verifier.verify(token)
    clock.now = NOW + 65
    with pytest.raises(TokenError, match="expired"):
        verifier.verify(token)


def test_verifier_forgets_remembered_tokens_with_the_keys(verifier: TokenVerifier, tmp_path: Path) -> None:
    token = make_token()
    verifier.verify(token)
    (tmp_path / "new").write_bytes(OTHER)
    verifier.replace_keys(load_keyring(tmp_path / "new", None, ()))
    verifier.verify(make_token(OTHER))
    with pytest.raises(TokenError):
        verifier.verify(token)


def test_verifier_remembers_a_bounded_number_of_tokens(verifier: TokenVerifier) -> None:
    for number in range(MAX_CACHED_TOKENS + 10):
        verifier.verify(make_token(sub=str(number)))
    assert len(verifier._cache) == MAX_CACHED_TOKENS


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9_-]{0,20}\.[A-Za-z0-9_-]{0,20}\.[A-Za-z0-9_-]{0,20}"))
def test_verifier_refuses_whatever_is_not_signed(text: str) -> None:
    keyring = Keyring([])
    with pytest.raises(TokenError):
        TokenVerifier(keyring, TokenRules(), clock=Clock()).verify(text)


# -- public keys -------------------------------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def public_jwk(key: Any, algorithm: str, **members: object) -> dict[str, Any]:
    jwk: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return {**jwk, **members}


JWKS = {
    "keys": [
        public_jwk(RSA_KEY, "RS256", kid="rsa", alg="RS256"),
        public_jwk(EC_KEY, "ES256", kid="ec"),
        public_jwk(ED_KEY, "EdDSA", kid="ed", use="sig"),
    ]
}


@pytest.fixture
def jwks_verifier(tmp_path: Path) -> TokenVerifier:
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    return TokenVerifier(load_keyring(None, tmp_path / "jwks.json", ()), TokenRules(), clock=Clock())


def sign(key: Any, algorithm: str, kid: str | None) -> str:
    return jwt.encode(
        {"exp": NOW + 60, "sub": "ann"}, key, algorithm=algorithm, headers={"kid": kid} if kid else None
    )


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA_KEY, "RS256", "rsa"), (EC_KEY, "ES256", "ec"), (ED_KEY, "EdDSA", "ed")]
)
def test_verifier_trusts_each_public_key_of_a_set(
    jwks_verifier: TokenVerifier, key: Any, algorithm: str, kid: str
) -> None:
    assert jwks_verifier.verify(sign(key, algorithm, kid)).subject == "ann"


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [
        (RSA_KEY, "RS512", "rsa"),
        (RSA_KEY, "PS256", "rsa"),
        (EC_KEY, "ES256", "rsa"),
        (EC_KEY, "ES256", None),
        (EC_KEY, "ES256", "nobody"),
    ],
)
def test_verifier_refuses_a_key_used_in_another_way(
    jwks_verifier: TokenVerifier, key: Any, algorithm: str, kid: str | None
) -> None:
    with pytest.raises(TokenError):
        jwks_verifier.verify(sign(key, algorithm, kid))


def _spki(encoding: serialization.Encoding) -> bytes:
    return RSA_KEY.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "disguise",
    [
        _spki(serialization.Encoding.PEM),
        _spki(serialization.Encoding.DER),
        base64.b64encode(_spki(serialization.Encoding.DER)),
    ],
    ids=["PEM", "DER", "base64 of DER"],
)
def test_verifier_refuses_a_public_key_used_as_hmac_secret(
    jwks_verifier: TokenVerifier, disguise: bytes
) -> None:
    header = json.dumps({"alg": "HS256", "kid": "rsa"})
    with pytest.raises(TokenError, match="algorithm"):
        jwks_verifier.verify(make_raw_token(header, json.dumps({"exp": NOW + 60}), disguise))


def test_verifier_ignores_keys_that_a_token_brings(jwks_verifier: TokenVerifier) -> None:
    stranger = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    headers = {
        "kid": "rsa",
        "jwk": public_jwk(stranger, "RS256"),
        "jku": "http://127.0.0.1:1/",
        "x5u": "file:///etc/passwd",
    }
    with pytest.raises(TokenError, match="signature"):
        jwks_verifier.verify(jwt.encode({"exp": NOW + 60}, stranger, algorithm="RS256", headers=headers))
    jwks_verifier.verify(jwt.encode({"exp": NOW + 60}, RSA_KEY, algorithm="RS256", headers=headers))


# -- permissions -------------------------------------------------------------------------------------


def test_principal_may_do_everything_without_the_claim(verifier: TokenVerifier) -> None:
    for principal in (ANONYMOUS, verifier.verify(make_token())):
        assert principal.may_read("p")
        assert principal.may_trigger("p", "t")
        assert principal.may_manage("p")


def test_principal_may_do_what_the_claim_lists_and_no_more(verifier: TokenVerifier) -> None:
    panels = [
        {"id": "team-*", "allow": ["read", "trigger:add"]},
        {"id": "mine", "allow": ["read", "manage", "trigger:*"]},
        {"id": "log", "allow": ["trigger:put-*"]},
    ]
    principal = verifier.verify(make_token(panels=panels))
    assert [principal.may_read(p) for p in ("team-", "team-a", "team", "mine", "mine2", "log", "x")] == [
        True, True, False, True, False, False, False,
    ]  # fmt: skip
    assert principal.may_trigger("team-a", "add")
    assert not principal.may_trigger("team-a", "add2")
    assert not principal.may_trigger("team-a", "*")
    assert principal.may_trigger("mine", "anything")
    assert principal.may_trigger("log", "put-x")
    assert not principal.may_trigger("log", "get")
    assert principal.may_manage("mine")
    assert not principal.may_manage("team-a")


def test_principal_may_answer_what_the_claim_lists(verifier: TokenVerifier) -> None:
    assert ANONYMOUS.may_answer("p", "t")
    panels = [{"id": "team-*", "allow": ["answer:refund*"]}, {"id": "mine", "allow": ["trigger:*", "manage"]}]
    principal = verifier.verify(make_token(panels=panels))
    assert principal.may_answer("team-a", "refund.big")
    assert not principal.may_answer("team-a", "other")
    assert not principal.may_answer("mine", "refund")
    assert not principal.may_trigger("team-a", "refund")
    assert not verifier.verify(make_token(panels=[])).may_answer("team-a", "refund")


def test_principal_may_do_nothing_with_an_empty_claim(verifier: TokenVerifier) -> None:
    principal = verifier.verify(make_token(panels=[]))
    allowed = [principal.may_read("p"), principal.may_trigger("p", "t"), principal.may_manage("p")]
    assert allowed == [False, False, False]


@pytest.mark.parametrize(
    "panels",
    [
        None,
        {},
        "*",
        [None],
        ["*"],
        [{"id": "*"}],
        [{"allow": ["read"]}],
        [{"id": "*", "allow": "read"}],
        [{"id": "*", "allow": ["read"], "deny": []}],
        [{"id": 1, "allow": []}],
        [{"id": "", "allow": []}],
        [{"id": "a*b", "allow": []}],
        [{"id": "**", "allow": []}],
        [{"id": "x" * 131, "allow": []}],
        [{"id": "*", "allow": ["write"]}],
        [{"id": "*", "allow": ["trigger"]}],
        [{"id": "*", "allow": ["trigger:"]}],
        [{"id": "*", "allow": ["answer"]}],
        [{"id": "*", "allow": ["answer:"]}],
        [{"id": "*", "allow": ["read", 1]}],
        [{"id": "*", "allow": ["read"] * 65}],
        [{"id": "*", "allow": []}] * 257,
    ],
)
def test_verifier_refuses_a_malformed_claim(verifier: TokenVerifier, panels: object) -> None:
    with pytest.raises(TokenError):
        verifier.verify(make_token(panels=panels))


# -- what handlers see -------------------------------------------------------------------------------


def test_subject_is_empty_where_a_scope_names_none() -> None:
    found = [subject_of(scope) for scope in (b'{"sub":"ann"}', b"{}", b'{"sub":1}', b'{"sub":null}', b"{")]
    assert found == ["ann", "", "", "", ""]
    assert subject_of(ANONYMOUS.scope_in("p", "r", "c")) == ""


def test_scope_says_who_where_and_by_what() -> None:
    ann = principal_of("ann", expires_at=None, grants=None, claims={"team": "red"})
    assert ann.scope == b'{"sub":"ann","team":"red"}'
    assert ann.scope_in("p", None, None) == b'{"sub":"ann","team":"red","panelId":"p"}'
    assert json.loads(ann.scope_in("p:1", 'a"\n', "c")) == {
        "sub": "ann", "team": "red", "panelId": "p:1", "requestId": 'a"\n', "clientId": "c"
    }  # fmt: skip


@pytest.fixture
def showing(secret_file: Path, clock: Clock) -> TokenVerifier:
    rules = TokenRules(scope_claims=("team", "roles", "exp"))
    return TokenVerifier(load_keyring(secret_file, None, ()), rules, clock=clock)


def test_claims_that_are_listed_are_shown_and_no_others(showing: TokenVerifier) -> None:
    token = make_token(sub="ann", roles={"admin": True, "list": [1, 2.5, None]}, other="x", jti="j")
    scope = json.loads(showing.verify(token).scope)
    assert scope == {"sub": "ann", "roles": {"admin": True, "list": [1, 2.5, None]}, "exp": NOW + 60}


def test_claims_cannot_take_the_place_of_what_the_gateway_says(secret_file: Path, clock: Clock) -> None:
    verifier = TokenVerifier(load_keyring(secret_file, None, ()), TokenRules(), clock=clock)
    token = make_token(sub="ann", panelId="other", clientId="other")
    assert json.loads(verifier.verify(token).scope_in("p", None, None)) == {"sub": "ann", "panelId": "p"}


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param('"team":"' + "x" * 2_048 + '"', id="large"),
        pytest.param('"team":1e400', id="infinite"),
        pytest.param('"team":1' + "0" * 400, id="a number of too many digits"),
        pytest.param('"team":"\\ud800"', id="a lone surrogate"),
        pytest.param('"team":{"\\udfff":1}', id="a key with a lone surrogate"),
        pytest.param('"team":' + "[" * 80 + "]" * 80, id="deep"),
    ],
)
def test_token_whose_claims_no_handler_can_read_is_refused(showing: TokenVerifier, payload: str) -> None:
    token = make_raw_token('{"alg":"HS256"}', '{"exp":1800000060,' + payload + "}")
    with pytest.raises(TokenError, match="expected team, exp to"):
        showing.verify(token)


@given(st.dictionaries(st.sampled_from(["team", "roles", "x"]), st.text(max_size=50)))
def test_scope_is_one_object_whatever_claims_hold(claims: dict[str, str]) -> None:
    try:
        who = principal_of("a", expires_at=None, grants=None, claims=claims)
    except UnicodeEncodeError:
        return
    assert json.loads(who.scope_in("p", "r", "c")) == {
        "sub": "a", **claims, "panelId": "p", "requestId": "r", "clientId": "c"
    }  # fmt: skip
