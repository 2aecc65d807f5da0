"""The extension process: reads calls from the socket, runs each as a task, writes answers.

Processes: one, with one event loop; look-ups of names run in threads. Heartbeat: every Ping is answered from
that loop. Time-outs: each call has its method's (``runner``). Shutdown: when the gateway closes the socket,
or SIGTERM comes, calls are cancelled, extensions shut down in the reverse of their order within
``startup_s``, and the process ends. It ends with the gateway in any case, by PR_SET_PDEATHSIG. Once its
extensions have started, and before the first call, it locks itself in (``confinement``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from panels_gateway.extensions import framing
from panels_gateway.extensions.config import ExtensionsConfig
from panels_gateway.extensions.confinement import Confinement
from panels_gateway.extensions.errors import (
    CallError,
    ErrorCode,
    ExtensionConfigError,
    FrameError,
)
from panels_gateway.extensions.extension import Environment, Extension
from panels_gateway.extensions.http.egress import Egress
from panels_gateway.extensions.http.extension import Http
from panels_gateway.extensions.http.secrets import ScrubbingEncoder
from panels_gateway.extensions.messages import (
    Call,
    CallId,
    Cancel,
    FromExtensions,
    Ping,
    Pong,
    Ready,
    Returned,
    ToExtensions,
)
from panels_gateway.extensions.registry import Registry, discover, interceptors_of
from panels_gateway.extensions.runner import Runner

logger = logging.getLogger("panels.extensions")

#: Bytes read from the socket at once.
READ_BYTES: Final = 256 * 1024
#: What the gateway takes apart again.


class Server:
    """Runs calls for one gateway. ``writer`` is bounded by the gateway's limit on calls in the process."""

    def __init__(self, runner: Runner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._runner = runner
        self._reader = reader
        self._writer = writer
        self._tasks: dict[CallId, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until the gateway closes the socket. Raises ``FrameError``. Cancels what runs at its end."""
        decoder = framing.to_extensions()
        try:
            while data := await self._reader.read(READ_BYTES):
                for message in decoder.feed(data):
                    self._receive(message)
        except ConnectionError:
            pass
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def send(self, message: FromExtensions) -> None:
        """Sends, without waiting."""
        self._writer.write(framing.encode(message))

    def _receive(self, message: ToExtensions) -> None:
        match message:
            case Call():
                if message.id not in self._tasks:
                    self._tasks[message.id] = asyncio.create_task(self._run(message))
            case Cancel(id=call_id):
                if task := self._tasks.get(call_id):
                    task.cancel()
            case Ping():
                self.send(Pong())

    async def _run(self, call: Call) -> None:
        try:
            returned = await self._runner.run(call)
            try:
                self.send(returned)
            except FrameError:
                error = CallError(ErrorCode.LIMIT, "the result is too large")
                self.send(Returned(call.id, error=error))
        finally:
            del self._tasks[call.id]


async def startup(extensions: Sequence[Extension], config: ExtensionsConfig, egress: Egress) -> None:
    """Starts all, in order.

    Raises ``ExtensionConfigError`` with the first that fails, after it has shut down the rest.
    """
    started: list[Extension] = []
    try:
        async with asyncio.timeout(config.startup_s):
            for extension in extensions:
                settings = config.settings.get(extension.name, {})
                await extension.startup(Environment(settings=settings, egress=egress))
                started.append(extension)
    except Exception as exc:
        name = extensions[len(started)].name
        await shutdown(started, timeout_s=config.startup_s)
        raise ExtensionConfigError(f"{name}: cannot start: {type(exc).__name__}: {exc}") from exc


async def shutdown(extensions: Sequence[Extension], *, timeout_s: float) -> None:
    """Shuts all down, the last first; what fails is logged, and what is not done in time is left."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for extension in reversed(extensions):
                try:
                    await extension.shutdown()
                except Exception:
                    logger.exception("%s: cannot shut down", extension.name)


async def _start_confined(
    extensions: Sequence[Extension], config: ExtensionsConfig, egress: Egress
) -> Confinement:
    """Starts the extensions, which may open what they need, and then locks the process in."""
    loop = asyncio.get_running_loop()
    # Landlock does not bind threads that there are already: those of the start end before it
    with ThreadPoolExecutor(thread_name_prefix="startup") as threads:
        loop.set_default_executor(threads)
        await startup(extensions, config, egress)
    loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="extensions"))
    confinement = Confinement(config)
    try:
        confinement.apply()
    except ExtensionConfigError:
        await shutdown(extensions, timeout_s=config.startup_s)
        raise
    return confinement


async def run(config: ExtensionsConfig, sock: socket.socket) -> None:
    """The life of the process. Raises ``ExtensionConfigError`` before it is ready, ``FrameError`` after."""
    egress = Egress(config.http)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(ScrubbingEncoder(egress.scrubber))
    extensions = [Http(), *discover(config)]
    registry = Registry(extensions)
    unknown = config.settings.keys() - {extension.name for extension in extensions}
    if unknown:
        raise ExtensionConfigError(f"settings: there is no extension {min(unknown)!r}")
    runner = Runner(registry, interceptors=interceptors_of(config), result_bytes=config.result_bytes)
    confinement = await _start_confined(extensions, config, egress)
    reader, writer = await asyncio.open_connection(sock=sock)
    server = Server(runner, reader, writer)
    server.send(Ready(registry.infos(), confinement.summary()[:1_024]))
    serving = asyncio.create_task(server.serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        with suppress(asyncio.CancelledError):
            await serving
    finally:
        await shutdown(extensions, timeout_s=config.startup_s)
        await egress.close()
        writer.close()
