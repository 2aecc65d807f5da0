"""Logging of the gateway process: one handler, to stderr; ``panels_shared.logs`` says what a line looks
like.
"""

from __future__ import annotations

import logging
import sys

from panels_shared.logs import choose, formatter, set_levels


def configure_logging(levels: str, form: str = "auto") -> None:
    """Logs at ``levels`` (``--log-level``) to stderr, in ``form`` (``--log-format``).

    uvicorn and other libraries speak from warning on: at info uvicorn prints a line for every upgrade.
    """
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(choose(form, terminal=terminal), colors=terminal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_levels(levels)
