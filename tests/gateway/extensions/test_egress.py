"""The way out, against real servers on loopback, most of them hostile."""

from __future__ import annotations

import asyncio
import base64
import gzip
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from panels_gateway.extensions.config import HttpConfig, Secret
from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.http.egress import Egress, EgressAnswer, EgressRequest, Slots
from panels_gateway.extensions.messages import Verdict
from tests.gateway.extensions.builders import a_context
from tests.gateway.extensions.servers import Exchange, Respond, World, serving

VALUE = "s3cr3t/value+with=signs"
CONFIG = HttpConfig(
    allow=["http://127.0.0.0/8:*", "http://*:*"],
    response_bytes=10_000,
    secrets={"TOKEN": Secret(value=VALUE, origins=["http://127.0.0.1:*", "http://one.test:*"])},
)

Scenario = Callable[[Egress, World], Awaitable[None]]


def play(respond: Respond, scenario: Scenario, **changes: Any) -> World:
    """Runs ``scenario`` against a server that answers by ``respond``."""

    async def run() -> World:
        async with serving(respond) as world:
            egress = Egress(msgspec.structs.replace(CONFIG, **changes), resolver=world)
            try:
                await scenario(egress, world)
            finally:
                await egress.close()
        return world

    return asyncio.run(run())


def fetched(respond: Respond, *, path: str = "/", host: str = "127.0.0.1", **request: Any) -> EgressAnswer:
    """The answer to one request."""
    answers: list[EgressAnswer] = []

    async def scenario(egress: Egress, world: World) -> None:
        world.names["one.test"] = [["127.0.0.1"]]
        asked = EgressRequest(**{"method": "GET", "url": world.url(path, host), **request})
        answers.append(await egress.fetch(a_context(), asked))

    play(respond, scenario)
    return answers[0]


def failure(
    respond: Respond, *, names: dict[str, list[list[str]]] | None = None, url: str = "",
    host: str = "127.0.0.1",
    request: dict[str, Any] | None = None, **changes: Any,
) -> tuple[ErrorCode, list[Verdict], World]:  # fmt: skip
    """How one request fails: its code, the verdicts in the ledger, and what the server saw."""
    seen: list[tuple[ErrorCode, list[Verdict]]] = []

    async def scenario(egress: Egress, world: World) -> None:
        world.names.update(names or {})
        context = a_context()
        asked = EgressRequest(**{"method": "GET", "url": url or world.url(host=host), **(request or {})})
        with pytest.raises(CallFailedError) as caught:
            await egress.fetch(context, asked)
        assert VALUE not in str(caught.value)
        seen.append((caught.value.code, [entry.verdict for entry in context.ledger]))

    world = play(respond, scenario, **changes)
    return *seen[0], world


async def hello(exchange: Exchange) -> None:
    await exchange.answer(b"hello")


def test_answer_comes_with_an_entry_in_the_ledger() -> None:
    async def scenario(egress: Egress, world: World) -> None:
        world.names["one.test"] = [["127.0.0.1"]]
        context = a_context()
        answer = await egress.fetch(
            context,
            EgressRequest(
                method="POST",
                url=world.url("/x?y=1", "one.test"),
                headers={"authorization": "Bearer $secret:TOKEN"},
                content=b"body",
            ),
        )

        assert (answer.status, answer.reason, answer.content) == (200, "OK", b"hello")
        [entry] = context.ledger
        assert (entry.host, entry.address) == (f"one.test:{world.port}", "127.0.0.1")
        assert (entry.secrets, entry.verdict) == (["TOKEN"], Verdict.OK)
        [exchange] = world.exchanges
        assert entry.bytes_sent == len(exchange.head) + len(exchange.body)
        assert entry.bytes_received > len(b"hello")
        assert (exchange.path, exchange.body) == ("/x?y=1", b"body")
        assert exchange.header("authorization") == f"Bearer {VALUE}"
        assert exchange.header("host") == f"one.test:{world.port}"
        assert world.looked_up == ["one.test"]

    play(hello, scenario)


def test_name_is_not_looked_up_when_no_line_allows_it() -> None:
    code, verdicts, world = failure(hello, host="data.evil.test", allow=["http://127.0.0.0/8:*"])

    assert (code, verdicts, world.looked_up) == (ErrorCode.DENIED, [Verdict.DENIED], [])


