"""What the HTTP API answers: JSON, and one form for everything that is not success."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from panels_gateway.kernel.images import LARGE_BYTES, Image, Images
from panels_shared.errors import CODES, Code, RequestError
from panels_shared.names import is_name

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

#: The extension of an ASGI scope that cuts the connection off.
ABORT: Final = "panels.abort"

encode = msgspec.json.Encoder().encode


def json_answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``body`` as JSON."""
    return Response(encode(body), status_code=status, headers=headers, media_type="application/json")


class LargeAnswer(Response):
    """JSON that is sent as its client takes it: ``head``, the image's parts, ``tail``. Lets the image go when
    the client has it all, is gone, or was cut off because it had not taken it within ``timeout_s``.
    """

    def __init__(self, image: Image, timeout_s: float, head: bytes = b"", tail: bytes = b"") -> None:
        super().__init__(media_type="application/json")
        self._image = image
        self._timeout_s = timeout_s
        self._head = head
        self._tail = tail
        self.headers["content-length"] = str(len(head) + image.size + len(tail))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                for part in (self._head, *self._image.parts):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": self._tail})
        except TimeoutError:
            scope["extensions"][ABORT]()
        finally:
            self._image.release()


def answer_bytes(body: bytes, images: Images, payer: str, timeout_s: float) -> Response:
    """JSON of any size. Raises ``RequestError`` OVERLOADED where it is large and there is no room for it."""
    if len(body) <= LARGE_BYTES:
        return Response(body, media_type="application/json")
    return LargeAnswer(images.answer(body, payer), timeout_s)


def error_response(error: RequestError) -> Response:
    """``error`` as an answer, with Retry-After if the client may try again."""
    body: dict[str, object] = {"code": error.code.value, "message": error.message}
    headers: dict[str, str] = {}
    if error.details is not None:
        body["details"] = error.details
        retry_ms = error.details.get("retryAfterMs")
        if isinstance(retry_ms, int | float):
            headers["retry-after"] = str(max(1, math.ceil(retry_ms / 1_000)))
    if error.code is Code.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.code is Code.UPGRADE_REQUIRED:
        headers["upgrade"], headers["connection"] = "websocket", "upgrade"
    return json_answer({"error": body}, status=CODES[error.code].http_status, headers=headers)


async def answer_request_error(request: Request, error: Exception) -> Response:
    """Starlette's hook for ``RequestError``."""
    assert isinstance(error, RequestError)
    return error_response(error)


async def answer_disconnect(request: Request, error: Exception) -> Response:
    """Starlette's hook for a client that went away while it was sending. Nobody reads this answer."""
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=400)


def overloaded(problem: str) -> RequestError:
    """The answer while a bound of the whole gateway is reached."""
    return RequestError(
        Code.OVERLOADED, f"{problem}; try again later", {"retryAfterMs": 1_000, "scope": "gateway"}
    )


def not_found(panel_id: str) -> RequestError:
    """The answer for a panel that does not exist. Its text is the same for every id that cannot be one."""
    shown = repr(panel_id) if is_name(panel_id) else "of that id"
    return RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {shown}")


def demand(allowed: bool, permission: str, panel_id: str) -> None:
    """Raises ``RequestError`` FORBIDDEN unless ``allowed``."""
    if not allowed:
        raise RequestError(Code.FORBIDDEN, f"the token does not allow {permission} on panel {panel_id!r}")
