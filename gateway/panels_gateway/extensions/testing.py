"""A test kit for authors of extensions: calls a method as a handler would, without a
gateway and its processes.

    async with ExtensionHarness(Weather(), settings={"unit": "kelvin"}) as weather:
        assert await weather.call("today", "Oslo") == {"degrees": 280}

Arguments go through JSON and are validated, results are encoded and bounded, time-outs and interceptors
apply, all by the code that does it in production.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from panels_gateway.extensions.config import HttpConfig
from panels_gateway.extensions.errors import CallFailedError
from panels_gateway.extensions.extension import Environment, Extension, Interceptor
from panels_gateway.extensions.http.egress import Egress
from panels_gateway.extensions.http.network import Resolver
from panels_gateway.extensions.messages import Call, CallId, LedgerEntry, Returned
from panels_gateway.extensions.registry import Registry
from panels_gateway.extensions.runner import Runner
from panels_shared import jsonvalue


class ExtensionHarness:
    """One extension, started for the time of an ``async with`` block.

    ``http`` is the configuration of its egress; without it nothing is reachable. ``resolver`` replaces the
    system's. ``ledger`` is that of the latest call.
    """

    def __init__(
        self,
        extension: Extension,
        *,
        settings: Mapping[str, Any] | None = None,
        http: HttpConfig | None = None,
        resolver: Resolver | None = None,
        interceptors: Sequence[Interceptor] = (),
        result_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self._extension = extension
        self._environment = Environment(
            settings=settings or {}, egress=Egress(http or HttpConfig(), resolver=resolver)
        )
        self._runner = Runner(Registry([extension]), interceptors=interceptors, result_bytes=result_bytes)
        self._ids = itertools.count(1)
        self.ledger: Sequence[LedgerEntry] = ()

    async def __aenter__(self) -> Self:
        await self._extension.startup(self._environment)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._extension.shutdown()
        egress = self._environment.egress
        assert isinstance(egress, Egress)
        await egress.close()

    async def call(self, method: str, *arguments: Any, **who: str) -> Any:
        """What ``await $ext.<name>.<method>(...arguments)`` would give. Raises ``CallFailedError``.

        ``who`` sets fields of the context: panel, tool, principal, suspension, idempotency_key.
        """
        returned = await self.run(method, jsonvalue.encode(list(arguments)), **who)
        if returned.error is not None:
            raise CallFailedError(returned.error.code, returned.error.message)
        assert returned.result is not None
        return jsonvalue.decode(returned.result)

    async def run(self, method: str, arguments: bytes, **who: str) -> Returned:
        """The answer as the gateway would get it; ``arguments`` is JSON."""
        number = next(self._ids)
        call = Call(
            id=CallId(f"call-{number}"),
            extension=self._extension.name,
            method=method,
            arguments=arguments,
            panel="panel",
            tool="tool",
            principal="principal",
            suspension=f"suspension-{number}",
            idempotency_key=f"key-{number}",
        )
        returned = await self._runner.run(msgspec.structs.replace(call, **who))
        self.ledger = returned.ledger
        return returned