def test_connection_goes_to_the_address_that_was_checked_when_dns_changes() -> None:
    async def scenario(egress: Egress, world: World) -> None:
        # a second look-up would lead to where nobody listens
        world.names["rebind.test"] = [["127.0.0.1"], ["127.9.9.9"]]
        context = a_context()
        await egress.fetch(context, EgressRequest(method="GET", url=world.url(host="rebind.test")))

        assert world.looked_up == ["rebind.test"]
        assert [entry.address for entry in context.ledger] == ["127.0.0.1"]

    play(hello, scenario)


@pytest.mark.parametrize(
    "answer", ["169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "not an address"]
)
def test_nothing_is_sent_when_one_of_the_answers_is_not_allowed(answer: str) -> None:
    code, verdicts, world = failure(hello, host="mixed.test", names={"mixed.test": [["127.0.0.1", answer]]})

    assert code in (ErrorCode.DENIED, ErrorCode.FAILED)
    assert verdicts != [Verdict.OK]
    assert world.exchanges == []


def test_next_address_is_tried_when_one_does_not_answer() -> None:
    async def scenario(egress: Egress, world: World) -> None:
        world.names["two.test"] = [["127.9.9.9", "127.0.0.1"]]
        context = a_context()
        await egress.fetch(context, EgressRequest(method="GET", url=world.url(host="two.test")))

        assert [entry.address for entry in context.ledger] == ["127.0.0.1"]

    play(hello, scenario)


def test_redirect_is_the_answer_unless_the_handler_asks_to_follow() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(status="302 Found", headers=["location: /next"])

    answer = fetched(respond)

    assert (answer.status, dict(answer.headers)["location"]) == (302, "/next")


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://[::ffff:a9fe:a9fe]/",
     "http://metadata.test/", "file:///etc/passwd", "http://1.2.3.4.5/", "https://127.0.0.1/"],
)  # fmt: skip
def test_redirect_is_checked_like_a_first_request(location: str) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(status="302 Found", headers=[f"location: {location}"])

    code, verdicts, world = failure(
        respond, names={"metadata.test": [["169.254.169.254"]]}, request={"redirects": 2}
    )

    assert code in (ErrorCode.DENIED, ErrorCode.ARGUMENTS)
    assert (len(verdicts), verdicts[0], len(world.exchanges)) == (2, Verdict.OK, 1)


def test_redirect_loop_ends() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(status="307 Temporary Redirect", headers=["location: /again"])

    code, verdicts, _ = failure(respond, request={"redirects": 3})

    assert (code, verdicts) == (ErrorCode.LIMIT, [Verdict.OK] * 4)


@pytest.mark.parametrize(
    ("host", "kept"), [("one.test", True), ("two.test", False)], ids=["same origin", "other origin"]
)
def test_credentials_follow_a_redirect_within_the_origin_alone(host: str, kept: bool) -> None:
    async def scenario(egress: Egress, world: World) -> None:
        world.names.update({"one.test": [["127.0.0.1"]], "two.test": [["127.0.0.1"]]})
        world_port.append(world.port)
        headers = {"authorization": "mine", "x-key": "$secret:TOKEN", "x-other": "1"}
        request = EgressRequest(method="GET", url=world.url("/", "one.test"), headers=headers, redirects=1)
        context = a_context()
        await egress.fetch(context, request)

        last = world.exchanges[-1]
        assert last.path == "/end"
        assert [last.header(name) for name in headers] == (
            ["mine", VALUE, "1"] if kept else [None, None, "1"]
        )
        assert context.ledger[-1].secrets == (["TOKEN"] if kept else [])

    async def respond(exchange: Exchange) -> None:
        if exchange.path == "/end":
            await hello(exchange)
        else:
            location = f"location: http://{host}:{world_port[0]}/end"
            await exchange.answer(status="302 Found", headers=[location])

    world_port: list[int] = []
    play(respond, scenario)


@pytest.mark.parametrize(
    ("status", "verb", "body"), [("303 See Other", b"GET", b""), ("307 Temporary Redirect", b"POST", b"body")]
)
def test_redirect_keeps_or_drops_the_body_as_its_status_says(status: str, verb: bytes, body: bytes) -> None:
    async def scenario(egress: Egress, world: World) -> None:
        request = EgressRequest(
            method="POST",
            url=world.url(),
            headers={"content-type": "text/plain"},
            content=b"body",
            redirects=1,
        )
        await egress.fetch(a_context(), request)

        last = world.exchanges[-1]
        assert (last.head.split(b" ")[0], last.body) == (verb, body)
        assert (last.header("content-type") is None) == (body == b"")

    async def respond(exchange: Exchange) -> None:
        if exchange.path == "/end":
            await hello(exchange)
        else:
            await exchange.answer(status=status, headers=["location: /end"])

    play(respond, scenario)


