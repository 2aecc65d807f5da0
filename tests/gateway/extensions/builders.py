"""Calls, and how they end."""

from __future__ import annotations

import msgspec

from panels_gateway.extensions.extension import CallContext
from panels_gateway.extensions.messages import Call, CallId, MethodInfo, Returned

OTHER_METHODS = MethodInfo("mail", "send", 10.0, 1, False)
METHODS = [MethodInfo("http", "get", 5.0, 0, True), OTHER_METHODS]


def a_call(call_id: str = "c1", arguments: bytes = b"[]", **fields: str) -> Call:
    call = Call(
        id=CallId(call_id),
        extension="http",
        method="get",
        arguments=arguments,
        panel="p1",
        tool="t1",
        principal="ann",
        suspension="s1",
        idempotency_key="k1",
    )
    return msgspec.structs.replace(call, **fields)


def a_return(call_id: str = "c1") -> Returned:
    return Returned(CallId(call_id), result=b"1")


def a_context(panel: str = "p1") -> CallContext:
    return CallContext(
        extension="http",
        method="get",
        panel=panel,
        tool="t1",
        principal="ann",
        suspension="s1",
        idempotency_key="k1",
    )
