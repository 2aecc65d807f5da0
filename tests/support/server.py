"""The gateway's server on a loopback port, in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from panels_gateway.access.keys import load_keyring
from panels_gateway.access.tokens import TokenRules, TokenVerifier
from panels_gateway.app import create_app
from panels_gateway.configuration.config import load
from panels_gateway.observe.counters import BrokerCounters
from panels_gateway.server import GatewayServer, server_config
from tests.support.gateway import Gateway


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for something that only a look can tell."""
    for _ in range(int(seconds * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(f"waited {seconds:g} s in vain")


@contextlib.asynccontextmanager
async def serving(
    gateway: Gateway, *flags: str, secret_file: Path | None = None
) -> AsyncIterator[tuple[int, GatewayServer]]:
    """The server on a free port, with authentication when there is a secret; stopped at the end."""
    auth = ["--no-auth"] if secret_file is None else ["--jwt-secret-file", str(secret_file)]
    config = load([*auth, *flags], {}, directory=Path("/nowhere"))
    verifier = None
    if secret_file is not None:
        verifier = TokenVerifier(load_keyring(secret_file, None, ()), TokenRules(), clock=time.time)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        app = create_app(gateway.kernel, config, verifier, bus=BrokerCounters(), port=port)
        server = GatewayServer(
            server_config(app, config.listen, app.refusals.count),
            gateway.kernel,
            grace_s=config.listen.shutdown_grace_s,
        )
        running = asyncio.create_task(server.serve(sockets=[listener]))
        # connections wait in the backlog until the server takes them: nothing to wait for here
        try:
            yield port, server
        finally:
            server.stop()
            server.stop()
            await running
