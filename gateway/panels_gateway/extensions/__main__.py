"""``python -m panels_gateway.extensions FD``: the extension process, which the gateway starts.

FD is the number of an open Unix socket; the configuration comes through stdin as JSON until its end.
Exit codes: 0 when the gateway closed the socket, 1 after a defect, 78 when the configuration or an
extension cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from panels_gateway.extensions import config as configuration
from panels_gateway.extensions.client import EXIT_CONFIG
from panels_gateway.extensions.config import MAX_CONFIG_BYTES
from panels_gateway.extensions.errors import ExtensionConfigError
from panels_shared.loglines import LineEncoder

logger = logging.getLogger("panels.extensions")

_PR_SET_PDEATHSIG: Final = 1
#: How much less of a busy processor this process gets than its neighbours, as nice(2) counts.
_NICENESS: Final = 10


def main() -> int:
    """Runs until the gateway closes the socket."""
    # secrets are in this memory: no core file, and nothing left behind when the gateway is killed
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # an extension that computes must not take the processor from the gateway and the sandboxes
    _yield_processor()
    handler = logging.StreamHandler()
    handler.setFormatter(LineEncoder())
    logging.getLogger().handlers[:] = [handler]
    try:
        sock = socket.socket(fileno=int(sys.argv[1]))
        sock.setblocking(False)
        config = configuration.decode(sys.stdin.buffer.read(MAX_CONFIG_BYTES + 1))
        _set_level(config.log_level)
        sys.path[:0] = config.path
        # late: httpx takes a while to import, and a configuration that is wrong need not wait for it
        from panels_gateway.extensions import server

        asyncio.run(server.run(config, sock))
    except ExtensionConfigError as exc:
        logger.error("%s", exc, exc_info=exc.__cause__)
        return EXIT_CONFIG
    except Exception:
        logger.exception("the extension process ends")
        return 1
    return 0


def _yield_processor() -> None:
    os.nice(_NICENESS)
    # this process leads a session: where the kernel shares processors among sessions, only this counts
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICENESS))


def _set_level(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ExtensionConfigError(f"log_level: expected a level like info, got {level!r}")
    logging.getLogger("panels").setLevel(number)


if __name__ == "__main__":
    sys.exit(main())
