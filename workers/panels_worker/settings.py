"""What a pool is told, and what it tells each of its sandboxes.

These are plain values: their makers check them.

``config`` makes a ``PoolConfig`` from the command line. The pool makes a ``SandboxConfig`` from that for each
sandbox and writes it to the standard input of the new process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec

from panels_shared.endpoint import CurveKeys
from panels_shared.limits import MIB

ConfinementMode = Literal["auto", "strict", "off"]
CONFINEMENT_MODES: Final[Mapping[str, ConfinementMode]] = {"auto": "auto", "strict": "strict", "off": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When the pool replaces or kills a sandbox process.

    - ``max_rss_bytes``, ``max_jobs``, ``max_age_s``: above any of them, the process is retired and a
      successor is started. Age 0 means that it does not count.
    - ``jitter``: jobs and age are shortened by up to this share of themselves, for each process by another.
    - ``max_busy_s``: how long one job may run before its process is killed; above the gateway's largest
      deadline.
    - ``silence_s``: a process that has not reported for this long is killed.
    - ``handover_s``: how long a retiring process that is too large waits for its successor.
    - ``grace_s``: how long a draining process may take to finish.
    - ``boot_tries``: how many processes may fail to start, before any process of the pool ever did, until the
      pool gives up.
    - ``crash_tries``: how many processes in a row may end before they are ready, until a pool of which none
      is ready gives up.
    """

    max_rss_bytes: int = 768 * MIB
    max_jobs: int = 5_000_000
    max_age_s: float = 86_400.0
    jitter: float = 0.2
    max_busy_s: float = 60.0
    silence_s: float = 15.0
    handover_s: float = 10.0
    grace_s: float = 10.0
    boot_tries: int = 5
    crash_tries: int = 30


class SandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox process reads from its standard input. ``worker`` and ``pool`` are routing ids.

    ``ticket`` admits ``worker`` to the bus, and nobody else. ``artifact_key`` authenticates what is loaded
    from ``cache_dir``. ``uid`` and ``gid`` are -1 for a process that keeps its user. ``seccomp_filter`` is
    None where no filter could be built. ``nice`` is added to the process's niceness. ``verify_replay`` runs
    every job twice.
    """

    endpoint: str
    worker: bytes
    pool: bytes
    ticket: bytes
    parent_pid: int
    cache_dir: str
    artifact_key: bytes
    curve: CurveKeys | None
    confinement: ConfinementMode
    seccomp_filter: bytes | None
    uid: int
    gid: int
    spin_us: float
    replica_bytes: int
    max_programs: int
    data_bytes: int
    nice: int
    log_level: str
    verify_replay: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """What the pool is told. ``user`` is the name or number of the user that sandboxes become when the pool
    is root. ``bus_key_file`` None means the file beside the gateway's socket. ``sandbox_command`` starts a
    sandbox process; only tests set it. ``cpus`` are those that the pool and all its processes may use; empty
    means all. ``warnings`` are sentences for the log, which is not set up before this has been read.
    """

    gateway: str
    processes: int
    cache_dir: Path
    curve: CurveKeys | None = None
    bus_key_file: Path | None = None
    confinement: ConfinementMode = "auto"
    user: str = "nobody"
    spin_us: float = 500.0
    replica_bytes: int = 256 * MIB
    max_programs: int = 256
    data_bytes: int = 1024 * MIB
    labels: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()
    nice: int = 0
    bounds: Bounds = field(default_factory=Bounds)
    log_level: str = "info"
    verify_replay: bool = False
    log_format: str = "auto"
    warnings: tuple[str, ...] = ()
    sandbox_command: tuple[str, ...] | None = None
