"""Each trigger is answered once, and whoever came under the same key with it."""

from __future__ import annotations

import json

import pytest

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.journal.records import Ran
from panels_gateway.kernel.answering import Answering, answer_of
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.trigger import Failure, Refused, Succeeded, Trigger
from panels_shared.errors import Code
from panels_shared.outcome import Completed, Failed, Reason, Usage
from tests.support.gateway import Caller, Gateway, completed

pytestmark = pytest.mark.anyio

REFUSED = Refused(Code.OVERLOADED, "full")
DONE = Succeeded(Completed(Usage()), 3, 1, 2)


class World:
    """The answering of a gateway with one panel, and triggers that were never submitted."""

    def __init__(self, gateway: Gateway, resident: Resident) -> None:
        self.gateway = gateway
        self.resident = resident
        self.answering = Answering(gateway.kernel.residents, gateway.kernel.counters)

    def trigger(self, caller: Caller, key: str | None = "k") -> Trigger:
        return self.gateway.kernel.intake.accept(caller, self.resident.panel, "t", b"1", ANONYMOUS, None, key)

    def begin(self, caller: Caller, *followers: Caller) -> Trigger:
        trigger = self.trigger(caller)
        assert trigger.key is not None
        self.resident.answers.begin(trigger.key)
        running = self.resident.answers.look(trigger.key, 0)
        getattr(running, "followers", []).extend(self.trigger(follower) for follower in followers)
        return trigger


def record_of(trigger: Trigger, outcome: Completed | Failed, seq: int = 0) -> Ran:
    return Ran(1, seq, 0, "t", b"d", trigger.args, trigger.scope, 0.0, 0, outcome, 1, 2, trigger.key)


async def make_world() -> World:
    gateway = Gateway()
    return World(gateway, await gateway.add())


async def test_settle_answers_the_trigger_and_its_followers_once() -> None:
    world = await make_world()
    first, second = Caller(), Caller()
    trigger = world.begin(first, second)
    world.answering.settle(trigger, DONE, record_of(trigger, DONE.outcome, 3), world.resident)
    assert first.answers == second.answers == [DONE]
    assert world.resident.answers.running == 0
    assert world.gateway.kernel.counters.joined == 1


@pytest.mark.parametrize("key", [None, "k"])
async def test_settle_without_key_or_record_answers_the_trigger_alone(key: str | None) -> None:
    world = await make_world()
    caller = Caller()
    world.answering.settle(world.trigger(caller, key), DONE, None, world.resident)
    assert caller.answers == [DONE]
    assert len(world.resident.answers) == 0


async def test_refuse_frees_the_key_and_refuses_its_followers() -> None:
    world = await make_world()
    first, second = Caller(), Caller()
    world.answering.refuse(world.begin(first, second), REFUSED)
    assert first.answers == second.answers == [REFUSED]
    assert (world.resident.answers.running, len(world.resident.answers)) == (0, 0)


async def test_refuse_answers_a_trigger_without_key_or_panel() -> None:
    world = await make_world()
    caller = Caller()
    world.answering.refuse(world.trigger(caller, None), REFUSED)
    trigger = world.trigger(caller)
    world.gateway.kernel.making.delete(world.resident)
    world.answering.refuse(trigger, REFUSED)
    assert caller.answers == [REFUSED, REFUSED]


async def test_repeat_gives_the_recorded_answer() -> None:
    world = await make_world()
    caller = Caller()
    trigger = world.trigger(caller)
    world.answering.repeat(trigger, record_of(trigger, DONE.outcome, 3))
    assert caller.answers == [DONE]
    assert world.gateway.kernel.counters.repeated == 1


async def test_answer_of_a_record_tells_the_panel_s_version_where_it_made_none() -> None:
    world = await make_world()
    trigger = world.trigger(Caller())
    assert answer_of(record_of(trigger, DONE.outcome, 3), 9, "ada") == DONE
    told = answer_of(record_of(trigger, DONE.outcome), 9, "ada")
    assert isinstance(told, Succeeded)
    assert told.seq == 9
    failed = Failed(Usage(), Reason.TIMEOUT, "no")
    assert answer_of(record_of(trigger, failed), 9, "ada") == Failure(failed)


@pytest.mark.parametrize(("subject", "heard"), [("ada", ["e", "f"]), ("bob", ["f"]), ("", ["f"])])
async def test_answer_has_no_event_that_is_for_another_subject(subject: str, heard: list[str]) -> None:
    world = await make_world()
    outcome = completed(events={"e": {"to": 1}, "f": {"to": "ada"}}, to={"e": "ada"})
    answer = answer_of(record_of(world.trigger(Caller()), outcome, 3), 9, subject)
    assert isinstance(answer, Succeeded)
    assert [json.loads(event)["name"] for event in answer.outcome.events] == heard
