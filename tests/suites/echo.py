"""An application that sends every message back, on the gateway's own WebSocket protocol.

``serving`` runs it in a process of its own: the same class, limits and server as the gateway's, with a
connection behind the socket that echoes instead of triggering.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast

import uvicorn

from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.outbox import Outbox, OutboxLimits
from panels_gateway.clients.connection import Connection
from panels_gateway.clients.websocket import EXTENSION, PanelsWebSocketProtocol
from panels_gateway.observe.counters import ClientCounters
from panels_shared.limits import MIB
from tests.support.system import eventually

#: The suites' largest message; the gateway's own option stops there too.
MAX_MESSAGE_BYTES = 16 * MIB


class EchoProtocol(PanelsWebSocketProtocol):
    """Sends binary messages back, too, which a client of a panel may not send."""

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" or self.close_sent:
            super().send_receive_event_to_app()
            return
        data = b"".join(self.frames)
        self.frames = []
        self.conn.send_binary(data)
        self.transport.write(b"".join(self.conn.data_to_send()))


class Echo:
    """Stands where a panel's connection stands."""

    def __init__(self, protocol: PanelsWebSocketProtocol) -> None:
        self._protocol = protocol

    def receive_text(self, text: str) -> None:
        """Sends the message back as the hub's bytes go out."""
        frame = text_frame(text.encode())
        self._protocol.deliver(frame, [frame])

    def lost(self) -> None:
        """The client is gone."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Upgrades everybody."""
    if scope["type"] != "websocket":
        raise RuntimeError(f"expected a WebSocket, got {scope['type']}")
    await receive()
    await send({"type": "websocket.accept"})
    protocol: PanelsWebSocketProtocol = scope["extensions"][EXTENSION]
    limits = OutboxLimits(soft_bytes=64 * MIB, hard_bytes=128 * MIB)
    protocol.attach(cast("Connection", Echo(protocol)), Outbox(limits), ClientCounters())
    while (await receive())["type"] != "websocket.disconnect":
        pass


def main() -> None:
    """Serves on a free port of this machine and prints it."""
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=0,
        lifespan="off",
        ws=EchoProtocol,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        log_level="error",
    )
    with config.bind_socket() as listener:
        listener.listen()  # whoever reads the port may connect at once
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """The port of an application that runs while the context lasts."""
    command = [sys.executable, "-m", "tests.suites.echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(eventually(server.stdout.readline, what="the port of the echo application"))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
