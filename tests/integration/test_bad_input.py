"""Frames and bytes that no honest client sends: each has one documented outcome, and nobody else notices."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter, returns_args, set_from_args, tool
from tests.support.clients import Client, RawSocket, frame, refused_status, upgrade_request, zero_masked
from tests.support.system import System, eventually

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def panel(system: System) -> str:
    """The panel that is abused."""
    return system.make_panel(tool("echo", returns_args()), tool("keep", set_from_args("kept")), counter())


@pytest.fixture(scope="module")
def bystander(system: System) -> Iterator[Client]:
    """A client of another panel, connected all the time."""
    with system.connect(system.make_panel(counter(), state={"count": 0})) as client:
        yield client


@pytest.fixture(autouse=True)
def nobody_else_notices(bystander: Client) -> Iterator[None]:
    """Around every test here: the bystander is served and hears nothing that is not its own."""
    before = bystander.call("count")
    yield
    assert bystander.barrier() == []
    assert bystander.call("count") == before + 1


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# -- messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "nonsense", "{", '{"type":"PING"', '{"type":"PING"}}', '{"type":"PING"} x', "'PING'", "\x00",
        "\ufeff{}",
        "null", "true", "5", '"PING"', "[]", '[{"type":"PING"}]', "{}", '{"type":null}', '{"type":5}',
        '{"type":["PING"]}',
        '{"type":"TRIGGER"}', '{"type":"TRIGGER","tool":null}', '{"type":"TRIGGER","tool":5}',
        '{"type":"TRIGGER","tool":["echo"]}',
        '{"type":"TRIGGER","tool":"echo","requestId":5}', '{"type":"TRIGGER","tool":"echo","requestId":null}',
        '{"type":"SUBSCRIBE"}', '{"type":"SUBSCRIBE","topics":"state"}', '{"type":"SUBSCRIBE","topics":[1]}',
        '{"type":"UNSUBSCRIBE","topics":{"state":true}}', '{"type":"UNSUBSCRIBE","topics":[null]}',
        '{"type":"TRIGGER","tool":"echo","args":}', '{"type":"TRIGGER","tool":"echo","args":[1,]}',
        '{"type":"TRIGGER","tool":"echo","args":NaN}', '{"type":"TRIGGER","tool":"echo","args":Infinity}',
        '{"type":"TRIGGER","tool":"echo","args":-Infinity}', '{"type":"TRIGGER","tool":"echo","args":[NaN]}',
        '{"type":"TRIGGER","tool":"echo","args":1e400}', '{"type":"TRIGGER","tool":"echo","args":-1e400}',
        '{"type":"TRIGGER","tool":"echo","args":18446744073709551616}',
        '{"type":"TRIGGER","tool":"echo","args":-9223372036854775809}',
        '{"type":"TRIGGER","tool":"echo","args":01}', '{"type":"TRIGGER","tool":"echo","args":.5}',
        '{"type":"TRIGGER","tool":"echo","args":0x10}',
        '{"type":"TRIGGER","tool":"echo","args":"\\ud800"}',
        '{"type":"TRIGGER","tool":"echo","args":"\\udc00\\ud800"}',
        '{"type":"TRIGGER","tool":"echo","args":{"\\ud800":1}}', '{"type":"TRIGGER","tool":"\\ud800"}',
        '{"type":"TRIGGER","tool":"echo","requestId":"\\ud800"}', '{"type":"SUBSCRIBE","topics":["\\ud800"]}',
        '{"type":"TRIGGER","tool":"echo","args":"\t"}', '{"type":"TRIGGER","tool":"echo","args":"\\x41"}',
    ],
)  # fmt: skip
def test_message_that_is_not_acceptable_json_is_a_parse_error(system: System, panel: str, text: str) -> None:
    with system.connect(panel) as client:
        error = client.answer_to(text)
        assert (error["type"], error["code"]) == ("ERROR", "PARSE_ERROR"), error
        assert client.call("echo", 1) == 1


def test_integer_of_many_digits_is_a_parse_error(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        text = '{"type":"TRIGGER","tool":"echo","args":' + "9" * 5_000 + "}"
        error = client.answer_to(text)
        assert error["code"] == "PARSE_ERROR"
        assert len(error["message"]) < 1_000


@pytest.mark.parametrize("depth", [65, 66, 300, 1_025, 100_000])
def test_nesting_above_64_is_a_parse_error(system: System, panel: str, depth: int) -> None:
    with system.connect(panel) as client:
        for text in (
            f'{{"type":"TRIGGER","tool":"echo","requestId":"d","args":{nested(depth)}}}',
            f'{{"type":"PING","more":{nested(depth)}}}' if depth > 1_000 else nested(depth),
        ):
            assert client.answer_to(text)["code"] == "PARSE_ERROR"
        assert client.call("echo", 1) == 1


def test_nesting_of_64_is_carried_all_the_way(system: System, panel: str) -> None:
    value = json.loads(nested(64))
    with system.connect(panel) as client:
        assert client.call("echo", value) == value
        client.call("keep", value)
    assert system.state(panel)["kept"] == value


def test_brackets_within_strings_are_not_nesting(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        assert client.call("echo", "[" * 1_000) == "[" * 1_000


def test_last_of_duplicate_keys_counts(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        client.send_raw(
            '{"type":"TRIGGER","tool":"x","tool":"echo","args":1,"args":{"a":1,"a":2},"requestId":"b","requestId":"a"}'
        )
        answer = client.await_answer("a")
    assert answer.value == {"a": 2}


def test_two_types_that_differ_are_a_parse_error(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        for text in (
            '{"type":"PING","type":"TRIGGER","tool":"echo"}',
            '{"type":"TRIGGER","tool":"echo","type":"PING"}',
        ):
            assert client.answer_to(text)["code"] == "PARSE_ERROR"
        assert client.answer_to('{"type":"PING","type":"PING"}') == {"type": "PONG"}


def test_unknown_fields_are_ignored(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        assert client.answer_to('{"type":"PING","more":[1,{"x":null}]}') == {"type": "PONG"}


@pytest.mark.parametrize(
    "tool_name", ["", "missing", "__proto__", "constructor", "Echo", "echo ", "\x00", "x" * 128]
)
def test_unknown_tool_is_tool_not_found(system: System, panel: str, tool_name: str) -> None:
    with system.connect(panel) as client:
        assert client.trigger(tool_name).code == "TOOL_NOT_FOUND"
        assert client.call("echo", 1) == 1


@pytest.mark.parametrize(
    "message",
    [
        {"type": "TRIGGER", "tool": "x" * 129},
        {"type": "TRIGGER", "tool": "echo", "requestId": "x" * 257},
        {"type": "SUBSCRIBE", "topics": ["x"] * 257},
        {"type": "SUBSCRIBE", "topics": ["x" * 301]},
        {"type": "UNSUBSCRIBE", "topics": [str(n) for n in range(257)]},
    ],
    ids=["tool", "requestId", "topics", "topic", "unsubscribed"],
)
def test_names_above_their_limits_are_a_parse_error(system: System, panel: str, message: object) -> None:
    with system.connect(panel) as client:
        client.send(message)
        assert client.receive()["code"] == "PARSE_ERROR"
        assert client.call("echo", 1) == 1


def test_topics_of_one_client_are_bounded(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        for begin in range(0, 1_000, 250):
            client.send({"type": "SUBSCRIBE", "topics": [f"state:{begin + n}" for n in range(250)]})
        assert {message["code"] for message in client.barrier()} == {"PARSE_ERROR"}
        client.send({"type": "UNSUBSCRIBE", "topics": ["state", "state:0"]})
        assert client.barrier() == []


def test_error_never_repeats_a_long_input(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        for text in (
            json.dumps({"type": "x" * 100_000}),
            json.dumps({"type": "TRIGGER", "tool": {"y" * 100_000: 1}}),
        ):
            assert len(json.dumps(client.answer_to(text))) < 2_000


def test_many_bad_messages_leave_the_connection_in_service(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        for _ in range(500):
            client.send_raw("nonsense")
        heard = client.barrier()
        assert [message["code"] for message in heard] == ["PARSE_ERROR"] * 500


def test_large_message_below_the_limit_is_served(system: System, panel: str) -> None:
    text = "x" * (MIB - 1_000)
    with system.connect(panel) as client:
        assert client.call("echo", text) == text


# -- frames -------------------------------------------------------------------------------------------------


def test_binary_message_closes_with_1003(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        client.send_raw(b'{"type":"PING"}')
        assert client.await_close()[0] == 1003


def test_fragmented_binary_message_closes_with_1003(system: System, panel: str) -> None:
    with system.connect_raw(panel) as raw:
        raw.send(frame(b"a", first=0x02) + frame(b"b", first=0x80))
        assert raw.close_code() == 1003


def test_frame_above_the_limit_closes_with_1009(system: System, panel: str) -> None:
    with system.connect(panel) as client:
        client.send_raw(" " * (MIB + 1))
        assert client.await_close()[0] == 1009


def test_fragments_above_the_limit_together_close_with_1009(system: System, panel: str) -> None:
    half = b" " * (MIB // 2 + 1)
    with system.connect_raw(panel) as raw:
        raw.send(zero_masked(half, first=0x01) + zero_masked(half, first=0x80))
        assert raw.close_code() == 1009


def test_fragmented_message_is_served(system: System, panel: str) -> None:
    text = b'{"type":"PING"}'
    with system.connect_raw(panel) as raw:
        raw.read_message()
        raw.send(frame(text[:3], first=0x01) + frame(b"", first=0x00))
        raw.send(frame(b"between", first=0x89))
        raw.send(frame(text[3:], first=0x80))
        assert raw.read_frame() == (0xA, b"between")
        assert raw.read_message() == {"type": "PONG"}


def test_message_is_served_however_its_bytes_arrive(system: System, panel: str) -> None:
    stream = b"".join(frame(b'{"type":"PING"}') for _ in range(3))
    with system.connect_raw(panel) as raw:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.read_message()
        for at in range(len(stream)):
            raw.send(stream[at : at + 1])
        assert [raw.read_message() for _ in range(3)] == [{"type": "PONG"}] * 3


def test_unmasked_frame_closes_with_1002(system: System, panel: str) -> None:
    with system.connect_raw(panel) as raw:
        raw.send(frame(b'{"type":"PING"}', masked=False))
        assert raw.close_code() == 1002


@pytest.mark.parametrize("announced", [2**62, 2**63 - 1])
def test_frame_that_announces_exabytes_closes_with_1009(system: System, panel: str, announced: int) -> None:
    with system.connect_raw(panel) as raw:
        raw.send(frame(b"", length=announced))
        assert raw.close_code() == 1009


def test_length_with_the_top_bit_set_is_refused(system: System, panel: str) -> None:
    with system.connect_raw(panel) as raw:
        raw.send(frame(b"", length=2**63))
        assert raw.close_code() in (1002, 1009)


def test_endless_empty_fragments_are_cut_off(system: System, panel: str) -> None:
    with system.connect_raw(panel) as raw:
        raw.read_message()
        raw.send(frame(b"", first=0x01))
        for _ in range(100):
            raw.send(frame(b"", first=0x00) * 100)
        assert raw.close_code() in (1002, 1006, 1008, 1009)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x", first=0xC1), 1002),
        (frame(b"x", first=0xA1), 1002),
        (frame(b"x", first=0x91), 1002),
        (frame(b"x", first=0x83), 1002),
        (frame(b"x", first=0x8B), 1002),
        (frame(b"x" * 126, first=0x89), 1002),
        (frame(b"x", first=0x09), 1002),
        (frame(b"x", first=0x80), 1002),
        (frame(b"a", first=0x01) + frame(b"b", first=0x81), 1002),
        (frame((1005).to_bytes(2, "big"), first=0x88), 1002),
        (frame((999).to_bytes(2, "big"), first=0x88), 1002),
        (frame(b"\x03", first=0x88), 1002),
        (frame((1000).to_bytes(2, "big") + b"\xff", first=0x88), 1007),
        (frame(b'{"type":"\xff"}'), 1007),
        (frame(b"\xed\xa0\x80"), 1007),
        (frame(b"\xc0\x80"), 1007),
        (frame(b'{"a":"\xc3', first=0x01) + frame(b'\x28"}', first=0x80), 1007),
    ],
    ids=[
        "rsv1", "rsv2", "rsv3", ("opcode "
                                "3"), "opcode 11", "long ping", "fragmented ping", "continuation of nothing",
        ("text within "
        "text"), "close 1005", "close 999", "close of one byte", "close reason not UTF-8", "not UTF-8",
        "surrogate bytes", "overlong", "not UTF-8 across fragments",
    ],
)  # fmt: skip
def test_frame_against_the_rfc_closes(system: System, panel: str, data: bytes, code: int) -> None:
    with system.connect_raw(panel) as raw:
        raw.send(data)
        assert raw.close_code() == code


def test_text_split_within_a_character_is_served(system: System, panel: str) -> None:
    text = '{"type":"TRIGGER","tool":"echo","args":"é"}'.encode()
    cut = text.index(b"\xc3") + 1
    with system.connect_raw(panel) as raw:
        raw.read_message()
        raw.send(frame(text[:cut], first=0x01) + frame(text[cut:], first=0x80))
        assert raw.read_message()["result"]["returnValue"] == "é"


def test_compression_is_not_negotiated(system: System, panel: str) -> None:
    with system.connect(panel, compression="deflate") as client:
        response = client.connection.response
        assert response is not None
        assert "Sec-WebSocket-Extensions" not in response.headers
        assert client.is_open


def test_garbage_instead_of_frames_closes(system: System, panel: str) -> None:
    for _ in range(20):
        with system.connect_raw(panel) as raw:
            raw.send(os.urandom(4_096))
            raw.socket.shutdown(socket.SHUT_WR)
            raw.read_to_end()


def test_frame_behind_the_upgrade_request_is_served_or_refused(system: System, panel: str) -> None:
    with RawSocket.open(system.port) as raw:
        raw.send(upgrade_request(system.socket_path(panel)) + frame(b'{"type":"PING"}'))
        answer = raw.read_head()
        assert answer.startswith(b"HTTP/1.1 101 ") or answer == b""
    with system.connect(panel) as client:
        assert client.is_open


def test_clients_that_vanish_in_the_middle_of_a_frame_leave_nothing(system: System) -> None:
    abused = system.make_panel()
    for _ in range(100):
        raw = system.connect_raw(abused)
        raw.send(frame(b'{"type":"SUBSCRIBE","topics":["state:a"]}') + frame(b"x" * 200)[:50])
        raw.reset()
    eventually(lambda: system.clients_of(abused) == 0)


# -- floods and slow readers --------------------------------------------------------------------------------


def rss_mib(system: System) -> float:
    return float(psutil.Process(system.the_gateway().pid).memory_info().rss) / MIB


def test_ping_flood_without_reading_is_cut_off(system: System, panel: str) -> None:
    before = rss_mib(system)
    with system.connect_raw(panel, receive_buffer_bytes=4_096) as raw:
        flood = frame(b"x" * 125, first=0x89) * 1_000
        sent = 0
        try:
            while sent < 200:
                raw.socket.sendall(flood)
                sent += 1
        except OSError:
            pass
        assert sent < 200
    assert rss_mib(system) - before < 20


def test_ping_flood_of_the_protocol_is_answered_or_bounded(system: System, panel: str) -> None:
    """PINGs of ours, never reading: what waits for the client is bounded, and it is closed."""
    before = rss_mib(system)
    with system.connect_raw(panel, receive_buffer_bytes=4_096) as raw:
        flood = frame(b'{"type":"PING"}') * 5_000
        give_up_s = time.monotonic() + 20
        try:
            while time.monotonic() < give_up_s:
                raw.socket.sendall(flood)
        except OSError:
            pass
        else:
            raise AssertionError("expected to be cut off, was let go on")
    assert rss_mib(system) - before < 20


def test_client_that_reads_nothing_is_closed_and_others_are_served(system: System) -> None:
    """A client in a busy panel stops reading: closed with 1013, the room unaffected."""
    big = tool("big", *[set_from_args(f"k{n}") for n in range(20)])
    room = system.make_panel(big)
    args = "x" * 40_000
    with system.connect(room) as caller, system.connect_raw(room, receive_buffer_bytes=4_096) as sleeper:
        for number in range(60):
            answer = caller.trigger("big", args + str(number))
            assert answer.heard[0]["seq"] == number + 1
        eventually(lambda: system.clients_of(room) == 1, what="the slow reader to be gone")
        sleeper.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        assert sleeper.close_code() == 1013


# -- the request itself -------------------------------------------------------------------------------------


def test_oversized_upgrade_head_is_answered_431_and_closed(system: System, panel: str) -> None:
    path = system.socket_path(panel)
    for extra in (["X-Long: " + "x" * 9_000], [f"X-{n}: y" for n in range(300)], ["X: " + "y" * 7_000] * 6):
        with RawSocket.open(system.port) as raw:
            started = time.monotonic()
            raw.send(upgrade_request(path, *extra))
            assert raw.read_to_end().startswith(b"HTTP/1.1 431 ")
            assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "request_bytes",
    [
        upgrade_request("/panels/x/ws", "Host: evil"),
        upgrade_request("/panels/x/ws", "Content-Length: 5"),
        upgrade_request("/panels/x/ws", "Transfer-Encoding: chunked"),
        b"POST /panels HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /panels HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=[
        "two hosts",
        "upgrade with a body",
        "upgrade in chunks",
        "length and chunks",
        "two lengths",
        "nonsense",
        "TLS",
    ],
)
def test_ambiguous_request_is_answered_400_and_closed(system: System, request_bytes: bytes) -> None:
    with RawSocket.open(system.port) as raw:
        raw.send(request_bytes)
        assert raw.read_to_end().startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("version", "key"),
    [("12", "dGhlIHNhbXBsZSBub25jZQ=="), ("13", "short"), ("13", "")],
    ids=["version", "key", "no key"],
)
def test_bad_handshake_is_refused(system: System, panel: str, version: str, key: str) -> None:
    head = f"GET {system.socket_path(panel)} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += (
        f"Sec-WebSocket-Version: {version}\r\n" + (f"Sec-WebSocket-Key: {key}\r\n" if key else "") + "\r\n"
    )
    with RawSocket.open(system.port) as raw:
        raw.send(head.encode())
        status = int(raw.read_head().split(b" ")[1])
        assert 400 <= status < 500


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "https://127.0.0.1:{port}",
        "http://127.0.0.1:{port}.evil.example", "HTTP://127.0.0.1:{port}", "http://127.0.0.1:{port}/",
        "http://evil@127.0.0.1:{port}",
    ],
)  # fmt: skip
def test_page_of_another_origin_is_refused(system: System, panel: str, origin: str) -> None:
    shown = origin.format(port=system.port)
    status, error = refused_status(lambda: system.connect(panel, origin=shown))
    assert (status, error["code"]) == (403, "FORBIDDEN")


def test_page_of_the_gateways_own_origin_is_let_in(system: System, panel: str) -> None:
    with system.connect(panel, origin=f"http://127.0.0.1:{system.port}") as client:
        assert client.is_open


@pytest.mark.parametrize(
    "path",
    [
        "/ws", "/panels/ws", "/panels//ws", "/panels/{panel}/ws/", "/panels/{panel}/WS", "/panels/{panel}",
        "/panels/{panel}/ws%00",
        "/panels/%2e%2e/ws", "/panels/" + "x" * 500 + "/ws", "/panels/%ff%fe/ws", "//panels/{panel}/ws",
    ],
)  # fmt: skip
def test_upgrade_at_another_path_is_404(system: System, panel: str, path: str) -> None:
    with RawSocket.open(system.port) as raw:
        raw.send(upgrade_request(path.format(panel=panel) + f"?token={system.token()}"))
        assert raw.read_head().startswith(b"HTTP/1.1 404 ")


# -- limits that are set low so that they are reached soon --------------------------------------------------


def test_half_open_requests_are_closed_in_time_however_they_drip(make_system: MakeSystem) -> None:
    system = make_system(processes=0, gateway=["--header-timeout-s", "0.5", "--body-timeout-s", "0.5"])
    begun = [
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nX: y\r\n",
        b"POST /panels HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
    ]
    sockets = [RawSocket.open(system.port) for _ in range(80)]
    started = time.monotonic()
    for number, raw in enumerate(sockets):
        raw.send(begun[number % 4])
    while time.monotonic() - started < 1.0:
        for raw in sockets[1:40]:
            raw.send(b"x")  # a byte now and then gains no time
        time.sleep(0.1)  # a slow client is what is tested
    for raw in sockets:
        raw.read_to_end()
        raw.socket.close()
    assert time.monotonic() - started < 10
    assert system.health() == 200 or system.health() == 503


def test_sockets_above_the_maximum_are_refused_and_those_there_live(make_system: MakeSystem) -> None:
    system = make_system(processes=0, auth=False, gateway=["--max-connections", "20"])
    panel = system.make_panel()
    system.close_http()
    clients = [system.connect(panel) for _ in range(19)]
    spare = RawSocket.open(system.port)
    with RawSocket.open(system.port) as raw:
        assert raw.read_to_end().startswith(b"HTTP/1.1 503 ")
    assert all(client.is_open for client in clients)
    spare.socket.close()
    clients[0].close()
    eventually(lambda: system.health() is not None, what="room for one more")
    for client in clients:
        client.close()


def test_connections_of_one_subject_are_bounded(make_system: MakeSystem) -> None:
    system = make_system(processes=0, gateway=["--max-connections-per-subject", "3"])
    panel = system.make_panel()
    clients = [system.connect(panel, token=system.token(subject="ada")) for _ in range(3)]
    status, error = refused_status(lambda: system.connect(panel, token=system.token(subject="ada")))
    assert (status, error["code"]) == (503, "OVERLOADED")
    with system.connect(panel, token=system.token(subject="bob")) as other:
        assert other.is_open
    clients.pop().close()

    def again() -> bool:
        try:
            clients.append(system.connect(panel, token=system.token(subject="ada")))
        except Exception:
            return False
        return True

    eventually(again)
    for client in clients:
        client.close()
