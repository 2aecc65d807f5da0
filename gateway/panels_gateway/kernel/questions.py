"""Questions to people: what ``$ext.human`` asks is an EVENT of the step that waits for the answer."""

from __future__ import annotations

from typing import Final

import msgspec

from panels_gateway.panels.trigger import Trigger
from panels_shared.outcome import Suspended

HUMAN: Final = "human"
METHODS: Final = ("approve", "ask")
#: The name of the event that shows a question.
ASKED: Final = "human.asked"


def questions(outcome: Suspended, suspension: int, trigger: Trigger, now_s: float) -> tuple[bytes, ...]:
    """An event for each call of ``outcome`` that a person is to answer: which suspension and call, and what
    is asked.
    """
    return tuple(
        msgspec.json.encode(
            {
                "name": ASKED,
                "payload": {
                    "suspensionId": f"{suspension:012x}",
                    "call": call.call,
                    "method": call.method,
                    "tool": trigger.tool.name,
                    "args": msgspec.Raw(call.args),
                },
                "timestamp": int(now_s * 1000),
            }
        )
        for call in outcome.calls
        if call.extension == HUMAN and call.method in METHODS
    )