async def endless_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await exchange.send(b"x" * 1_000)


async def endless_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"x: " + b"y" * 1_000 + b"\r\n")


async def endless_line(exchange: Exchange) -> None:
    while True:
        await exchange.send(b"H" * 1_000)


async def endless_informational(exchange: Exchange) -> None:
    while True:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * 100)


async def endless_trailers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    while True:
        await exchange.send(b"x: " + b"y" * 1_000 + b"\r\n")


async def tiny_chunks(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await exchange.send(b"1;" + b"e" * 1_000 + b"\r\nx\r\n")


async def many_headers(exchange: Exchange) -> None:
    await exchange.answer(headers=[f"x-{number}: y" for number in range(200)])


async def gzip_bomb(exchange: Exchange) -> None:
    packed = gzip.compress(bytes(20_000_000))
    await exchange.answer(packed, headers=["content-encoding: gzip"])


@pytest.mark.parametrize(
    "respond",
    [
        endless_body,
        endless_headers,
        endless_line,
        endless_informational,
        tiny_chunks,
        many_headers,
        gzip_bomb,
    ],
    ids=lambda respond: respond.__name__,
)
def test_answer_without_end_passes_a_limit(respond: Respond) -> None:
    code, verdicts, _ = failure(respond)

    assert (code, verdicts) == (ErrorCode.LIMIT, [Verdict.LIMIT])


def test_trailers_without_end_fail() -> None:
    code, _, _ = failure(endless_trailers)

    assert code in (ErrorCode.LIMIT, ErrorCode.FAILED)


async def silence(exchange: Exchange) -> None:
    await asyncio.Event().wait()


async def drip(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        await exchange.send(b"x")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("respond", [silence, drip], ids=lambda respond: respond.__name__)
def test_slow_answer_passes_the_time(respond: Respond) -> None:
    code, verdicts, _ = failure(respond, timeout_s=0.2)

    assert (code, verdicts) == (ErrorCode.TIMEOUT, [Verdict.TIMEOUT])


def test_handler_can_shorten_the_time() -> None:
    code, _, _ = failure(silence, request={"timeout_s": 0.05}, timeout_s=50.0)

    assert code is ErrorCode.TIMEOUT


async def no_http(exchange: Exchange) -> None:
    await exchange.send(b"220 smtp.example.com ESMTP\r\n")


async def cut(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nxx")


async def unknown_encoding(exchange: Exchange) -> None:
    await exchange.answer(b"x", headers=["content-encoding: br"])


async def double_encoding(exchange: Exchange) -> None:
    await exchange.answer(gzip.compress(gzip.compress(b"x")), headers=["content-encoding: gzip, gzip"])


async def cut_gzip(exchange: Exchange) -> None:
    await exchange.answer(gzip.compress(b"x" * 1_000)[:-4], headers=["content-encoding: gzip"])


async def no_gzip(exchange: Exchange) -> None:
    await exchange.answer(b"x" * 1_000, headers=["content-encoding: gzip"])


@pytest.mark.parametrize(
    "respond",
    [no_http, cut, unknown_encoding, double_encoding, cut_gzip, no_gzip],
    ids=lambda respond: respond.__name__,
)
def test_answer_that_breaks_the_protocol_fails(respond: Respond) -> None:
    code, verdicts, _ = failure(respond)

    assert (code, verdicts) == (ErrorCode.FAILED, [Verdict.FAILED])


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"hello")),
        ("gzip", gzip.compress(b"hel") + gzip.compress(b"lo")),
        ("deflate", zlib.compress(b"hello")),
        ("deflate", zlib.compress(b"hello")[2:-4]),
        ("identity", b"hello"),
    ],
    ids=["gzip", "two gzip members", "deflate", "bare deflate", "identity"],
)
def test_answer_is_decompressed(encoding: str, packed: bytes) -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(packed, headers=[f"content-encoding: {encoding}"])

    assert fetched(respond).content == b"hello"


