"""Handlers that wait, scripted; time that only tests move; and a journal that a second gateway is started on.

A handler's script is its args: what it changes and emits, the calls that it makes, and what it does ``then``.
Its image is the rest of the script, so that it can go on anywhere, and it refuses an answer that it does not
wait for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Batch, Record
from panels_gateway.kernel.residents import Resident
from panels_gateway.kernel.suspension import Suspension
from panels_gateway.panels.trigger import Answer, Failure, Succeeded
from panels_shared.outcome import Completed, ExtensionCall, Failed, Outcome, Reason, Suspended, Usage
from tests.support.gateway import Call, Gateway, follow, make_definition

Script = dict[str, Any]
#: A question to a person.
ASK: Final[tuple[str, str, list[Any]]] = ("human", "ask", ["what?"])
APPROVE: Final[tuple[str, str, list[Any]]] = ("human", "approve", ["this?"])


def asking(*calls: tuple[str, str, list[Any]], then: Script | None = None, **step: Any) -> Script:
    """A script that makes these calls, one question unless others are named, and waits for all of them."""
    return {"calls": [list(call) for call in calls or (ASK,)], "then": then or {}, **step}


def sleeping(ms: float, then: Script | None = None, **step: Any) -> Script:
    """A script that sleeps."""
    return asking(("time", "sleep", [ms]), then=then, **step)


def act(call: Call) -> Outcome:
    """The worker that runs scripts."""
    if not call.answers:
        script: Script = call.args if isinstance(call.args, dict) else {}
        return _step(call, script, {"open": [], "got": [], "next": 1})
    kept = json.loads(call.image)
    for answered in call.answers:
        assert answered.call in kept["open"], "a handler is given each answer once"
        kept["open"].remove(answered.call)
        kept["got"].append([answered.call, answered.ok, json.loads(answered.value)])
    if kept["open"] and not kept["race"]:
        return Suspended(Usage(), (), json.dumps(kept).encode())
    return _step(call, kept["then"], kept)


def _step(call: Call, script: Script, kept: dict[str, Any]) -> Outcome:
    if "fail" in script:
        return Failed(Usage(fuel=1), Reason.HANDLER_ERROR, script["fail"])
    ended = follow(call._replace(args=script))
    assert isinstance(ended, Completed)
    if not script.get("calls"):
        return _with_effects(kept["got"], ended)
    calls = tuple(
        ExtensionCall(number, extension, method, json.dumps(args).encode())
        for number, (extension, method, args) in enumerate(script["calls"], kept["next"])
    )
    kept = {
        "open": [*kept["open"], *(made.call for made in calls)],
        "got": kept["got"],
        "next": kept["next"] + len(calls),
        "then": script.get("then") or {},
        "race": script.get("race", False),
    }
    return Suspended(Usage(), calls, json.dumps(kept).encode(), ended.mutations, ended.events)


def _with_effects(got: Sequence[object], ended: Completed) -> Completed:
    return Completed(ended.usage, json.dumps(got).encode(), ended.mutations, ended.events)


@contextmanager
def time_of(gateway: Gateway) -> Iterator[None]:
    """The loop's time is the gateway's, so that timers ring when tests say so."""
    with patch.object(asyncio.get_running_loop(), "time", lambda: gateway.now_s):
        yield


async def advance(gateway: Gateway, seconds: float) -> None:
    """Time goes on, and what is due then happens."""
    gateway.now_s += seconds
    gateway.wall_s += seconds
    await gateway.settle()


class Ledger(MemoryJournal):
    """Keeps every batch, so that another journal can be made of those that were durable."""

    def __init__(self, *, hold: bool = False) -> None:
        super().__init__(hold=hold)
        self.batches: list[Batch] = []

    def append(self, batch: Batch) -> None:
        super().append(batch)
        self.batches.append(batch)

    @property
    def records(self) -> list[Record]:
        """All records, in order."""
        return [record for batch in self.batches for record in batch.records]

    async def again(self) -> Ledger:
        """What a gateway finds that is started after this one was killed."""
        found = Ledger()
        for batch in self.batches:
            if batch.position <= self.durable:
                found.append(batch)
        while found.folded < found.position:  # noqa: ASYNC110 - what it waits for is the next turn of the loop
            await asyncio.sleep(0)
        return found


async def restart(gateway: Gateway, **options: Any) -> Gateway:
    """The gateway is killed, and another one is started on what was durable; it looks for handlers that
    wait.
    """
    assert isinstance(gateway.journal, Ledger)
    journal = await gateway.journal.again()
    gateway.dead = True
    following = Gateway(journal, gateway.respond, **options)
    following.now_s, following.wall_s = gateway.now_s, gateway.wall_s
    await following.kernel.suspensions.find_all()
    await following.settle()
    return following


def only_suspension(resident: Resident) -> Suspension:
    """The one handler of the panel that waits."""
    (suspension,) = resident.waiting.values()
    return suspension


async def reply(gateway: Gateway, suspension: Suspension, value: object, call: int | None = None) -> None:
    """A person answers."""
    gateway.kernel.calls.answer(suspension, call, json.dumps(value).encode())
    await gateway.settle()


def ledger(gateway: Gateway) -> Ledger:
    """The gateway's journal."""
    assert isinstance(gateway.journal, Ledger)
    return gateway.journal


def got(answer: Answer) -> object:
    """What a script returned: the answers that it was given."""
    assert isinstance(answer, Succeeded), answer
    return json.loads(answer.outcome.return_value)


def failed(answer: Answer) -> tuple[Reason, int]:
    """Why a handler that had waited failed, and how many steps it had committed."""
    assert isinstance(answer, Failure), answer
    return answer.outcome.reason, json.loads(answer.outcome.details)["steps"]


async def replace(gateway: Gateway, *tools: dict[str, object]) -> None:
    """Panel p is given other tools."""
    resident = await gateway.open()
    definition = make_definition("p", tools=list(tools))
    await gateway.kernel.making.replace(resident, definition, ANONYMOUS)
    await gateway.settle()


def tool(name: str, source: str | None = None, **fields: object) -> dict[str, object]:
    """A tool of a definition."""
    return {"name": name, "handler": source or f"/* {name} */ $args", **fields}
