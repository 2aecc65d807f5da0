"""Where tokens are taken from, and which web pages may speak."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.access.credentials import (
    Credentials,
    CredentialsError,
    OriginPolicy,
    own_origins,
    take_credentials,
)

Headers = list[tuple[bytes, bytes]]


def scope_of(
    query: bytes = b"", headers: Headers | None = None, subprotocols: list[str] | None = None
) -> dict[str, Any]:
    offered = subprotocols or []
    raw = [(b"sec-websocket-protocol", ", ".join(offered).encode())] if offered else []
    return {"query_string": query, "headers": [*(headers or []), *raw], "subprotocols": offered}


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (scope_of(), Credentials()),
        (scope_of(b"token=T"), Credentials("T")),
        (scope_of(b"a=1&token=T&b=2"), Credentials("T")),
        (scope_of(b"%74oken=%54"), Credentials("T")),
        (scope_of(b"token=T&token=T"), Credentials("T")),
        (scope_of(b"xtoken=T"), Credentials()),
        (scope_of(b"token"), Credentials("")),
        (scope_of(headers=[(b"authorization", b"Bearer T")]), Credentials("T")),
        (scope_of(headers=[(b"authorization", b"bEARER  T ")]), Credentials("T")),
        (scope_of(headers=[(b"authorization", b"Basic dTpw")]), Credentials()),
        (scope_of(subprotocols=["panels.v1", "bearer.T"]), Credentials("T", "panels.v1")),
        (scope_of(subprotocols=["bearer.T"]), Credentials("T")),
        (scope_of(subprotocols=["panels.v1"]), Credentials(None, "panels.v1")),
        (scope_of(subprotocols=["panels.v2", "chat"]), Credentials()),
        (scope_of(b"token=T", [(b"authorization", b"Bearer T")], ["bearer.T"]), Credentials("T")),
    ],
)
def test_credentials_are_taken_from(scope: dict[str, Any], expected: Credentials) -> None:
    assert take_credentials(scope) == expected


@pytest.mark.parametrize(
    "scope",
    [
        scope_of(b"token=T&token=U"),
        scope_of(b"token=T", [(b"authorization", b"Bearer U")]),
        scope_of(b"token=T", subprotocols=["bearer.U"]),
        scope_of(b"token=", [(b"authorization", b"Bearer U")]),
        scope_of(headers=[(b"authorization", b"Bearer T"), (b"authorization", b"Bearer U")]),
        scope_of(subprotocols=["bearer.T", "bearer.U"]),
        scope_of(b"token=T&" + b"&".join([b"a=1"] * 70)),
    ],
)
def test_credentials_are_refused_when_they_contradict(scope: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError) as caught:
        take_credentials(scope)
    assert "T" not in str(caught.value).replace("expecTed", "")


def test_credentials_leave_nothing_behind_in_the_scope() -> None:
    headers = [(b"host", b"h"), (b"authorization", b"Bearer CANARY")]
    scope = scope_of(b"a=1&token=CANARY&%74oken=CANARY", headers, ["panels.v1", "bearer.CANARY"])
    taken = take_credentials(scope)
    assert "CANARY" not in repr(scope)
    assert "CANARY" not in repr(taken)
    assert (scope["query_string"], scope["headers"], scope["subprotocols"]) == (
        b"a=1",
        [(b"host", b"h")],
        ["panels.v1"],
    )


@given(st.binary(max_size=80))
def test_credentials_take_any_query(query: bytes) -> None:
    take_credentials(scope_of(query.replace(b"token", b"")))


ALLOWED = OriginPolicy(
    ["https://good.example", "http://localhost:8080"], own=own_origins("127.0.0.1", 3001, None)
)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        (b"https://good.example", True),
        (b"http://localhost:8080", True),
        (b"http://127.0.0.1:3001", True),
        (b"http://localhost:3001", True),
        (b"https://evil.example", False),
        (b"null", False),
        (b"", False),
        (b"https://good.example.evil.example", False),
        (b"https://sub.good.example", False),
        (b"http://good.example", False),
        (b"https://good.example:8443", False),
        (b"https://GOOD.example", False),
        (b"https://good.example/", False),
        (b"http://localhost:3002", False),
    ],
)
def test_origin_policy_compares_byte_by_byte(origin: bytes | None, allowed: bool) -> None:
    assert (ALLOWED.stranger([] if origin is None else [(b"origin", origin)]) is None) is allowed


def test_origin_policy_refuses_two_origins_when_one_is_bad() -> None:
    assert (
        ALLOWED.stranger([(b"origin", b"https://good.example"), (b"origin", b"https://evil.example")])
        is not None
    )


def test_origin_policy_allows_only_its_own_by_default() -> None:
    policy = OriginPolicy(None, own=own_origins("10.0.0.1", 80, "https://panels.example"))
    assert policy.stranger([(b"origin", b"https://panels.example")]) is None
    assert policy.stranger([(b"origin", b"http://10.0.0.1:80")]) is None
    assert policy.stranger([(b"origin", b"https://good.example")]) is not None


def test_origin_policy_allows_any_with_a_star() -> None:
    assert OriginPolicy(["*"], own=()).stranger([(b"origin", b"null")]) is None
