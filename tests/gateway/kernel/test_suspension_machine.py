"""Handlers that wait, at random, against a plain model: each trigger is answered once, and nothing that has
an answer waits.

The worker's scripts refuse an answer that they do not wait for, or were given before, so a handler hears each
at most once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.kernel import resuming as module
from panels_gateway.kernel.suspension import Suspension
from panels_gateway.panels.trigger import Failure, Refused, Succeeded
from panels_shared.errors import RequestError
from panels_shared.outcome import Reason
from tests.support.gateway import Caller, Gateway, make_definition
from tests.support.waiting import ASK, Ledger, Script, act, restart

CALLS = st.lists(
    st.sampled_from([ASK, ASK, ("time", "sleep", [2_000]), ("time", "sleep", [50_000])]),
    min_size=1,
    max_size=3,
)
STEPS = st.lists(st.tuples(CALLS, st.booleans()), min_size=1, max_size=3)
NAMES = st.sampled_from(["p", "q"])
TOOLS = st.sampled_from(["t", "alone"])


def script_of(number: int, steps: list[tuple[list[Any], bool]]) -> Script:
    script: Script = {"set": {f"end{number}": number}}
    for calls, race in reversed(steps):
        script = {"calls": [list(call) for call in calls], "race": race, "then": script}
    return script


class Waiting(RuleBasedStateMachine):
    """``asked`` has each trigger, by its key: where it was sent, and what it is; ``ended`` the answer that
    was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bound = patch.object(module, "MAX_RESUMING", 2)
        self.bound.start()
        self.gateway: Gateway = self.runner.run(self.make())
        self.time = patch.object(self.runner.get_loop(), "time", lambda: self.gateway.now_s)
        self.time.start()
        self.asked: dict[str, tuple[str, str, Script]] = {}
        self.callers: dict[str, list[Caller]] = {}
        self.ended: dict[str, object] = {}
        self.versions: dict[str, int] = {"p": 0, "q": 0}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def settled() -> Any:
            found = await work
            await self.gateway.settle()
            return found

        return self.runner.run(settled())

    @staticmethod
    def definition(name: str, version: int = 0) -> Any:
        tools = [
            {"name": "t", "handler": "1"},
            {"name": "alone", "handler": f"{version}", "exclusive": True},
        ]
        return make_definition(name, tools=tools)

    async def make(self) -> Gateway:
        gateway = Gateway(Ledger(), act)
        for name in ("p", "q"):
            await gateway.kernel.making.create(self.definition(name))
            await gateway.settle()
        return gateway

    @property
    def waiting(self) -> list[Suspension]:
        return [found for resident in self.gateway.kernel.residents for found in resident.waiting.values()]

    def pick(self, number: int) -> Suspension | None:
        return self.waiting[number % len(self.waiting)] if self.waiting else None

    @rule(name=NAMES, tool=TOOLS, steps=STEPS)
    def trigger(self, name: str, tool: str, steps: list[tuple[list[Any], bool]]) -> None:
        key = f"k{len(self.asked)}"
        self.asked[key] = name, tool, script_of(len(self.asked), steps)
        self.ask_again(len(self.asked) - 1)

    @rule(number=st.integers(0, 99))
    def ask_again(self, number: int) -> None:
        if not self.asked:
            return
        key = list(self.asked)[number % len(self.asked)]
        name, tool, script = self.asked[key]

        async def submit() -> None:
            resident = await self.gateway.open(name)
            caller = self.gateway.submit(resident, script, tool=tool, key=key)
            self.callers.setdefault(key, []).append(caller)

        self.run(submit())

    @rule(number=st.integers(0, 99), call=st.integers(1, 9), twice=st.booleans())
    def answer(self, number: int, call: int, twice: bool) -> None:
        async def answer() -> None:
            for _ in range(1 + twice):
                suspension = self.pick(number)
                if suspension is not None:
                    try:
                        self.gateway.kernel.calls.answer(suspension, call, b"%d" % call)
                    except RequestError:
                        assert suspension.calls.get(call) is None or not suspension.is_open(call) or (
                            suspension.calls[call].extension != "human"
                        )  # fmt: skip

        self.run(answer())

    def answer_all(self) -> None:
        async def answer() -> None:
            for suspension in self.waiting:
                for call in [call for call, made in suspension.calls.items() if made.extension == "human"]:
                    if suspension.is_open(call):
                        self.gateway.kernel.calls.answer(suspension, call, b"%d" % call)

        self.run(answer())

    @rule(seconds=st.sampled_from([1, 3, 60]))
    def pass_time(self, seconds: int) -> None:
        self.gateway.now_s += seconds
        self.gateway.wall_s += seconds
        self.run(asyncio.sleep(0))

    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        async def cancel() -> None:
            if (suspension := self.pick(number)) is not None:
                self.gateway.kernel.suspensions.fail(suspension, Reason.CANCELLED, "no")

        self.run(cancel())

    @rule(name=NAMES, new=st.booleans())
    def replace(self, name: str, new: bool) -> None:
        self.versions[name] += new

        async def replace() -> None:
            resident = await self.gateway.open(name)
            definition = self.definition(name, self.versions[name])
            await self.gateway.kernel.making.replace(resident, definition, ANONYMOUS)

        self.run(replace())

    @rule(answers=st.booleans())
    def kill(self, answers: bool) -> None:
        """With ``answers`` the worker hangs, all questions are answered, and only then the gateway is
        killed.
        """
        if answers:
            self.gateway.respond = lambda call: None
            self.answer_all()
        old = self.gateway
        self.note()
        # whoever waited hears nothing more; those that were held by an exclusive handler were never recorded
        self.callers.clear()
        old.respond = act
        self.gateway = self.run(restart(old))
        self.run(asyncio.sleep(0))

    def note(self) -> None:
        for key, callers in self.callers.items():
            for caller in callers:
                for answer in caller.answers:
                    if not isinstance(answer, Refused):
                        # everybody who asks under the key hears the same, for ever
                        assert self.ended.setdefault(key, answer) == answer

    @invariant()
    def answers_are_given_once_and_are_the_same_for_all(self) -> None:
        assert all(len(caller.answers) <= 1 for callers in self.callers.values() for caller in callers)
        self.note()

    @invariant()
    def nothing_that_has_an_answer_waits(self) -> None:
        suspensions = self.gateway.kernel.suspensions
        assert suspensions.count == len(self.waiting)
        assert (suspensions.resuming.active, suspensions.resuming.ready) == (0, 0)
        sizes = [suspension.image_bytes for suspension in self.waiting]
        assert suspensions.images.total == sum(sizes)
        for resident in self.gateway.kernel.residents:
            assert resident.held == type(resident.held)() or resident.holder is not None
            for suspension in resident.waiting.values():
                assert not suspension.running
                if resident.holder in (None, suspension):
                    assert not suspension.answers
        assert self.gateway.kernel.unanswered == 0

    def teardown(self) -> None:
        for _ in range(40):
            if not self.waiting:
                break
            self.answer_all()
            self.pass_time(60)
        assert self.waiting == []
        for callers in self.callers.values():
            assert all(len(caller.answers) == 1 for caller in callers)
        self.note()
        for key in list(self.asked):
            self.ask_again(int(key[1:]))
        self.note()
        self.effects_are_those_of_the_answers()
        self.gateway.dead = True
        self.bound.stop()
        self.time.stop()
        self.runner.close()

    def effects_are_those_of_the_answers(self) -> None:
        states = {
            resident.panel.id: self.gateway.state(resident) for resident in self.gateway.kernel.residents
        }
        for key, answer in self.ended.items():
            name, _, _ = self.asked[key]
            number = int(key[1:])
            assert isinstance(answer, Succeeded | Failure)
            assert (f"end{number}" in states[name]) == isinstance(answer, Succeeded)
            if isinstance(answer, Succeeded):
                given = [call for call, _, _ in json.loads(answer.outcome.return_value)]
                assert len(given) == len(set(given))


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
