"""What a peer may send: as much as it can have been asked for. Pure.

A sandbox answers runs, so the largest frame that it may send is what its unanswered runs may come to by their
tools' limits; a pool answers preparations. What is larger was not asked for, and need not be looked at.
"""

from __future__ import annotations

from typing import Final

from panels_gateway.dispatch.fleet import Pool, Worker
from panels_shared import messages as m
from panels_shared.limits import KIB, MAX_IMAGE_BYTES, MIB

#: A frame that anybody may send: greetings, heartbeats, farewells.
UNASKED_BYTES: Final = 64 * KIB
#: What a result takes beside what the tool's limits bound: numbers, and what is said of a failure.
RESULT_BYTES: Final = 256 * KIB
#: What a pool's answer to one preparation takes.
PREPARED_BYTES: Final = 64 * KIB
#: Bytes of JSON for a character of a name in the worst case, and around each mutation, event and log line.
_ESCAPED: Final = 6
_AROUND: Final = 64


def result_bytes(tool: m.Tool) -> int:
    """The most that a result of ``tool`` takes in a frame."""
    _, _, _, host_calls, output, events, log = tool.limits
    image = MAX_IMAGE_BYTES if tool.language in ("javascript", "typescript") else 0
    return RESULT_BYTES + image + _ESCAPED * output + _AROUND * (min(host_calls, MIB) + 2 * events) + 8 * log


def worker_bytes(worker: Worker) -> int:
    """The largest frame that ``worker`` may send now."""
    wanted = sum(result_bytes(run.trigger.tool) for run in worker.outstanding.values() if run is not None)
    return UNASKED_BYTES + worker.revoked_bytes + wanted


def pool_bytes(pool: Pool) -> int:
    """The largest frame that ``pool`` may send now."""
    return UNASKED_BYTES + PREPARED_BYTES * len(pool.preparing)


def revoke(worker: Worker, number: int, tool: m.Tool) -> None:
    """Notes that ``worker`` may still answer the run ``number`` of ``tool``, which is revoked now."""
    worker.revoked_bytes += result_bytes(tool)
    worker.revoked_last = max(worker.revoked_last, number)
