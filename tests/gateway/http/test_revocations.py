"""The routes that revoke tokens."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from panels_gateway.http.revocations import parse
from panels_shared.errors import Code, RequestError
from tests.gateway.http.callers import assert_error, bearer
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


def admin(**claims: Any) -> dict[str, str]:
    return bearer(**{"sub": "root", "panels": [], "panels_admin": True, **claims})


async def test_revoked_token_is_refused_everywhere(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p")
    stolen = bearer(sub="ann", jti="t-1")
    assert (await guarded.get("/panels/p", headers=stolen)).status_code == 200
    made = await guarded.post("/revocations", json={"jti": "t-1"}, headers=admin())
    assert made.status_code == 201
    body = made.json()
    assert made.headers["location"] == f"/revocations/{body['id']}"
    assert body["jti"] == "t-1"
    assert body["expiresAt"] == pytest.approx(time.time() + 86_405, abs=60)
    # the token has been verified before, and is remembered
    for path in ("/panels", "/panels/p", "/panels/p/state"):
        answer = await guarded.get(path, headers=stolen)
        assert_error(answer, Code.UNAUTHORIZED)
        assert answer.json()["error"]["message"] == "the token was revoked"
    assert (await guarded.get("/panels/p", headers=bearer(sub="ann", jti="t-2"))).status_code == 200


async def test_revocation_of_a_subject_spares_tokens_issued_later(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    await gateway.add("p")
    now = int(time.time())
    body = {"sub": "ann", "before": now, "expiresAt": now + 500}
    made = await guarded.post("/revocations", json=body, headers=admin())
    assert made.json() | {"id": "", "revokedAt": 0} == body | {"id": "", "revokedAt": 0}
    assert_error(await guarded.get("/panels/p", headers=bearer(sub="ann", iat=now - 1)), Code.UNAUTHORIZED)
    assert_error(await guarded.get("/panels/p", headers=bearer(sub="ann")), Code.UNAUTHORIZED)
    assert (await guarded.get("/panels/p", headers=bearer(sub="ann", iat=now))).status_code == 200
    assert (await guarded.get("/panels/p", headers=bearer(sub="bob"))).status_code == 200


async def test_revocations_are_listed_in_pages_and_taken_back(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    made = [
        (await guarded.post("/revocations", json={"jti": f"t-{number}"}, headers=admin())).json()
        for number in range(3)
    ]
    again = await guarded.post("/revocations", json={"jti": "t-0"}, headers=admin())
    assert (again.status_code, again.json()["id"]) == (200, made[0]["id"])
    first = (await guarded.get("/revocations", params={"limit": 2}, headers=admin())).json()
    rest = (await guarded.get("/revocations", params={"after": first["next"]}, headers=admin())).json()
    assert rest["next"] is None
    names = [revocation["id"] for revocation in first["revocations"] + rest["revocations"]]
    assert names == sorted(revocation["id"] for revocation in made)
    path = f"/revocations/{made[1]['id']}"
    assert (await guarded.get(path, headers=admin())).json() == made[1]
    assert (await guarded.delete(path, headers=admin())).status_code == 204
    assert_error(await guarded.get(path, headers=admin()), Code.NOT_FOUND)
    assert_error(await guarded.delete(path, headers=admin()), Code.NOT_FOUND)
    assert (await guarded.get("/panels", headers=bearer(jti="t-1"))).status_code == 200
    assert_error(await guarded.get("/panels", headers=bearer(jti="t-2")), Code.UNAUTHORIZED)


async def test_only_admins_revoke(guarded: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    for headers in (bearer(sub="ann"), admin(panels_admin=False)):
        answers = [
            await guarded.post("/revocations", json={"sub": "bob"}, headers=headers),
            await guarded.get("/revocations", headers=headers),
            await guarded.get("/revocations/x", headers=headers),
            await guarded.delete("/revocations/x", headers=headers),
        ]
        for answer in answers:
            assert_error(answer, Code.FORBIDDEN)
    assert_error(await guarded.get("/revocations", headers=admin(panels_admin="yes")), Code.UNAUTHORIZED)
    assert_error(await guarded.get("/revocations"), Code.UNAUTHORIZED)
    # without authentication there are no tokens, and nobody may prepare for the time when there are
    assert_error(await client.post("/revocations", json={"sub": "bob"}), Code.FORBIDDEN)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.PARSE_ERROR),
        (b"[]", Code.PARSE_ERROR),
        (b'{"sub": 1}', Code.PARSE_ERROR),
        (b'{"sub": "a", "more": 1}', Code.PARSE_ERROR),
        (b"{}", Code.INVALID_REQUEST),
        (b'{"sub": "a", "jti": "b"}', Code.INVALID_REQUEST),
        (b'{"sub": ""}', Code.INVALID_REQUEST),
        (b'{"jti": "%b"}' % (b"x" * 257), Code.INVALID_REQUEST),
        (b'{"jti": "a", "before": 1}', Code.INVALID_REQUEST),
        (b'{"sub": "a", "before": -1}', Code.INVALID_REQUEST),
        (b'{"sub": "a", "before": 1e300}', Code.INVALID_REQUEST),
        (b'{"sub": "a", "expiresAt": 1000}', Code.INVALID_REQUEST),
        (b'{"sub": "a", "expiresAt": 1e300}', Code.INVALID_REQUEST),
    ],
)
def test_bodies_that_are_refused(body: bytes, code: Code) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body, now=1_000.0, lifetime_s=60.0)
    assert caught.value.code is code


async def test_list_refuses_a_limit_out_of_bounds(guarded: httpx.AsyncClient) -> None:
    for limit in ("0", "1001", "x", "-1", ""):
        answer = await guarded.get("/revocations", params={"limit": limit}, headers=admin())
        assert assert_error(answer, Code.INVALID_REQUEST) == {"path": "limit"}
