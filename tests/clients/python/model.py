"""A model of the gateway for the core's tests: one panel, its history and its answers. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class ModelServer:
    """A panel with the tool ``add``, which adds to ``n`` and emits ``added`` twice. ``kept`` is how many
    commits of history there are.
    """

    kept: int = 1_000
    incarnation: int = 0
    states: list[Json] = field(default_factory=lambda: [{"n": 0}])
    commits: list[list[Json]] = field(default_factory=list[list[Json]])
    answers: dict[str, Json] = field(default_factory=dict[str, Json])
    ran: list[str] = field(default_factory=list[str])

    @property
    def epoch(self) -> str:
        return f"e{self.incarnation}"

    @property
    def seq(self) -> int:
        return len(self.commits)

    @property
    def state(self) -> Json:
        return self.states[-1]

    def connect(self, asks: Mapping[str, str]) -> list[str]:
        """CONNECTED and what was missed."""
        greeting: Json = {"type": "CONNECTED", "panelId": "p", "seq": self.seq, "epoch": self.epoch}
        since = asks.get("since", "none")
        if since != "none" and asks.get("epoch") == self.epoch:
            first = int(since)
            if self.seq - self.kept <= first <= self.seq:
                missed = [message for unit in self.commits[first:] for message in unit]
                return [json.dumps(each) for each in [{**greeting, "recovered": True}, *missed]]
        return [json.dumps({**greeting, "recovered": False, "state": self.state})]

    def commit(self, key: str, amount: int) -> list[Json]:
        """One version; its unit."""
        seq, n = self.seq + 1, self.state["n"] + amount
        self.states.append({**self.state, "n": n, key: seq})
        mutations = [{"op": "set", "key": "n", "value": n}, {"op": "set", "key": key, "value": seq}]
        unit: list[Json] = [
            {"type": "PATCH", "mutations": mutations, "seq": seq, "more": True},
        ]
        for which in (1, 2):
            event = {"name": "added", "payload": which, "timestamp": 1}
            unit.append(
                {"type": "EVENT", "event": event, "seq": seq, **({"more": True} if which < 2 else {})}
            )
        self.commits.append(unit)
        return unit

    def trigger(self, text: str) -> list[str]:
        """What the client hears of a TRIGGER."""
        message = json.loads(text)
        key = message["idempotencyKey"]
        unit: list[Json] = []
        if key not in self.answers:
            self.ran.append(key)
            unit = self.commit(message["tool"], message["args"])
            result = {"status": "success", "returnValue": self.state["n"]}
            self.answers[key] = {"type": "RESULT", "result": result, "seq": self.seq}
        answer = {**self.answers[key], "requestId": message["requestId"]}
        return [json.dumps(each) for each in [*unit, answer]]

    def lose_history(self) -> None:
        """A restart after which nothing is as it was."""
        self.incarnation += 1
        self.states, self.commits, self.answers = [{"n": 0}], [], {}
