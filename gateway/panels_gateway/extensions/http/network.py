"""The sockets of one exchange: they go to addresses that were checked, and count what passes.

httpcore is given a backend that ignores the name it is asked to connect to, because asking the resolver a
second time could be answered with another address than the one that was checked (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import httpcore

from panels_gateway.extensions.errors import CallFailedError, ErrorCode
from panels_gateway.extensions.http.addresses import Address

#: Look-ups at once. They cannot be cancelled, so that a dead name server holds these threads and no more.
RESOLVER_THREADS: Final = 16


class Resolver(Protocol):
    """Turns a name into addresses."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """All addresses, in the order to try them. Raises ``OSError``."""
        ...


class SystemResolver:
    """The C library's, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolver")

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """As getaddrinfo says. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        infos = await loop.run_in_executor(self._threads, _getaddrinfo, host, port)
        return [str(info[4][0]) for info in infos]

    def close(self) -> None:
        """Waits for no look-up."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _getaddrinfo(host: str, port: int) -> Sequence[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@dataclass(slots=True)
class Traffic:
    """What passed in one exchange, in bytes of HTTP without TLS. ``maximum_received`` is a security limit."""

    maximum_received: int
    address: str = ""
    sent: int = 0
    received: int = 0

    def receive(self, data: bytes) -> bytes:
        """Counts.

        Raises ``CallFailedError`` above the maximum, which also ends endless headers, trailers and 1xx.
        """
        self.received += len(data)
        if self.received > self.maximum_received:
            raise CallFailedError(
                ErrorCode.LIMIT,
                f"expected an answer of at most {self.maximum_received} bytes on the wire, got more",
            )
        return data


class CountingStream(httpcore.AsyncNetworkStream):
    """A connection that counts into ``traffic``."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        """Up to ``max_bytes``. Raises ``CallFailedError`` above the limit."""
        return self._traffic.receive(await self._inner.read(max_bytes, timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        """All of ``buffer``."""
        await self._inner.write(buffer, timeout)
        self._traffic.sent += len(buffer)

    async def aclose(self) -> None:
        """Closes the connection."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
    ) -> httpcore.AsyncNetworkStream:
        """The same connection under TLS, counted inside it."""
        return CountingStream(
            await self._inner.start_tls(ssl_context, server_hostname, timeout), self._traffic
        )

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a connection."""
        return self._inner.get_extra_info(info)


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to ``addresses``, the first that answers, whatever host it is told."""

    def __init__(self, addresses: Sequence[Address], traffic: Traffic) -> None:
        self._addresses = tuple(addresses)
        self._traffic = traffic
        # httpcore defines the class twice, once for installations without anyio
        self._inner = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to an address that was checked. Raises ``httpcore.ConnectError`` when none answers."""
        for address in self._addresses:
            self._traffic.address = str(address)
            try:
                stream = await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            return CountingStream(stream, self._traffic)
        raise httpcore.ConnectError("no address answers")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: there is no URL for it."""
        raise httpcore.UnsupportedProtocol("unix sockets are not reachable")

    async def sleep(self, seconds: float) -> None:
        """For httpcore's retries, of which there are none."""
        await asyncio.sleep(seconds)
