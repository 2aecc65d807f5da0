"""What a pool can see of the gateway's end of its endpoint."""

from __future__ import annotations

import os
import socket as sockets
import tempfile
from pathlib import Path

import pytest

from panels_worker.bus.link import look_at


def test_look_at_an_endpoint_says_what_stands_in_the_way() -> None:
    with tempfile.TemporaryDirectory(prefix="panels-") as folder:
        path = f"{folder}/s"
        assert look_at(f"ipc://{path}").startswith(f"there is no socket {path}; start the gateway")
        with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen()
            assert look_at(f"ipc://{path}").startswith(f"somebody serves the socket {path}")
        assert look_at(f"ipc://{path}").startswith(f"nobody serves the socket {path}")
        assert look_at(f"ipc://{path}/s").startswith(f"the socket {path}/s cannot be opened: ")
    assert "firewall" in look_at("tcp://127.0.0.1:1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_look_at_a_socket_of_somebody_else_says_whose_user_to_take() -> None:
    with tempfile.TemporaryDirectory(prefix="panels-") as folder:
        Path(folder).chmod(0)
        assert "this user may not open" in look_at(f"ipc://{folder}/s")
        Path(folder).chmod(0o700)
