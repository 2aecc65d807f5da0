"""The command ``panels-worker``: arguments, logging, and a pool that runs until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from panels_shared.errors import ConfigError
from panels_worker.config import parse
from panels_worker.logs import configure_logging
from panels_worker.status import Exit

_log = logging.getLogger("panels.worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pool that ``argv`` (default: the command line) and the environment ask for, or, after
    ``check-config``, says whether it could; its exit code.
    """
    arguments = sys.argv[1:] if argv is None else argv
    checks = arguments[:1] == ["check-config"]
    try:
        config = parse(arguments[1:] if checks else arguments, os.environ)
    except ConfigError as exc:
        print(f"panels-worker: {exc}", file=sys.stderr)
        return Exit.BOOT
    if checks:
        for warning in config.warnings:
            print(f"panels-worker: {warning}", file=sys.stderr)
        print("the configuration is good")
        return Exit.OK
    configure_logging(config.log_level, config.log_format)
    for warning in config.warnings:
        _log.warning("%s", warning)
    from panels_worker.pool.pool import Pool  # --help should not wait for wasmtime

    try:
        pool = Pool(config)
    except ConfigError as exc:
        print(f"panels-worker: {exc}", file=sys.stderr)
        return Exit.BOOT
    except OSError as exc:
        print("panels-worker: cache-dir: expected a directory to write to, got: "
              f"{exc}; give another --cache-dir",
              file=sys.stderr)  # fmt: skip
        return Exit.BOOT
    return pool.run()


if __name__ == "__main__":
    sys.exit(main())
