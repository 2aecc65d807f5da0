"""What the HTTP API answers: JSON, and one form for everything that is not success."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from panels_shared.errors import CODES, Code, RequestError
from panels_shared.names import is_name

encode = msgspec.json.Encoder().encode


def json_answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``body`` as JSON."""
    return Response(encode(body), status_code=status, headers=headers, media_type="application/json")


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
