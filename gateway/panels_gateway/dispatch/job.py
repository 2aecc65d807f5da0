"""A job: one accepted trigger on its way to a worker and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panels_shared.messages import JobId, Tool

if TYPE_CHECKING:
    from panels_gateway.dispatch.lane import Lane
    from panels_gateway.dispatch.peers import Worker


class Job:
    """What was triggered, and where it stands. ``args`` and ``scope`` are JSON; times are monotonic seconds.

    ``losses`` counts workers that died while running it and ``lost_s`` is when the last one did; ``misses`` counts the
    times a worker lacked what it needs.
    """

    __slots__ = (
        "args",
        "caller",
        "id",
        "index",
        "lane",
        "losses",
        "lost_s",
        "misses",
        "now_ms",
        "panel",
        "request_id",
        "scope",
        "seed",
        "sent_s",
        "submitted_s",
        "tool",
        "worker",
    )

    def __init__(
        self,
        *,
        id: JobId,  # noqa: A002 - its name everywhere else
        panel: Any,
        tool: Tool,
        args: bytes,
        scope: bytes,
        now_ms: float,
        seed: int,
        caller: Any,
        request_id: str | None,
        submitted_s: float,
    ) -> None:
        self.id = id
        self.panel = panel
        self.tool = tool
        self.args = args
        self.scope = scope
        self.now_ms = now_ms
        self.seed = seed
        self.caller = caller
        self.request_id = request_id
        self.submitted_s = submitted_s
        self.sent_s = submitted_s
        self.index = -1
        self.losses = 0
        self.lost_s = 0.0
        self.misses = 0
        self.lane: Lane | None = None
        self.worker: Worker | None = None
