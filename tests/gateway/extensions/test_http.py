"""``$ext.http`` as handlers call it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from panels_gateway.extensions.config import HttpConfig
from panels_gateway.extensions.errors import CallFailedError, ErrorCode
from panels_gateway.extensions.http.extension import Http
from panels_gateway.extensions.testing import ExtensionHarness
from tests.gateway.extensions.servers import Exchange, Respond, World, serving


def called(respond: Respond, name: str, *arguments: Any) -> tuple[Any, World]:
    """The answer to ``$ext.http.<name>(url, ...arguments)``; a mapping as the first
    argument gets the url in it.
    """

    async def run() -> tuple[Any, World]:
        async with serving(respond) as world:
            config = HttpConfig(allow=["http://127.0.0.0/8:*"])
            async with ExtensionHarness(Http(), http=config) as http:
                if name == "request":
                    return await http.call(name, {"url": world.url(), **arguments[0]}), world
                return await http.call(name, world.url(), *arguments), world

    return asyncio.run(run())


def answering(body: bytes, kind: str, *headers: str, status: str = "200 OK") -> Respond:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(body, kind=kind, headers=headers, status=status)

    return respond


JSON = answering(b'{"a":1}', "application/json")


@pytest.mark.parametrize("name", ["get", "delete", "options", "put", "post", "patch"])
def test_method_is_sent_as_it_is_called(name: str) -> None:
    answer, world = called(JSON, name)

    assert world.exchanges[0].head.startswith(name.upper().encode() + b" / HTTP/1.1\r\n")
    assert (answer["status"], answer["statusText"], answer["ok"], answer["data"]) == (
        200,
        "OK",
        True,
        {"a": 1},
    )
    assert answer["headers"]["content-type"] == "application/json"


def test_head_has_no_data() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-encoding: gzip\r\n\r\n")

    answer, _ = called(respond, "head")

    assert (answer["data"], answer["headers"]["content-length"]) == (None, "100")


def test_request_takes_one_object() -> None:
    _, world = called(JSON, "request", {"method": "put", "data": [1], "headers": {"X-Mine": "yes"}})

    [exchange] = world.exchanges
    assert (exchange.head.split()[0], exchange.body, exchange.header("x-mine")) == (b"PUT", b"[1]", "yes")


def test_status_that_is_no_success_is_an_answer() -> None:
    answer, _ = called(answering(b"gone", "text/plain", status="404 Not Found"), "get")

    assert (answer["status"], answer["statusText"], answer["ok"]) == (404, "Not Found", False)


@pytest.mark.parametrize(
    ("data", "options", "body", "kind"),
    [
        ({"a": 1}, None, b'{"a":1}', "application/json"),
        ("text", None, b"text", "text/plain; charset=utf-8"),
        ("text", {"dataType": "json"}, b'"text"', "application/json"),
        ("AAE=", {"dataType": "base64"}, b"\0\1", "application/octet-stream"),
        (None, None, b"", None),
        (None, {"dataType": "json"}, b"null", "application/json"),
        ("<a/>", {"headers": {"Content-Type": "text/xml"}}, b"<a/>", "text/xml"),
    ],
)
def test_data_is_sent_by_its_type(data: Any, options: Any, body: bytes, kind: str | None) -> None:
    _, world = called(JSON, "post", data, options)

    assert (world.exchanges[0].body, world.exchanges[0].header("content-type")) == (body, kind)


@pytest.mark.parametrize(
    ("body", "kind", "wanted", "data"),
    [
        (b'{"a":1}', "application/json", "auto", {"a": 1}),
        (b'{"a":1}', "application/problem+json; charset=utf-8", "auto", {"a": 1}),
        (b'{"a":1}', "text/plain", "auto", '{"a":1}'),
        (b'{"a":1}', "text/plain", "json", {"a": 1}),
        (b"{broken", "application/json", "auto", "{broken"),
        (b"\xe4", "text/plain; charset=iso-8859-1", "auto", "\u00e4"),
        (b"\xff\xfe", "image/png", "auto", {"base64": base64.b64encode(b"\xff\xfe").decode()}),
        (b"ab", "text/plain; charset=zip", "auto", "ab"),
        (b"ab", "text/plain", "base64", "YWI="),
        (b"", "text/plain", "auto", None),
    ],
)
def test_data_of_an_answer_is_read_by_its_type(body: bytes, kind: str, wanted: str, data: Any) -> None:
    answer, _ = called(answering(body, kind), "get", {"responseType": wanted})

    assert answer["data"] == data


def test_headers_of_one_name_are_joined() -> None:
    answer, _ = called(answering(b"", "text/plain", "x-a: 1", "X-A: 2"), "get")

    assert answer["headers"]["x-a"] == "1, 2"


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("get", [{"header": {}}], "Object contains unknown field `header` - at `options`"),
        ("get", [{"headers": {"a": 1}}], "Expected `str`, got `int` - at `options.headers[...]`"),
        ("get", [{"timeoutMs": 0}], "Expected `int` >= 1 - at `options.timeoutMs`"),
        ("get", [{}, 1], "expected at most 2 arguments, got 3"),
        ("post", [1, {"dataType": "text"}], "expected a string as data of type text"),
        ("post", ["?", {"dataType": "base64"}], "expected base64 as data"),
    ],
)
def test_arguments_are_refused_with_the_place(name: str, arguments: list[Any], sentence: str) -> None:
    with pytest.raises(CallFailedError) as caught:
        called(JSON, name, *arguments)

    assert (caught.value.code, caught.value.message) == (ErrorCode.ARGUMENTS, sentence)


@pytest.mark.parametrize("wanted", ["json", "text"])
def test_answer_that_is_not_what_was_wanted_fails(wanted: str) -> None:
    with pytest.raises(CallFailedError) as caught:
        called(answering(b"\xff", "text/plain"), "get", {"responseType": wanted})

    assert caught.value.code is ErrorCode.FAILED
