"""How long single appends to the journal take while segments end, are folded and are removed beside them.

This is the part of a pause of the gateway's loop that the journal can be blamed for. Appends are measured one
by one, and the kernel says for how long of each the thread was ready and got no CPU.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from panels_gateway.journal.local import open_local
from panels_gateway.journal.records import Batch, Created, Ran, Record, Source
from panels_shared.outcome import Completed, Usage

_PANELS = 16
_DIGEST = b"d" * 32


@dataclass(slots=True)
class Appends:
    """Milliseconds of each append: in all, and without waits for a CPU. ``commits`` is how many were
    appended.
    """

    commits: int = 0
    gross_ms: list[float] = field(default_factory=list)
    net_ms: list[float] = field(default_factory=list)


async def measure(folder: Path, duration_s: float) -> Appends:
    """Appends batches of 16 commits in mode ``process``, about 10,000 commits a second."""
    found = Appends()
    journal = await open_local(folder, durability="process")
    schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    def waited_ms() -> float:
        return int(os.pread(schedstat, 64, 0).split()[1]) / 1e6

    try:
        end = time.perf_counter() + duration_s
        for records in _batches():
            batch = Batch(journal.position + 1, journal.fence, records)
            waited, began = waited_ms(), time.perf_counter()
            journal.append(batch)
            gross = (time.perf_counter() - began) * 1e3
            found.gross_ms.append(gross)
            found.net_ms.append(max(0.0, gross - (waited_ms() - waited)))
            found.commits += len(records)
            if began > end:
                break
            await asyncio.sleep(0.0015)
    finally:
        os.close(schedstat)
        await journal.close()
    return found


def _batches() -> Iterator[list[Record]]:
    definition = b'{"kind":"counter","tools":[]}'
    yield [
        Source(_DIGEST, "wat", "", b"(module)"),
        *(
            Created(number, f"panel-{number}", "e", 1, definition, {"count": b"0"}, 0, (_DIGEST,))
            for number in range(1, _PANELS + 1)
        ),
    ]
    seq = 0
    while True:
        seq += 1
        yield [_ran(number, seq) for number in range(1, _PANELS + 1)]


def _ran(panel: int, seq: int) -> Ran:
    outcome = Completed(
        Usage(1_234, 50, 65_536, 65_536, 4),
        b"%d" % seq,
        b'[{"op":"set","key":"count","value":%d}]' % seq,
        (b'{"name":"incremented","payload":%d,"timestamp":1760000000000}' % seq,),
    )
    return Ran(panel, seq, 1, "increment", _DIGEST, b"{}", b"{}", 1.76e12, seq, outcome, 100, 300)