def test_server_that_is_not_there_fails() -> None:
    code, verdicts, _ = failure(hello, url="http://127.0.0.1:1/")

    assert (code, verdicts) == (ErrorCode.FAILED, [Verdict.FAILED])


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({"content": b"x" * 2_000_000}, ErrorCode.LIMIT),
        ({"headers": {"x": "y" * 40_000}}, ErrorCode.LIMIT),
        ({"headers": {f"x{number}": "y" for number in range(200)}}, ErrorCode.LIMIT),
        ({"headers": {"host": "other.test"}}, ErrorCode.ARGUMENTS),
        ({"headers": {"transfer-encoding": "chunked"}}, ErrorCode.ARGUMENTS),
        ({"headers": {"x": "a\r\ny: b"}}, ErrorCode.ARGUMENTS),
        ({"headers": {"x y": "a"}}, ErrorCode.ARGUMENTS),
        ({"headers": {"x": "\u00e4"}}, ErrorCode.ARGUMENTS),
        ({"method": "CONNECT"}, ErrorCode.ARGUMENTS),
        ({"method": "GET / HTTP/1.1\r\nx:"}, ErrorCode.ARGUMENTS),
        ({"redirects": 6}, ErrorCode.ARGUMENTS),
        ({"headers": {"x": "$secret:OTHER"}}, ErrorCode.DENIED),
    ],
    ids=str,
)
def test_request_is_refused_before_anything_is_sent(request_fields: dict[str, Any], code: ErrorCode) -> None:
    got, _, world = failure(hello, request=request_fields)

    assert (got, world.exchanges) == (code, [])


def test_secret_goes_nowhere_else_than_its_origins() -> None:
    code, verdicts, world = failure(
        hello,
        host="two.test",
        names={"two.test": [["127.0.0.1"]]},
        request={"headers": {"authorization": "$secret:TOKEN"}},
    )

    assert (code, verdicts, world.exchanges) == (ErrorCode.DENIED, [Verdict.DENIED], [])


def test_secret_is_scrubbed_from_an_answer_that_reflects_it() -> None:
    async def respond(exchange: Exchange) -> None:
        value = str(exchange.header("authorization"))
        basic = base64.b64encode(f"user:{value}".encode()).decode()
        escaped = "".join(f"\\u{ord(char):04x}" for char in value)
        body = f'{{"raw":"{value}","basic":"{basic}","escaped":"{escaped}","{value}":1}}'
        await exchange.answer(body.encode(), status=f"200 {value}", headers=[f"x-echo: {value}"])

    answer = fetched(respond, headers={"authorization": "$secret:TOKEN"})

    shown = f"{answer} {answer.json()} {answer.text()}"
    assert VALUE not in shown
    assert answer.json()["escaped"] == answer.json()["raw"] == "[secret:TOKEN]"
    assert answer.json()["[secret:TOKEN]"] == 1
    assert base64.b64encode(VALUE.encode())[4:-4].decode() not in shown
    assert (answer.reason, dict(answer.headers)["x-echo"]) == ("[secret:TOKEN]", "[secret:TOKEN]")


def test_secret_is_scrubbed_from_text_of_two_bytes_a_character() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(VALUE.encode("utf-16"))

    assert fetched(respond).text("utf-16") == "[secret:TOKEN]"


def test_exchanges_of_a_panel_wait_for_each_other_and_not_for_another_panel() -> None:
    async def run() -> None:
        slots = Slots(per_panel=1, in_all=2)
        order: list[str] = []
        release, both = asyncio.Event(), asyncio.Event()

        async def exchange(panel: str, name: str) -> None:
            async with slots.hold(panel):
                order.append(name)
                if len(order) == 2:
                    both.set()
                await release.wait()

        tasks = [asyncio.create_task(exchange(*item)) for item in (("a", "a1"), ("a", "a2"), ("b", "b1"))]
        await both.wait()
        assert order == ["a1", "b1"]
        release.set()
        await asyncio.gather(*tasks)
        assert order == ["a1", "b1", "a2"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "secret",
    [Secret(origins=["http://x"]), Secret(value="short", origins=["http://x"]),
     Secret(value=VALUE, file="/x", origins=["http://x"]), Secret(file="/no/such/file", origins=["http://x"]),
     Secret(value=VALUE, origins=["x"]), Secret(value=VALUE + "\n", origins=["http://x"])],
    ids=["none", "short", "both", "no file", "origin", "control"],
)  # fmt: skip
def test_secret_is_refused_without_telling_it(secret: Secret) -> None:
    with pytest.raises(ExtensionConfigError, match=r"^http\.secrets\.TOKEN") as caught:
        Egress(HttpConfig(secrets={"TOKEN": secret}))

    assert VALUE not in str(caught.value)
    assert VALUE not in repr(secret)
