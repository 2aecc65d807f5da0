"""The folding process: ``python -m panels_gateway.journal.folder DATA_DIR``.

Processes. The gateway starts one and talks to it by pipes. Folding is in a process of its own so
that neither its CPU, nor the interpreter's lock, nor a checkpoint can stall the gateway's loop. It
runs at a lower priority.

Protocol. Each line of standard input is a decimal position, up to which the log may be read. Each line of
standard output is one too: everything up to it is folded and on the disk, so readers find it and its segments
may be removed. The first line says where the store stood at the start. Positions only go up.

Threads. None but the main one.

Shutdown. At the end of its input, which is also how the gateway's death looks, it folds what it was told of,
moves the WAL into the file, and exits with 0. SIGINT and SIGTERM are for the gateway, even where all of its
processes get them, and ignored. SIGKILL at any point loses nothing, because segments stay until the
transaction that folded them is on the disk.

Errors. One sentence on standard error, then exit code 74: disk full, an I/O error, a corrupt file or log. A
retry in the same process could hide a lost page; a new process begins at the position that is on the disk.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Final

from panels_gateway.journal import schema
from panels_gateway.journal.fold import Retention, grouped
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.records import Batch
from panels_shared.limits import MIB

EXIT_JOURNAL: Final = 74
#: The folder of segments inside the data directory.
LOG_FOLDER: Final = "log"
#: The WAL is moved into the file when it is larger than this, and when nothing has come for a while.
CHECKPOINT_BYTES: Final = 8 * MIB
IDLE_S: Final = 10.0
#: A line of input has at most so many bytes.
_MAX_LINE_BYTES: Final = 32

#: ``read(after, upto)``: the batches behind ``after``, as far as ``upto``. Raises ``JournalError``.
Read = Callable[[int, int], Iterable[Batch]]


class Orders:
    """Reads positions from a pipe, one a line. Only the last one matters."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        #: The highest position received.
        self.position = 0
        self.ended = False

    def wait(self, timeout_s: float) -> bool:
        """Reads what has arrived, waiting at most ``timeout_s``. Returns whether anything
        did, end of input included.

        Raises ``JournalError`` for a line that is not a position.
        """
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return False
        data = os.read(self._descriptor, 65_536)
        if not data:
            self.ended = True
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > _MAX_LINE_BYTES or not line.isdigit():
                raise JournalError(f"expected a position on standard input, got {line[:_MAX_LINE_BYTES]!r}")
            self.position = max(self.position, int(line))
        if len(self._rest) > _MAX_LINE_BYTES:
            raise JournalError("expected a position on standard input, got a longer line")
        return True


def serve(
    folding: Folding, orders: Orders, read: Read, say: Callable[[int], None], now_ms: Callable[[], int]
) -> None:
    """Folds as far as ``orders`` go, until they end. Raises ``JournalError``."""
    say(folding.position)
    # Before anything is folded: were it after, a process that always dies while it moves the WAL would make
    # progress each time, be started again for ever, and let the WAL grow until the disk is full.
    if folding.wal_bytes > CHECKPOINT_BYTES:
        folding.checkpoint()
    while not orders.ended:
        if not orders.wait(IDLE_S):
            folding.sweep(now_ms=now_ms())
            if folding.wal_bytes:
                folding.checkpoint()
            continue
        if orders.position > folding.position:
            for group in grouped(read(folding.position, orders.position)):
                say(folding.fold(group, now_ms=now_ms()))
                if folding.wal_bytes > CHECKPOINT_BYTES:
                    folding.checkpoint()
            folding.sweep(now_ms=now_ms())
    folding.checkpoint()


def main(arguments: list[str] | None = None) -> int:
    """Runs the process and returns its exit code."""
    options = _parser().parse_args(arguments)
    retention = Retention(**{field.name: getattr(options, field.name) for field in fields(Retention)})
    from panels_gateway.journal.segments import read_log

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    # records are trees of values without cycles, and looking for cycles would take a third of the time
    gc.disable()
    log: Path = options.data_dir / LOG_FOLDER
    database: Path = options.data_dir / schema.DATABASE
    try:
        schema.prepare(database)
        folding = Folding(database, retention=retention)
        try:
            serve(
                folding,
                Orders(sys.stdin.fileno()),
                lambda after, upto: read_log(log, after=after, upto=upto),
                _say,
                lambda: time.time_ns() // 1_000_000,
            )
        finally:
            folding.close()
    except BrokenPipeError:
        return 0  # the gateway is gone, so the end of input would have come next
    except JournalError as exc:
        print(f"panels folder: {exc}", file=sys.stderr)  # noqa: T201 - what the gateway logs
        return EXIT_JOURNAL
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="panels_gateway.journal.folder", allow_abbrev=False)
    parser.add_argument("data_dir", type=Path)
    for field in fields(Retention):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    return parser


def _say(position: int) -> None:
    os.write(1, b"%d\n" % position)


if __name__ == "__main__":
    sys.exit(main())
