"""What this worker is made of, for Hello and ``--version``."""

from __future__ import annotations

import importlib.metadata
import platform


def versions() -> dict[str, str]:
    """Name → version. Loads nothing, because the pool does not load wasmtime."""
    return {
        "panels": importlib.metadata.version("panels-kernel"),
        "python": platform.python_version(),
        "wasmtime": importlib.metadata.version("wasmtime"),
        "pyzmq": importlib.metadata.version("pyzmq"),
    }
