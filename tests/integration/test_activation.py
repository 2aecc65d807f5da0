"""A gateway that is restarted behind a socket that somebody else keeps open, as systemd does."""

from __future__ import annotations

import socket
import threading
from collections import Counter

import httpx

from tests.integration.guests import counter
from tests.support.system import System


def test_restarting_behind_an_inherited_socket_refuses_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listener, System() as system:
        system.port = 1  # which it could not listen on: it takes what it is handed
        system.start_gateway_behind(listener)
        system.start_pool()
        system.await_listening()
        assert system.port == listener.getsockname()[1]
        system.await_ready()
        panel = system.make_panel(counter(), state={"count": 0})
        outcomes: Counter[str] = Counter()
        done = threading.Event()
        counting = threading.Lock()

        def come_and_go() -> None:
            while not done.is_set():
                try:
                    httpx.get(f"{system.url}/health", timeout=60, trust_env=False)
                    outcome = "answered"
                except httpx.ConnectError:
                    outcome = "refused"
                except httpx.TransportError:  # accepted, and closed before its request had come
                    outcome = "closed"
                with counting:
                    outcomes[outcome] += 1

        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                assert system.the_gateway().stop() == 0
                # nobody listens now but whoever keeps the socket: this client waits for the next gateway
                with socket.create_connection(("127.0.0.1", system.port)) as waiting:
                    system.start_gateway_behind(listener)
                    system.await_listening()
                    waiting.sendall(b"GET /panels HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    assert waiting.recv(12) == b"HTTP/1.1 401"
        finally:
            done.set()
            for thread in threads:
                thread.join()
        system.await_ready()
        assert outcomes["refused"] == 0
        assert outcomes["answered"] > 0
        with system.connect(panel) as client:
            assert client.call("count") == 1
        assert not system.defects()
