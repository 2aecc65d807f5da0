"""Every error that has a name, and the one table of codes that clients see.

    PanelsError
    ├── ConfigError         a configuration that a program cannot start with
    ├── LimitError          a limit outside its bounds
    ├── WireError           a frame between gateway and worker that does not validate
    ├── InvalidJsonError    text that is not a JSON value we accept
    └── RequestError        something to tell a client: carries a Code and details

Errors build their own sentence, as *expected X, got Y*. Inner detail goes to the log, never into these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Code(str, Enum):
    """Stable codes, in ERROR messages and in the HTTP error body. ``CODES`` says what each means."""

    PARSE_ERROR = "PARSE_ERROR"
    UNKNOWN_MESSAGE = "UNKNOWN_MESSAGE"
    TOOL_NOT_FOUND = "TOOL_NOT_FOUND"
    PANEL_NOT_FOUND = "PANEL_NOT_FOUND"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_HANDLER = "INVALID_HANDLER"
    INVALID_ARGUMENTS = "INVALID_ARGUMENTS"
    PANEL_EXISTS = "PANEL_EXISTS"
    CONFLICT = "CONFLICT"
    HISTORY_GONE = "HISTORY_GONE"
    TOO_MANY_PANELS = "TOO_MANY_PANELS"
    TOO_LARGE = "TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    UPGRADE_REQUIRED = "UPGRADE_REQUIRED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means: its HTTP status, whether the same request may succeed later, and a sentence."""

    http_status: int
    retryable: bool
    meaning: str


CODES: Mapping[Code, CodeInfo] = {
    Code.PARSE_ERROR: CodeInfo(400, False, "The message is not JSON, or a field has the wrong type."),
    Code.UNKNOWN_MESSAGE: CodeInfo(400, False, "The message type is not one the server knows."),
    Code.TOOL_NOT_FOUND: CodeInfo(404, False, "The panel has no tool of that name."),
    Code.PANEL_NOT_FOUND: CodeInfo(404, False, "There is no panel of that id."),
    Code.EXECUTION_ERROR: CodeInfo(
        422, False, "The handler failed or passed a limit; details.reason says which."
    ),
    Code.UNAUTHORIZED: CodeInfo(401, False, "The token is missing, malformed, expired or not trusted."),
    Code.FORBIDDEN: CodeInfo(403, False, "The token does not allow this."),
    Code.OVERLOADED: CodeInfo(503, True, "A queue is full; try again after retryAfterMs."),
    Code.RATE_LIMITED: CodeInfo(429, True, "This client asks too often; try again after retryAfterMs."),
    Code.QUOTA_EXCEEDED: CodeInfo(
        429, True, "A quota is used up, details.quota says which; try again after retryAfterMs."
    ),
    Code.CIRCUIT_OPEN: CodeInfo(
        503, True, "The tool kept failing and is suspended for a while; try again after retryAfterMs."
    ),
    Code.INVALID_REQUEST: CodeInfo(
        400, False, "The request body is not valid; details.path names the field."
    ),
    Code.INVALID_HANDLER: CodeInfo(422, False, "A handler was refused; details says which and why."),
    Code.INVALID_ARGUMENTS: CodeInfo(
        400, False, "The arguments do not match the schema of the tool; details.path says where."
    ),
    Code.PANEL_EXISTS: CodeInfo(409, False, "A panel of that id exists."),
    Code.CONFLICT: CodeInfo(
        409,
        False,
        "The idempotency key was used for something else, the question is not open, or the panel is not at "
        "expectedSeq.",
    ),
    Code.HISTORY_GONE: CodeInfo(410, False, "The panel's history does not reach back so far."),
    Code.TOO_MANY_PANELS: CodeInfo(429, True, "The gateway holds as many panels as it may."),
    Code.TOO_LARGE: CodeInfo(413, False, "The request body is too large."),
    Code.NOT_FOUND: CodeInfo(404, False, "There is nothing at this path."),
    Code.METHOD_NOT_ALLOWED: CodeInfo(405, False, "This path does not take that method."),
    Code.UPGRADE_REQUIRED: CodeInfo(426, False, "This path speaks WebSocket only, and the request was none."),
    Code.UNAVAILABLE: CodeInfo(
        503, True, "No worker could do it in time, or the gateway is shutting down; nothing was done."
    ),
    Code.INTERNAL: CodeInfo(500, False, "A defect of the server; its log has the detail."),
}


class CloseCode(int, Enum):
    """WebSocket close codes that the gateway sends (RFC 6455 section 7.4; 4000-4999 are our own).

    1002, 1009, 1011 and 1012 are sent by the WebSocket library and by uvicorn on the gateway's behalf.
    """

    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4401
    PANEL_DELETED = 4404


class PanelsError(Exception):
    """Root of the errors this project raises on purpose."""


class ConfigError(PanelsError):
    """One line for the operator: the option, what was expected, what came and what to do.

    Never holds a secret.
    """


class LimitError(PanelsError, ValueError):
    """A limit outside its bounds."""

    def __init__(self, name: str, value: int, *, minimum: int) -> None:
        super().__init__(f"expected {name} of at least {minimum}, got {value}")
        self.name = name
        self.value = value
        self.minimum = minimum


class WireError(PanelsError):
    """A frame from the other side that does not validate. The text never holds payload."""


class InvalidJsonError(PanelsError, ValueError):
    """Text that is not a JSON value we accept. ``problem`` says what was expected and what came."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class RequestError(PanelsError):
    """An answer to a client that is not success.

    ``message`` is for a person and says what was expected, what came and what to do; ``details`` is a
    JSON-able mapping for programs.
    """

    def __init__(self, code: Code, message: str, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
