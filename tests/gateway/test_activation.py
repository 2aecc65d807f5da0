"""Sockets that are handed over, and what is refused of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from panels_gateway.activation import inherited_listener
from panels_shared.errors import ConfigError

PID = 4321


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def handed(descriptor: int, **environ: str) -> tuple[socket.socket | None, dict[str, str]]:
    """What comes of a copy of ``descriptor``, as another process would have it."""
    environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(PID), "LISTEN_FDNAMES": "x", "HOME": "/", **environ}
    copy = os.dup(descriptor)
    try:
        found = inherited_listener(environment, pid=PID, first_fd=copy)
    except ConfigError:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)
        raise
    if found is None:
        os.close(copy)
    return found, environment


def test_activation_takes_a_socket_and_hides_it_from_children(listener: socket.socket) -> None:
    os.set_inheritable(listener.fileno(), True)
    found, environment = handed(listener.fileno())
    assert found is not None
    with found:
        assert found.getsockname() == listener.getsockname()
        assert not found.get_inheritable()
        assert environment == {"HOME": "/"}


@pytest.mark.parametrize("environ", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}])
def test_activation_ignores_what_was_meant_for_another_process(
    listener: socket.socket, environ: dict[str, str]
) -> None:
    assert handed(listener.fileno(), **environ) == (None, {"HOME": "/"})


@pytest.mark.parametrize("count", ["0", "2", "-1", "one", "9" * 1000])
def test_activation_refuses_any_other_number_of_sockets(count: str) -> None:
    environment = {"LISTEN_FDS": count, "LISTEN_PID": str(PID)}
    with pytest.raises(ConfigError, match="expected one socket to listen on, got"):
        inherited_listener(environment, pid=PID)


def test_activation_refuses_what_is_no_tcp_socket_that_listens() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(ConfigError, match="got AF_UNIX SOCK_STREAM"):
        handed(one.fileno())
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, pytest.raises(ConfigError, match="SOCK_DGRAM"):
        handed(datagrams.fileno())
    with socket.socket() as idle, pytest.raises(ConfigError, match="expected a socket that listens"):
        handed(idle.fileno())


def test_activation_refuses_a_descriptor_that_is_no_socket() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(ConfigError, match="expected a socket as descriptor"):
            inherited_listener({"LISTEN_FDS": "1", "LISTEN_PID": str(PID)}, pid=PID, first_fd=reading)
    finally:
        os.close(reading)
        os.close(writing)
