"""What the log says of requests that are refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from panels_gateway.observe.rate_limited import LINES
from panels_gateway.observe.refusals import _MAX_ORIGIN_CHARS, _MAX_PATH_CHARS, RefusalLog
from panels_shared.errors import Code, RequestError

DENIED = RequestError(Code.FORBIDDEN, "expected something else")


def scope(path: str = "/panels/p/ws", *, origin: bytes | None = None, **more: Any) -> dict[str, Any]:
    return {"path": path, "headers": [(b"origin", origin)] if origin is not None else [], **more}


def test_line_says_what_came_from_where_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RefusalLog(lambda: 1.0)
    log.write(DENIED, scope(origin=b"https://app.example"), "10.0.0.7")
    log.write(RequestError(Code.UNAUTHORIZED, "the token has expired"), scope("/panels", method="POST"), "")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "refused with 403: upgrade at '/panels/p/ws' from 10.0.0.7, origin 'https://app.example': expected something else",
        ),
        (
            "INFO",
            "refused with 401: POST '/panels' from an unknown address, origin none: the token has expired",
        ),
    ]


def test_line_is_short_whatever_came(caplog: pytest.LogCaptureFixture) -> None:
    RefusalLog(lambda: 1.0).write(DENIED, scope("/" + "x" * 10_000, origin=b"o\n" * 10_000), "10.0.0.7")
    (line,) = caplog.messages
    assert len(line) < 3 * (_MAX_PATH_CHARS + _MAX_ORIGIN_CHARS)
    assert "\n" not in line


def test_flood_of_bad_tokens_is_cut_and_hides_no_origin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RefusalLog(lambda: 1.0)
    for _ in range(10_000):
        log.write(RequestError(Code.UNAUTHORIZED, "no"), scope(), "10.0.0.7")
    assert len(caplog.records) == LINES.burst
    log.write(DENIED, scope(), "10.0.0.7")
    assert caplog.messages[-1].startswith("refused with 403")


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (RequestError(Code.PANEL_NOT_FOUND, "no"), False),
        (RequestError(Code.OVERLOADED, "no", {"scope": "panel"}), False),
        (RequestError(Code.OVERLOADED, "no"), False),
        (RequestError(Code.OVERLOADED, "no", {"scope": "subject"}), True),
        (RequestError(Code.RATE_LIMITED, "no"), True),
        (RequestError(Code.UPGRADE_REQUIRED, "no"), True),
    ],
)
def test_only_refusals_of_who_asks_are_logged(
    error: RequestError, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    RefusalLog(lambda: 1.0).write(error, scope(), "10.0.0.7")
    assert bool(caplog.records) is logged
