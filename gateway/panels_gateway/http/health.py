"""Whether the gateway can do its work, and if not why, in words. Pure but for ``look``, which reads it off
the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from panels_gateway.journal.journal import FoldingState
from panels_gateway.observe.fleet import PoolSummary
from panels_shared import __version__

if TYPE_CHECKING:
    from panels_gateway.kernel.kernel import Kernel


#: For how long what /health/ready found is told by /health, in seconds.
TRIED_LATELY_S: Final = 30
#: After how many seconds a folding process that has something to do and says nothing is a problem.
SILENT_S: Final = 10
#: Layers of confinement that are listed as missing: what workers say is not to be trusted.
MAX_MISSING: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What ``/health`` looks at.

    ``workers``: whether one can run a job. Positions are those of the journal, ``backlog_bytes`` of it wait
    to be folded, and above ``bound_bytes`` no triggers are taken. ``pools`` are those that are admitted.
    ``damaged``: how many panels were asked for whose stored rows cannot be read. ``tried`` is why the last
    trigger of ``/health/ready`` was not run, "" if it was or none has been tried, and ``tried_s`` how many
    seconds ago that was.
    """

    workers: bool
    closing: bool
    durability: str
    incarnation: int
    position: int
    durable: int
    folded: int
    backlog_bytes: int
    bound_bytes: int
    folding: FoldingState
    damaged: int = 0
    tried: str = ""
    tried_s: int = 0
    pools: Sequence[PoolSummary] = ()

    @property
    def backlogged(self) -> bool:
        """Whether triggers are refused because too much waits."""
        return self.backlog_bytes > self.bound_bytes

    @property
    def healthy(self) -> bool:
        """Whether triggers are taken and can be run."""
        return self.workers and not self.closing and not self.backlogged


def look(kernel: Kernel, pools: Sequence[PoolSummary], *, durability: str) -> Condition:
    """The condition of ``kernel`` at the moment."""
    journal = kernel.journal
    return Condition(
        workers=kernel.dispatcher.ready,
        closing=kernel.intake.closing,
        durability=durability,
        incarnation=journal.incarnation,
        position=journal.position,
        durable=journal.durable,
        folded=journal.folded,
        backlog_bytes=journal.backlog_bytes,
        bound_bytes=kernel.intake.backlog_bytes,
        folding=journal.folding,
        damaged=len(kernel.residents.damaged),
        tried=kernel.readiness.reason,
        tried_s=int(kernel.clock() - (kernel.readiness.looked_s or 0.0)),
        pools=pools,
    )


def problems(condition: Condition) -> list[str]:
    """A sentence for each thing that is wrong, what makes the gateway unhealthy first."""
    found: list[str] = []
    if condition.closing:
        found.append("the gateway is shutting down")
    elif not condition.workers:
        found.append("no worker is connected that can run a job")
    if condition.backlogged:
        found.append(
            f"{condition.backlog_bytes:,} bytes of the journal wait to be folded, more than the bound of "
            f"{condition.bound_bytes:,}: triggers are refused"
        )
    # what somebody found out long ago may be mended since
    if condition.tried and condition.tried_s <= TRIED_LATELY_S:
        found.append(f"/health/ready, {condition.tried_s} s ago: {condition.tried}")
    if not condition.folding.up:
        ended = condition.folding.deaths
        found.append(f"the folding process is down, and is being started again (it ended {ended} times)")
    elif condition.folding.silent_s >= SILENT_S:
        found.append(
            f"the folding process has said nothing for {condition.folding.silent_s:.0f} s, and "
            f"{condition.backlog_bytes:,} bytes of the journal wait: it was stopped, or its disk hangs"
        )
    if condition.damaged:
        # ids are not for everybody who may ask for this
        found.append(
            f"panels whose stored rows cannot be read: {condition.damaged}; the log names them, and "
            "panels-gateway verify finds all"
        )
    missing: Counter[str] = Counter()
    for pool in condition.pools:
        missing.update(pool.missing)
    found += [f"{count} sandboxes run without {layer}" for layer, count in missing.most_common(MAX_MISSING)]
    return found


def status_of(healthy: bool) -> str:
    """What ``/health`` says first, or only."""
    return "ready" if healthy else "unavailable"


def report(condition: Condition) -> dict[str, Any]:
    """The answer of ``/health``, as docs/protocol.md has it."""
    folding = condition.folding
    return {
        "status": status_of(condition.healthy),
        "version": __version__,
        "durability": condition.durability,
        "journal": {
            "incarnation": condition.incarnation,
            "position": condition.position,
            "durable": condition.durable,
            "folded": condition.folded,
            "backlogBytes": condition.backlog_bytes,
            "maxBacklogBytes": condition.bound_bytes,
            "folding": "up" if folding.up else "down",
            "foldingDeaths": folding.deaths,
        },
        "pools": [
            {
                "sandboxes": pool.sandboxes,
                "layers": dict(pool.layers),
                "missing": dict(pool.missing),
                "versions": dict(pool.versions),
            }
            for pool in condition.pools
        ],
        "problems": problems(condition),
    }
