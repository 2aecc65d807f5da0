"""A configuration that cannot be started with."""

from __future__ import annotations

from panels_shared.errors import PanelsError


class ConfigError(PanelsError):
    """One line for the operator: which option, what was expected, what came, what to do. Never holds a secret."""
