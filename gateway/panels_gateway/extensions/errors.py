"""How a call of an extension can fail, and what an extension raises to say so.

    PanelsError
    ├── ExtensionConfigError    a configuration or an extension that cannot be used; ends the start
    ├── FrameError              bytes from the other process that do not validate
    ├── DuplicateCallError      a call under an id that is open
    └── ExtensionError          raised by an extension: its sentence goes to the handler
        └── CallFailedError         the same with a code; raised by this room

Only ``ExtensionError`` speaks to handlers. Any other exception of an extension goes to the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from panels_shared.errors import PanelsError

#: The longest message of a ``CallError``, in characters; longer ones are cut.
MAX_MESSAGE_CHARS = 1_024


class ErrorCode(str, Enum):
    """Stable codes of failed calls. ``MEANINGS`` says what each means."""

    UNKNOWN = "extension_unknown"
    METHOD_UNKNOWN = "extension_method_unknown"
    ARGUMENTS = "extension_arguments"
    DENIED = "extension_denied"
    FAILED = "extension_failed"
    TIMEOUT = "extension_timeout"
    RESULT = "extension_result"
    LIMIT = "extension_limit"
    LOST = "extension_lost"
    CANCELLED = "extension_cancelled"
    OVERLOADED = "extension_overloaded"
    UNAVAILABLE = "extension_unavailable"


MEANINGS: Mapping[ErrorCode, str] = {
    ErrorCode.UNKNOWN: "There is no extension of that name.",
    ErrorCode.METHOD_UNKNOWN: "The extension has no method of that name.",
    ErrorCode.ARGUMENTS: "The arguments do not fit the method; the message names the place.",
    ErrorCode.DENIED: "Policy does not allow the call.",
    ErrorCode.FAILED: "The method failed.",
    ErrorCode.TIMEOUT: "The method took longer than it may.",
    ErrorCode.RESULT: "The method returned something that is not a JSON value that panels accepts.",
    ErrorCode.LIMIT: "A bound on bytes, headers or redirects was passed.",
    ErrorCode.LOST: "The extension process ended during the call; whether the call took effect is not known.",
    ErrorCode.CANCELLED: "The call was cancelled.",
    ErrorCode.OVERLOADED: "Too many calls wait.",
    ErrorCode.UNAVAILABLE: "The extension process does not run.",
}


class CallError(msgspec.Struct, frozen=True, array_like=True):
    """Why a call failed.

    ``message`` is one or more sentences for the author of the handler, at most ``MAX_MESSAGE_CHARS`` long.
    ``repeatable`` is of use with ``ErrorCode.LOST`` alone: the method declares that the call may be made
    again under the same idempotency key.
    """

    code: ErrorCode
    message: str
    repeatable: bool = False


class ExtensionConfigError(PanelsError, ValueError):
    """A configuration, or an extension, that cannot be used. The text is for the operator."""


class FrameError(PanelsError):
    """Bytes from the other process that do not validate. The text never holds payload."""


class DuplicateCallError(PanelsError, ValueError):
    """A call under an id that is open."""


class ExtensionError(PanelsError):
    """What an extension raises to fail a call; the handler gets ``message`` as it is.

    It must not hold a secret, nor what the handler may not know.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message[:MAX_MESSAGE_CHARS]

    @property
    def error(self) -> CallError:
        """The same, as the answer to the call."""
        return CallError(ErrorCode.FAILED, self.message)


class CallFailedError(ExtensionError):
    """An ``ExtensionError`` with a code of its own."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def error(self) -> CallError:
        """The same, as the answer to the call."""
        return CallError(self.code, self.message)
