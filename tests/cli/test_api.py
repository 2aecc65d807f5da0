"""Requests, and what is made of answers that no gateway gives."""

from __future__ import annotations

import httpx
import pytest

from panels_cli import api
from panels_cli.api import Api, hint, panel_path, refusal
from panels_cli.context import Context
from panels_cli.faults import RefusedError, UnreachableError, UsageError


def asking(answer: httpx.Response) -> Api:
    return Api(Context("http://gateway", "a.b.c"), transport=httpx.MockTransport(lambda request: answer))


def test_request_has_token_key_and_what_is_not_none() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"a": 1})

    with Api(Context("http://gateway/base", "a.b.c"), transport=httpx.MockTransport(answer)) as client:
        query: dict[str, object] = {"x": 1, "y": None}
        assert client.ask("POST", "/p", query=query, body=b"{}", key="ä").value == {"a": 1}
    (request,) = seen
    assert str(request.url) == "http://gateway/base/p?x=1"
    assert request.headers["authorization"] == "Bearer a.b.c"
    assert dict(request.headers.raw)[b"idempotency-key"] == "ä".encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(502, text="<html>"), "answered 502, and not as a gateway does"),
        (httpx.Response(200, content=b"{", headers={"content-type": "application/json"}), "broken JSON"),
        (httpx.Response(500, json={"error": "x"}), "answered 500"),
    ],
)
def test_answers_of_others_are_unreachable_gateways(answer: httpx.Response, said: str) -> None:
    with asking(answer) as client, pytest.raises(UnreachableError, match=said):
        client.ask("GET", "/")


def test_answer_above_the_bound_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 10)
    with (
        asking(httpx.Response(200, text="x" * 11)) as client,
        pytest.raises(UnreachableError, match="more than"),
    ):
        client.ask("GET", "/")


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("no"), httpx.ReadTimeout("no"), httpx.RemoteProtocolError("no")]
)
def test_errors_of_the_network_are_unreachable_gateways(error: Exception) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    with (
        Api(Context("http://gateway"), transport=httpx.MockTransport(fail)) as client,
        pytest.raises(UnreachableError, match="http://gateway"),
    ):
        client.ask("GET", "/")


def test_refusals_carry_what_the_gateway_says_and_what_to_do() -> None:
    error = refusal(
        "u", 503, {"error": {"code": "OVERLOADED", "message": "full", "details": {"retryAfterMs": 1500}}}
    )
    assert isinstance(error, RefusedError)
    assert str(error) == "full (OVERLOADED); try again in 1.5 s"
    assert error.shown() == {"code": "OVERLOADED", "message": "full", "details": {"retryAfterMs": 1500}}
    assert hint("NEW_CODE", {}) == ""


def test_names_that_could_be_paths_are_refused() -> None:
    assert panel_path("a:b", "keys", "x/y") == "/panels/a%3Ab/keys/x%2Fy"
    for name in ("", "..", "a/b", "ä"):
        with pytest.raises(UsageError):
            panel_path(name)
