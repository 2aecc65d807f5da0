"""How the program ends: exit codes, and the one sentence that says why. docs/operations.md explains each
code.
"""

from __future__ import annotations

import sys
from typing import Final

from panels_gateway.configuration.config import EXIT_CONFIG
from panels_gateway.journal.journal import CorruptError, InUseError, JournalError
from panels_shared.errors import ConfigError

#: BSD's EX_DATAERR: what is stored is damaged, foreign, or newer than this program.
EXIT_DATA: Final = 65
#: BSD's EX_UNAVAILABLE: an address or a directory that somebody else has.
EXIT_UNAVAILABLE: Final = 69
#: BSD's EX_IOERR: the disk failed, or is full.
EXIT_IO: Final = 74
#: What a shell says of a command that was interrupted.
EXIT_INTERRUPTED: Final = 130


class UnavailableError(Exception):
    """Something that the gateway needs is in use or out of reach; one line for the operator."""


#: What a command may end with, and the code for it; the first that fits.
_CODES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ConfigError, EXIT_CONFIG),
    (UnavailableError, EXIT_UNAVAILABLE),
    (InUseError, EXIT_UNAVAILABLE),
    (CorruptError, EXIT_DATA),
    (JournalError, EXIT_IO),
    (OSError, EXIT_IO),
)
#: All of them, for ``except``.
EXPECTED: Final[tuple[type[Exception], ...]] = tuple(kind for kind, _ in _CODES)


def exit_code(error: Exception) -> int:
    """The code for ``error``, one of ``EXPECTED``."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def end(error: Exception) -> int:
    """Says on stderr why the program ends, in one line, and returns the exit code."""
    where = "data-dir: " if isinstance(error, JournalError) else ""
    text = " ".join(_sentence(error).split())
    print(f"panels-gateway: {where}{text}", file=sys.stderr)
    return exit_code(error)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
