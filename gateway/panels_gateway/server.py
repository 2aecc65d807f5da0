"""uvicorn, set up for the gateway: our protocols, no logs of its own, and an ordered shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Final

import uvicorn

from panels_gateway.access.addresses import Addresses
from panels_gateway.clients.websocket import PanelsWebSocketProtocol, SocketLimits
from panels_gateway.http.protocol import HardenedHttpProtocol, HttpLimits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from panels_gateway.configuration.config import ListenConfig
    from panels_gateway.kernel.kernel import Kernel

_log = logging.getLogger("panels.gateway.server")

KEEP_ALIVE_S: Final = 5
#: Sockets that the kernel may hold until they are accepted.
BACKLOG: Final = 2_048
#: Sockets that administrators may have open in all.
ADMIN_CONNECTIONS: Final = 64
#: How long the last steps may take once the grace is used up, in seconds.
LAST_STEPS_S: Final = 5
#: How long the answers to triggers that are given up may take to leave, in seconds.
GIVE_UP_S: Final = 1.0


def server_config(
    app: ASGIApp, listen: ListenConfig, on_refused: Callable[[str], None] = lambda reason: None
) -> uvicorn.Config:
    """What uvicorn is told. ``on_refused`` hears what sockets are refused and cut for."""
    limits = HttpLimits(
        header_timeout_s=listen.header_timeout_s,
        body_timeout_s=listen.body_timeout_s,
        max_connections=listen.max_connections,
        max_connections_per_address=listen.max_connections_per_address,
    )
    return uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        http=HardenedHttpProtocol.with_limits(limits, Addresses(listen.trusted_proxies), on_refused),
        ws=PanelsWebSocketProtocol.with_limits(
            SocketLimits(handshake_s=listen.header_timeout_s, message_s=listen.body_timeout_s), on_refused
        ),
        ws_max_size=listen.max_frame_bytes,
        ws_ping_interval=listen.ping_interval_s,
        ws_ping_timeout=listen.ping_timeout_s,
        # a client's compressed message could be a bomb, and every frame sent would cost CPU per client
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn believes its own list of proxies; ours is ``Addresses``
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_STEPS_S,
    )


def admin_config(app: ASGIApp, listen: ListenConfig) -> uvicorn.Config:
    """What uvicorn is told for the port of administrators."""
    limits = HttpLimits(
        header_timeout_s=listen.header_timeout_s,
        body_timeout_s=listen.body_timeout_s,
        max_connections=ADMIN_CONNECTIONS,
    )
    return uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        http=HardenedHttpProtocol.with_limits(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_STEPS_S,
    )


class AdminServer(uvicorn.Server):
    """Serves administrators until it is told to stop, which is after everybody else."""

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncGenerator[None, None]:
        """It serves at ``listener`` for as long as the context lasts."""
        task = asyncio.create_task(self.serve(sockets=[listener]))
        try:
            yield
        finally:
            self.should_exit = True
            await task

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are ``__main__``'s."""
        yield


class GatewayServer(uvicorn.Server):
    """uvicorn's server that drains the kernel before it closes sockets, and exits 0 when told to stop."""

    def __init__(
        self,
        config: uvicorn.Config,
        kernel: Kernel,
        *,
        grace_s: float,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._kernel = kernel
        self._grace_s = grace_s

    def stop(self) -> None:
        """Asks the server to stop; asked a second time, it hurries.

        Called from a signal, so it only sets flags.
        """
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts sockets from here on."""
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, answers what nobody will run, drains, closes WebSockets with 1012 and waits for
        HTTP answers; in all at most the grace and ``LAST_STEPS_S``.
        """
        for server in self.servers:
            server.close()
        _log.info("stopping: triggers that run are given %g s", self._grace_s)
        self._kernel.close()
        if not await self._drain(self._grace_s):
            _log.warning("stopping: some triggers did not end in time, and are answered UNAVAILABLE")
            self._kernel.give_up(everything=True)
            await self._drain(GIVE_UP_S)
        await super().shutdown(sockets)

    async def _drain(self, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + seconds
        await asyncio.sleep(0)  # what was answered just now leaves at the end of this turn
        while self._kernel.unanswered:
            if (self.force_exit and seconds > GIVE_UP_S) or loop.time() >= give_up_s:
                return False
            self._kernel.give_up(everything=False)
            await asyncio.sleep(0.02)
        return True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are ``__main__``'s: uvicorn would raise them again at the end, and never exit with 0."""
        yield
