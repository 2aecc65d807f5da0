"""Endpoints and key files, as both programs read them."""

from __future__ import annotations

import msgspec
import pytest
import zmq

from panels_shared.endpoint import (
    MAX_IPC_PATH_BYTES,
    CurveKeys,
    is_tcp,
    listens_everywhere,
    parse_endpoint,
    parse_keys,
    parse_one_key,
)
from panels_shared.errors import ConfigError


def endpoint(text: str, directory: str | None = None) -> str:
    return parse_endpoint(text, option="gateway", directory=directory)


@pytest.mark.parametrize(
    "text", ["ipc:///run/panels/w.sock", "tcp://10.0.0.5:5000", "tcp://gateway:1", "tcp://[fe80::1]:65535"]
)
def test_endpoint_is_taken_as_it_is(text: str) -> None:
    assert endpoint(text) == text
    assert is_tcp(text) == text.startswith("tcp")


def test_endpoint_takes_port_0_only_to_bind() -> None:
    assert parse_endpoint("tcp://127.0.0.1:0", option="o", any_port=True) == "tcp://127.0.0.1:0"
    with pytest.raises(ConfigError):
        endpoint("tcp://127.0.0.1:0")


def test_endpoint_takes_a_relative_path_only_with_a_directory() -> None:
    assert endpoint("ipc://w.sock", "/run/panels") == "ipc:///run/panels/w.sock"
    with pytest.raises(ConfigError, match="gateway: expected an absolute path"):
        endpoint("ipc://w.sock")


@pytest.mark.parametrize(
    "text",
    ["", "ipc://", "ipc:///a\0b", "inproc://x", "http://x:1", "tcp://x", "tcp://x:0", "tcp://x:65536",
    "tcp://*:5",
     "tcp://a b:1", "tcp://x:1/", "ipc:///" + "x" * 107],
)  # fmt: skip
def test_endpoint_refuses_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="gateway: expected") as caught:
        endpoint(text)
    assert len(str(caught.value)) < 300


def test_longest_path_can_be_bound(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = str(tmp_path_factory.mktemp("s"))
    path = directory + "/" + "x" * (MAX_IPC_PATH_BYTES - len(directory) - 1)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint(f"ipc://{path}"))
        with pytest.raises(zmq.ZMQError):
            socket.bind(f"ipc://{path}x")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::0]"])
def test_every_interface_is_told_from_one(host: str) -> None:
    assert listens_everywhere(f"tcp://{host}:5000")
    assert not listens_everywhere("tcp://127.0.0.1:5000")
    assert not listens_everywhere("ipc:///run/w.sock")


def test_keys_are_read_one_a_line_beside_comments() -> None:
    first, second = zmq.curve_keypair()[0], zmq.curve_keypair()[0]
    content = b"# ann\r\n" + first + b"\r\n\n  " + second + b"\n"
    assert parse_keys(content, option="o", path="f") == [first, second]
    assert parse_keys(b"# none\n", option="o", path="f") == []
    assert parse_one_key(first + b"\n", option="o", path="f") == first


@pytest.mark.parametrize("content", [b"x" * 39, b"x" * 41, b"~" * 40, b"\xff" * 40, b"#" + b"x" * 40])
def test_key_that_is_none_is_refused_and_not_quoted(content: bytes) -> None:
    with pytest.raises(ConfigError, match="key-file: expected 40 characters of Z85 as key 1 of /f") as caught:
        parse_keys(content, option="key-file", path="/f")
    assert content.decode("latin-1") not in str(caught.value)


@pytest.mark.parametrize("count", [0, 2])
def test_one_key_is_one(count: int) -> None:
    with pytest.raises(ConfigError, match=f"expected one key in /f, got {count}"):
        parse_one_key((b"x" * 40 + b"\n") * count, option="o", path="/f")


def test_curve_keys_travel_and_never_show_the_secret() -> None:
    keys = CurveKeys(b"p" * 40, b"s" * 40, frozenset([b"g" * 40]))
    assert "s" * 40 not in repr(keys)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(keys), type=CurveKeys) == keys
