"""Logging of the pool process: one handler, to stderr; ``panels_shared.logs`` says what a line looks like.

Sandboxes and compile children have pipes instead, see ``panels_shared.loglines``.
"""

from __future__ import annotations

import logging
import sys

from panels_shared.logs import choose, formatter, set_levels


def configure_logging(levels: str, form: str = "auto") -> None:
    """Logs at ``levels`` (``--log-level``) to stderr, in ``form`` (``--log-format``)."""
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(choose(form, terminal=terminal), colors=terminal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_levels(levels)
