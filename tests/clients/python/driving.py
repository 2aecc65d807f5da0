"""A core, the time, and everything that it said to do."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from panels_client import calls
from panels_client.calls import Call
from panels_client.core import Core, Phase
from panels_client.instructions import Connect, Instruction, Send, Settle
from panels_client.options import Options

T = TypeVar("T")
OPTIONS = Options()


class Driver:
    """See the module's docstring. ``core``'s random numbers are all 0: pauses have their full length."""

    def __init__(
        self, *, options: Options = OPTIONS, token: str | None = None, renewable: bool = False
    ) -> None:
        self.now = 1_000.0
        self.core = Core(options, now=self.now, random=lambda: 0.0, token=token, renewable=renewable)
        self.done: list[Instruction] = []
        self._names = 0

    def take(self, instructions: list[Instruction]) -> list[Instruction]:
        self.done.extend(instructions)
        return instructions

    def of(self, kind: type[T]) -> list[T]:
        return [each for each in self.done if isinstance(each, kind)]

    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(each.text) for each in self.of(Send)]

    def outcomes(self) -> dict[str, Any]:
        found = {each.key: each.outcome for each in self.of(Settle)}
        assert len(found) == len(self.of(Settle)), "a call was settled twice"
        return found

    # -- what happens --------------------------------------------------------------------------------

    def tick(self, after_s: float = 0.0) -> list[Instruction]:
        self.now += after_s
        return self.take(self.core.tick(self.now))

    def wake(self) -> list[Instruction]:
        wakes_at = self.core.wakes_at()
        assert wakes_at is not None
        self.now = max(self.now, wakes_at)
        return self.tick()

    def hear(self, *messages: dict[str, Any] | str | bytes, flow: int | None = None) -> None:
        for message in messages:
            frame = json.dumps(message) if isinstance(message, dict) else message
            self.take(self.core.heard(self.core.flow if flow is None else flow, frame, self.now))

    def open(self) -> dict[str, str]:
        """An upgrade that is accepted; what it asked for."""
        while self.core.phase is Phase.WAITING:
            self.wake()
        assert self.core.phase is Phase.CONNECTING
        self.take(self.core.opened(self.core.flow, self.now))
        return self.of(Connect)[-1].asks

    def live(self, state: dict[str, Any] | None = None, *, seq: int = 0, epoch: str = "e") -> None:
        """A connection whose CONNECTED brings the whole state."""
        self.open()
        self.hear({"type": "CONNECTED", "seq": seq, "epoch": epoch, "state": state or {}})

    def recovered(self, *, seq: int = 0, epoch: str = "e") -> None:
        """A connection that resumes."""
        self.open()
        self.hear({"type": "CONNECTED", "seq": seq, "epoch": epoch, "recovered": True})

    def lose(self, code: int | None = None, why: str = "test") -> None:
        self.take(self.core.lost(self.core.flow, code, why, self.now))

    def call(
        self,
        tool: str = "t",
        args: Any = None,
        *,
        timeout: float | None = None,
        expects: dict[str, Any] | None = None,
    ) -> str:
        self._names += 1
        key = f"k{self._names}"
        deadline = None if timeout is None else self.now + timeout
        made: Call = calls.trigger(key, tool, args, options=self.core.options, deadline=deadline)
        self.take(self.core.call(made, self.now, expects=expects))
        return key

    def result(self, key: str, value: Any = None, *, seq: int = 0) -> None:
        body = {"status": "success", "returnValue": value}
        self.hear({"type": "RESULT", "requestId": key, "result": body, "seq": seq})

    def error(self, key: str, code: str, **more: Any) -> None:
        self.hear({"type": "ERROR", "requestId": key, "code": code, "message": "m", **more})
