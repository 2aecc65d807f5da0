"""The reference: an ASGI application that sends a trigger's three frames and executes nothing.

It is what the same server, loop and WebSocket implementation cost without panels: raw ASGI, each frame
awaited. The HTTP routes are as many as the load test needs. Run it with::

    uvicorn benchmarks.reference.app:application --ws websockets-sansio --loop uvloop
"""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class ReferencePanel:
    """A counter, and who watches it."""

    def __init__(self, panel_id: str) -> None:
        self.id = panel_id
        self.count = 0
        self.sends: list[Any] = []


_panels: dict[str, ReferencePanel] = {}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    elif scope["type"] == "websocket":
        await _socket(scope, receive, send)
    else:
        await _http(scope, receive, send)


async def _http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope["path"].strip("/").split("/")
    answer: dict[str, Any] = {}
    status = 200
    if scope["method"] == "POST" and path == ["panels"]:
        panel_id = _decode(body)["id"]
        _panels[panel_id] = ReferencePanel(panel_id)
        status, answer = 201, {"id": panel_id, "status": "created"}
    elif len(path) == 3 and path[2] == "state":
        answer = {"count": _panels[path[1]].count}
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
    )
    await send({"type": "http.response.body", "body": _encode(answer)})


async def _socket(scope: dict[str, Any], receive: Any, send: Any) -> None:
    panel = _panels[scope["path"].split("/")[2]]
    await receive()
    await send({"type": "websocket.accept"})
    connected = {
        "type": "CONNECTED",
        "panelId": panel.id,
        "state": {"count": panel.count},
        "seq": panel.count,
    }
    await send({"type": "websocket.send", "text": _text(connected)})
    panel.sends.append(send)
    try:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            await _trigger(panel, _decode(message["text"]), send)
    finally:
        panel.sends.remove(send)


async def _trigger(panel: ReferencePanel, trigger: dict[str, Any], send: Any) -> None:
    panel.count += 1
    mutations = [{"op": "set", "key": "count", "value": panel.count}]
    event = {"name": "incremented", "payload": panel.count, "timestamp": 1_700_000_000_000}
    seq = panel.count
    patch = _text({"type": "PATCH", "mutations": mutations, "seq": seq})
    emitted = _text({"type": "EVENT", "event": event, "seq": seq})
    result = _text(
        {
            "type": "RESULT",
            "requestId": trigger["requestId"],
            "result": {
                "status": "success",
                "returnValue": panel.count,
                "stateMutations": mutations,
                "events": [event],
                "viewCommands": [],
                "metrics": {
                    "executionTimeUs": 0,
                    "memoryUsedBytes": 0,
                    "memoryPeakBytes": 0,
                    "hostCalls": 0,
                    "cacheHit": True,
                    "fuelConsumed": 0,
                    "queueUs": 0,
                    "totalUs": 0,
                },
            },
            "seq": seq,
        }
    )
    for each in panel.sends:
        await each({"type": "websocket.send", "text": patch})
        await each({"type": "websocket.send", "text": emitted})
    await send({"type": "websocket.send", "text": result})


def _text(message: dict[str, Any]) -> str:
    return _encode(message).decode()
