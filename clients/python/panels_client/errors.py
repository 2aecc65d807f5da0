"""What can go wrong for the application.

PanelsClientError
├── CallError              the gateway answered ERROR
├── OutcomeUnknownError    the call may have run, and nobody will say
│   └── CallTimeoutError   no answer came within ``timeout``; also a ``TimeoutError``
├── TooManyError           a bound of the client is reached: nothing was sent
├── EventsLostError        an iterator of events was not read, and its bound was reached
└── ClosedError            the client has ended, and ``reason`` says why
"""

from __future__ import annotations

from typing import Any


class PanelsClientError(Exception):
    """The root of the errors of this package."""


class CallError(PanelsClientError):
    """The gateway answered a call with ERROR.

    ``ran`` says whether the handler ran: true for EXECUTION_ERROR, false for a refusal of a call that was
    sent once, and None where an earlier copy of the call may have run. ``retry_after_ms`` is the gateway's
    advice, if it gave any.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: Any = None,
        *,
        ran: bool | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details
        self.ran = ran
        self.retry_after_ms = retry_after_ms


class OutcomeUnknownError(PanelsClientError):
    """A call may have run, and no answer will come. ``key`` is its idempotency key; where ``sent`` is false
    it did not run.
    """

    def __init__(self, key: str, why: str, *, sent: bool = True) -> None:
        super().__init__(f"expected an answer to the call {key}, got none: {why}")
        self.key = key
        self.sent = sent


class CallTimeoutError(OutcomeUnknownError, TimeoutError):
    """A call was not answered in time. The same call under the same ``key`` asks for its answer again."""


class TooManyError(PanelsClientError):
    """A bound of the client is reached."""


class EventsLostError(PanelsClientError):
    """An iterator of events was read too slowly: the events after those that it gave were dropped."""


class ClosedError(PanelsClientError):
    """The client has ended. ``reason`` is one of ``closed`` (by the application), ``panel_deleted``,
    ``panel_not_found``, ``forbidden``, ``unauthorized`` and ``refused``.

    A call that was sent and fails with this error may have run.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"the client has ended: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason
        self.detail = detail
