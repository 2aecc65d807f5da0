"""What a sandbox process tells the pool that started it: its exit codes, and reports on a pipe.

A report is a fixed record, written whole (it is far below PIPE_BUF) several times a second by a thread that
runs whatever the guest does:

    ┌────────────┬───────────────────┬──────────────────┐
    │ state : u8 │ jobs_done : u64le │ busy_ms : u32le  │
    └────────────┴───────────────────┴──────────────────┘

A process taken over by its guest can lie in all of it; the pool measures memory itself, and the gateway's
deadlines watch the jobs.
"""

from __future__ import annotations

import signal
import struct
from enum import IntEnum
from typing import Final, NamedTuple


class Exit(IntEnum):
    """Why a sandbox process or the pool ended of its own accord (sysexits.h has the names)."""

    OK = 0
    DEFECT = 70  #: EX_SOFTWARE: an exception of ours; the engine's state is in doubt
    CRASH_LOOP = 71  #: EX_OSERR; of the pool: sandboxes end again and again before they are ready
    LOST = 75  #: EX_TEMPFAIL: the gateway is gone and this process cannot connect again
    PROTOCOL = 76  #: EX_PROTOCOL: the gateway sends nothing that validates
    BOOT = 78  #: EX_CONFIG: it cannot start here, and trying again will not help


class State(IntEnum):
    """How far a sandbox process has come."""

    WAITING = 0  #: started, no gateway yet
    READY = 1  #: confined and taking jobs
    LEAVING = 2  #: finishing what it has


class Report(NamedTuple):
    """``jobs_done`` since the start; ``busy_ms`` is how long the job that is running has run, 0 for none."""

    state: State
    jobs_done: int
    busy_ms: int


def describe(code: int) -> str:
    """An exit code in words; negative ones are the signal that ended the process."""
    if code < 0:
        return f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"
    return f"exit code {code} ({Exit(code).name})" if code in set(Exit) else f"exit code {code}"


_RECORD: Final = struct.Struct("<BQI")
RECORD_BYTES: Final = _RECORD.size


def encode(report: Report) -> bytes:
    """``report`` as one record."""
    return _RECORD.pack(report.state, report.jobs_done, min(report.busy_ms, 0xFFFFFFFF))


def decode_last(data: bytes) -> tuple[Report | None, bytes]:
    """The newest whole record in ``data`` (None without a valid one), and the bytes of a record to come."""
    whole = len(data) // RECORD_BYTES * RECORD_BYTES
    rest = data[whole:]
    if not whole:
        return None, rest
    state, jobs_done, busy_ms = _RECORD.unpack_from(data, whole - RECORD_BYTES)
    if state > max(State):
        return None, rest
    return Report(State(state), jobs_done, busy_ms), rest
