"""The core against a model of the gateway, over a network that cuts, stalls and delivers what is dead."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from panels_client.calls import Result
from panels_client.core import Phase
from panels_client.errors import OutcomeUnknownError
from panels_client.instructions import Connect, Drop, Happened, Instruction, Noticed, Send
from tests.clients.python.driving import Driver
from tests.clients.python.model import ModelServer


class ClientMeetsGateway(RuleBasedStateMachine):
    """``up`` and ``down`` are under way on the connection; ``graves`` were, on those that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer(kept=6)
        self.driver = Driver()
        self.up: deque[str] = deque()
        self.down: deque[str] = deque()
        self.connected = False
        self.graves: list[tuple[int, str]] = []
        self.keys: list[str] = []
        self.told: list[tuple[int, int]] = []
        self.unbroken = True
        self.lost_history = False

    # -- the network ---------------------------------------------------------------------------------

    def act(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            if isinstance(each, Send):
                self.up.append(each.text)
            elif isinstance(each, Drop):
                self.bury()
            elif isinstance(each, Noticed):
                self.unbroken = self.unbroken and each.notice.kind == "recovered"
            elif isinstance(each, Happened):
                self.happened(each)
            elif isinstance(each, Connect):
                assert not self.connected

    def happened(self, each: Happened) -> None:
        place = 2 * each.event.seq + each.event.payload - 2
        incarnation = self.server.incarnation
        if self.told and self.told[-1][0] == incarnation:
            if self.unbroken:
                assert place == self.told[-1][1] + 1, "an event was missed or told twice"
            assert place > self.told[-1][1], "an event was told twice"
        self.told.append((incarnation, place))
        self.unbroken = True

    def bury(self) -> None:
        self.graves.extend((self.driver.core.flow, frame) for frame in self.down)
        del self.graves[:-50]
        self.up.clear()
        self.down.clear()
        self.connected = False

    def cut(self, code: int | None) -> None:
        flow = self.driver.core.flow
        self.bury()
        self.act(self.driver.take(self.driver.core.lost(flow, code, "cut", self.driver.now)))

    def serve(self) -> None:
        text = self.up.popleft()
        if json.loads(text)["type"] == "PING":
            self.down.append('{"type":"PONG"}')
        else:
            self.down.extend(self.server.trigger(text))

    # -- rules ---------------------------------------------------------------------------------------

    @rule(amount=st.integers(1, 3), expects=st.booleans())
    def call(self, amount: int, expects: bool) -> None:
        before = len(self.driver.done)
        guess = {"n": self.driver.core.replica.view.shown.get("n", 0) + amount} if expects else None
        self.keys.append(self.driver.call("add", amount, expects=guess))
        self.act(self.driver.done[before:])

    @precondition(lambda self: self.driver.core.phase is Phase.WAITING)
    @rule()
    def attempt(self) -> None:
        self.act(self.driver.wake())

    @precondition(lambda self: self.driver.core.phase is Phase.CONNECTING)
    @rule(status=st.sampled_from([101, 101, 101, 429, 503, None]))
    def upgrade(self, status: int | None) -> None:
        core, flow, now = self.driver.core, self.driver.core.flow, self.driver.now
        if status == 101:
            asks = self.driver.of(Connect)[-1].asks
            self.act(self.driver.take(core.opened(flow, now)))
            self.down.extend(self.server.connect(asks))
            self.connected = True
        elif status is None:
            self.act(self.driver.take(core.lost(flow, None, "refused", now)))
        else:
            self.act(self.driver.take(core.refused(flow, status, "", now)))

    @precondition(lambda self: self.connected and self.down)
    @rule(count=st.integers(1, 4))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.down))):
            if self.connected and self.down:
                self.hear(self.down.popleft())

    def hear(self, frame: str) -> None:
        core = self.driver.core
        self.act(self.driver.take(core.heard(core.flow, frame, self.driver.now)))

    @precondition(lambda self: self.connected and self.up)
    @rule()
    def take(self) -> None:
        self.serve()

    @rule(amount=st.integers(1, 3))
    def somebody_else_commits(self, amount: int) -> None:
        unit = self.server.commit("other", amount)
        if self.connected:
            self.down.extend(json.dumps(each) for each in unit)

    @precondition(lambda self: self.connected)
    @rule(code=st.sampled_from([None, 1001, 1006, 1012, 1013]))
    def cut_it(self, code: int | None) -> None:
        self.cut(code)

    @precondition(lambda self: self.connected and self.up)
    @rule()
    def cut_behind_a_trigger(self) -> None:
        """It runs, and nobody hears of it."""
        self.serve()
        self.cut(None)

    @precondition(lambda self: self.connected and self.up)
    @rule()
    def lose_history_behind_a_trigger(self) -> None:
        """It ran in a panel that is gone: it must not run in the next one."""
        self.serve()
        self.restart_without_history()

    @precondition(lambda self: self.connected)
    @rule(frame=st.sampled_from(["", "{}", '{"type":"PATCH","seq":0,"mutations":[]}', "[1]"]))
    def lie(self, frame: str) -> None:
        self.hear(frame)

    @precondition(lambda self: self.graves)
    @rule(data=st.data())
    def deliver_what_is_dead(self, data: st.DataObject) -> None:
        flow, frame = data.draw(st.sampled_from(self.graves))
        core = self.driver.core
        if flow != core.flow or not self.connected:
            before = dict(core.replica.view.base), core.replica.position, core.phase
            assert core.heard(flow, frame, self.driver.now) == []
            assert core.lost(flow, 4404, "", self.driver.now) == [] or flow == core.flow
            assert (dict(core.replica.view.base), core.replica.position, core.phase) == before

    @rule()
    def restart_without_history(self) -> None:
        self.server.lose_history()
        self.lost_history = True
        if self.connected:
            self.cut(1006)

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.act(self.driver.tick(seconds))

    # -- what must be true ---------------------------------------------------------------------------

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert len(self.server.ran) == len(set(self.server.ran))

    @invariant()
    def position_and_state_agree(self) -> None:
        replica = self.driver.core.replica
        if replica.epoch == self.server.epoch and not replica.void:
            # of a unit that has begun, the state has the PATCH already, also once it was cut off
            states = self.server.states[replica.position : replica.position + 2]
            assert dict(replica.view.base) in states

    @invariant()
    def the_client_lives(self) -> None:
        assert self.driver.core.status != "closed"

    def teardown(self) -> None:
        core = self.driver.core
        for _ in range(1_000):
            if core.phase is Phase.WAITING:
                self.attempt()
            elif core.phase is Phase.CONNECTING:
                self.upgrade(101)
            elif self.down:
                self.deliver(1)
            elif self.up:
                self.take()
            else:
                break
        outcomes: dict[str, Any] = self.driver.outcomes()
        self.nothing_runs_twice()
        assert core.status == "live"
        assert dict(core.replica.view.shown) == self.server.state
        assert (core.replica.position, core.pending()) == (self.server.seq, ())
        assert sorted(outcomes) == sorted(self.keys)
        for key, outcome in outcomes.items():
            if isinstance(outcome, Result):
                assert key in self.server.ran
            else:
                assert isinstance(outcome, OutcomeUnknownError)
                assert self.lost_history


TestClientMeetsGateway = ClientMeetsGateway.TestCase
TestClientMeetsGateway.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
