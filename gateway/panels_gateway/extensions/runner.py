"""From a call to its answer: look up, validate, intercept, run within its time, encode within its bound.

What handlers get to read never names a class, a file or an address of this machine; that goes to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from panels_gateway.extensions.errors import (
    MAX_MESSAGE_CHARS,
    CallError,
    CallFailedError,
    ErrorCode,
    ExtensionError,
)
from panels_gateway.extensions.extension import Arguments, CallContext, Interceptor
from panels_gateway.extensions.messages import Call, Returned
from panels_gateway.extensions.registry import Method, Registry
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

logger = logging.getLogger("panels.extensions")


def _fields(call: Call) -> dict[str, object]:
    """Whose call it is, for the log."""
    return {"panel": call.panel, "tool": call.tool, "suspension": call.suspension}


def _told(error: CallError) -> CallError:
    """``error`` as the gateway takes it, whatever a subclass has made of its message."""
    message = error.message[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()
    return CallError(error.code, message)


class Runner:
    """Makes calls of the extensions in ``registry``. ``result_bytes`` bounds a result as JSON."""

    def __init__(
        self, registry: Registry, *, interceptors: Sequence[Interceptor] = (), result_bytes: int
    ) -> None:
        self._registry = registry
        self._interceptors = tuple(interceptors)
        self._result_bytes = result_bytes

    async def run(self, call: Call) -> Returned:
        """The answer to ``call``. Only cancellation is raised."""
        context = CallContext(
            extension=call.extension,
            method=call.method,
            panel=call.panel,
            tool=call.tool,
            principal=call.principal,
            suspension=call.suspension,
            idempotency_key=call.idempotency_key,
            traceparent=call.traceparent,
        )
        try:
            result = await self._result(call, context)
        except ExtensionError as exc:
            return Returned(call.id, error=_told(exc.error), ledger=context.ledger)
        except (Exception, asyncio.CancelledError) as exc:
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise  # the call was cancelled, and not something that the method waited for
            logger.exception("%s.%s failed", call.extension, call.method, extra=_fields(call))
            error = CallError(ErrorCode.FAILED, f"{call.extension}.{call.method} failed")
            return Returned(call.id, error=error, ledger=context.ledger)
        return Returned(call.id, result=result, ledger=context.ledger)

    async def _result(self, call: Call, context: CallContext) -> bytes:
        method = self._registry.find(call.extension, call.method)
        arguments = method.parameters.bind(call.arguments)
        limit = asyncio.timeout(method.options.timeout_s)
        try:
            async with limit:
                value = await self._intercepted(0, method, context, arguments)
        except TimeoutError:
            if not limit.expired():  # the method's own, which is a failure like any other
                raise
            raise CallFailedError(
                ErrorCode.TIMEOUT,
                f"{call.extension}.{call.method} took longer than {method.options.timeout_s:g} s",
            ) from None
        return self._encode(call, value)

    async def _intercepted(
        self, index: int, method: Method, context: CallContext, arguments: Arguments
    ) -> Any:
        if index == len(self._interceptors):
            return await method.function(context, **arguments)
        call_next = partial(self._intercepted, index + 1, method, context, arguments)
        return await self._interceptors[index](context, arguments, call_next)

    def _encode(self, call: Call, value: Any) -> bytes:
        where = f"{call.extension}.{call.method}"
        try:
            text = msgspec.json.encode(value)
            if len(text) <= self._result_bytes:
                jsonvalue.validate(text)
                return text
        except InvalidJsonError as exc:
            raise CallFailedError(ErrorCode.RESULT, f"the result of {where}: {exc.problem}") from None
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
            logger.warning("%s returned what is not JSON: %s", where, exc, extra=_fields(call))
            raise CallFailedError(ErrorCode.RESULT, f"{where} returned a value that is not JSON") from None
        raise CallFailedError(
            ErrorCode.LIMIT,
            f"expected a result of {where} of at most {self._result_bytes} bytes, got {len(text)}",
        )
