"""How a command ends that does not succeed: one sentence, and an exit code.

    CommandError          exit code
    ├── RefusedError      1   the gateway answered, and what it said is an error; or something is wrong
    ├── UsageError        2   the command line, the configuration or a panel's folder is not right
    └── UnreachableError  3   nobody answered, or whoever did is not a gateway

A sentence says what, where, and what to do. Ctrl-C ends a command with 130.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from panels_shared.errors import PanelsError

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130


class CommandError(PanelsError):
    """Why a command did not succeed. ``str()`` is the sentence."""

    exit_code = EXIT_REFUSED
    #: Lines that are shown below the sentence: a piece of source, for example.
    appendix: tuple[str, ...] = ()

    def shown(self) -> dict[str, object]:
        """The same for programs, as ``--json`` prints it on standard error."""
        return {"code": type(self).__name__.removesuffix("Error").upper(), "message": str(self)}


class UsageError(CommandError):
    """The command line, the configuration or a folder is not as expected; nothing was sent."""

    exit_code = EXIT_USAGE


class UnreachableError(CommandError):
    """No answer, or not one of a gateway. What was asked for may have been done all the same."""

    exit_code = EXIT_UNREACHABLE


class RefusedError(CommandError):
    """The gateway's error: ``code`` and ``details`` as docs/protocol.md has them, ``message`` what it said.

    ``hint`` says what to do, and is part of the sentence; "" where the message says it.
    """

    def __init__(
        self, code: str, message: str, details: Mapping[str, Any] | None = None, *, hint: str = ""
    ) -> None:
        super().__init__(f"{message} ({code})" + (f"; {hint}" if hint else ""))
        self.code = code
        self.message = message
        self.details: Mapping[str, Any] = details or {}

    def shown(self) -> dict[str, object]:
        """See ``CommandError.shown``: the gateway's own error."""
        return {"code": self.code, "message": self.message, "details": dict(self.details)}
