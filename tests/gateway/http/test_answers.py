"""The one form of everything that is not success, and who may read it."""

from __future__ import annotations

import math

import httpx
import pytest

from panels_gateway.http.answers import error_response, not_found, overloaded
from panels_shared.errors import Code, RequestError
from tests.gateway.http.callers import assert_error
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path", ["/", "/panel", "/panels/", "/panels/a/b", "/panels/a%2Fb", "/panels/p/ws/x", "/%00"]
)
async def test_unknown_paths_answer_in_the_same_shape(client: httpx.AsyncClient, path: str) -> None:
    assert_error(await client.get(path), Code.NOT_FOUND)


async def test_unknown_methods_answer_in_the_same_shape(client: httpx.AsyncClient) -> None:
    response = await client.patch("/panels/p")
    assert_error(response, Code.METHOD_NOT_ALLOWED)
    assert "PUT" in response.headers["allow"]


async def test_a_defect_answers_without_its_detail(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("inner detail")

    await gateway.add("p")
    monkeypatch.setattr(gateway.kernel.intake, "accept", broken)
    response = await client.post("/panels/p/trigger/t")
    assert_error(response, Code.INTERNAL)
    assert "inner" not in response.text


@pytest.mark.parametrize("retry_ms", [1, 1_000, 1_001, 2_000.5])
def test_an_error_that_may_be_repeated_says_when_in_whole_seconds(retry_ms: float) -> None:
    response = error_response(RequestError(Code.OVERLOADED, "full", {"retryAfterMs": retry_ms}))
    assert response.headers["retry-after"] == str(max(1, math.ceil(retry_ms / 1_000)))


def test_an_error_without_a_time_has_no_header_of_one() -> None:
    response = error_response(RequestError(Code.CONFLICT, "no", {"retryAfterMs": "soon"}))
    assert "retry-after" not in response.headers
    assert "retry-after" in error_response(overloaded("much")).headers


def test_not_found_says_nothing_of_an_id_that_could_not_be_one() -> None:
    assert str(not_found("a/b<script>")) == str(not_found("x" * 4_000))
    assert "'p'" in str(not_found("p"))
