"""The bounds of what waits to be run; ``backlog`` enforces them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from panels_gateway.dispatch.compile_queue import CompileLimits
from panels_shared.errors import PanelsError
from panels_shared.limits import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """Security limits of the dispatcher.

    - ``queue_per_panel``: triggers of one panel that are not answered, whether they wait or are in flight.
    - ``queue_total``: triggers of all panels that are not answered.
    - ``queue_bytes``: the arguments of those triggers, in bytes of JSON.
    - ``queue_timeout_s``: how long a trigger may wait until it is sent to a worker.
    - ``compile``: CPU seconds that each subject may have handlers compiled for.
    - ``window``: triggers of one panel that are in flight to its worker at once.
    """

    queue_per_panel: int = 1_024
    queue_total: int = 16_384
    queue_bytes: int = 64 * MIB
    queue_timeout_s: float = 30.0
    compile: CompileLimits = field(default_factory=CompileLimits)
    window: int = 64


class OverloadedError(PanelsError):
    """A queue is full. ``scope`` is ``"panel"`` or ``"gateway"``; ``retry_after_ms`` says when to try
    again."""

    def __init__(self, scope: str, retry_after_ms: int) -> None:
        super().__init__(f"the queue of the {scope} is full")
        self.scope = scope
        self.retry_after_ms = retry_after_ms
