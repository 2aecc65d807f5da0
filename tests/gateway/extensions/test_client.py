"""The client and real extension processes: calls, crashes, hangs and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from panels_gateway.extensions.calls import CallLimits, Calls
from panels_gateway.extensions.client import ClientState, ExtensionClient, Heartbeat
from panels_gateway.extensions.config import ExtensionsConfig, HttpConfig
from panels_gateway.extensions.errors import ErrorCode, ExtensionConfigError
from panels_gateway.extensions.messages import CallId, Returned, Verdict
from panels_shared import jsonvalue
from panels_shared.restart import RestartPolicy
from tests.gateway.extensions.builders import a_call
from tests.gateway.extensions.servers import Exchange, serving

HERE = str(Path(__file__).parent)
CONFIG = ExtensionsConfig(
    extensions=["samples:Sample"], entry_points=False, path=[HERE], settings={"sample": {"a": 1}}
)
POLICY = RestartPolicy(initial_s=0.01, maximum_s=0.02, stable_after_s=5.0, prompt=False)


class Kernel:
    """Keeps answers, and can wait for the one to a call."""

    def __init__(self) -> None:
        self.answers: dict[str, Returned] = {}
        self._arrived = asyncio.Event()
        self.count = 0

    def take(self, returned: Returned) -> None:
        assert returned.id not in self.answers
        self.answers[returned.id] = returned
        self._arrived.set()

    async def answer(
        self, client: ExtensionClient, name: str, arguments: bytes = b"[]", **fields: str
    ) -> Returned:
        self.count += 1
        call_id = f"call-{self.count}"
        client.call(a_call(call_id, arguments, **{"extension": "sample", "method": name, **fields}))
        return await self.wait_for(call_id)

    async def wait_for(self, call_id: str) -> Returned:
        while call_id not in self.answers:
            self._arrived.clear()
            await self._arrived.wait()
        return self.answers[call_id]


def play(
    scenario: Callable[[ExtensionClient, Kernel], Awaitable[None]],
    config: ExtensionsConfig = CONFIG,
    **options: Any,
) -> None:
    """Runs ``scenario`` with a client that has started."""

    async def run() -> None:
        kernel = Kernel()
        client = ExtensionClient(config, kernel.take, policy=POLICY, **options)
        try:
            await client.start()
            await scenario(client, kernel)
        finally:
            await client.stop()

    asyncio.run(run())


def value(returned: Returned) -> Any:
    assert returned.result is not None, returned.error
    return jsonvalue.decode(returned.result)


def code(returned: Returned) -> tuple[ErrorCode, bool]:
    assert returned.error is not None
    return returned.error.code, returned.error.repeatable


async def until_restarted(client: ExtensionClient, kernel: Kernel) -> None:
    """A call waits for the next process, so that its answer says that there is one."""
    assert value(await kernel.answer(client, "echo", b"[1]")) == 1


def test_call_is_answered_by_another_process() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        assert client.state is ClientState.READY
        assert client.pid not in (None, os.getpid())
        assert client.repeatable("http", "get") is True
        assert client.repeatable("http", "post") is False
        assert client.repeatable("http", "nope") is None
        assert value(await kernel.answer(client, "echo", b'["x"]')) == "x"
        assert code(await kernel.answer(client, "breaks")) == (ErrorCode.FAILED, False)
        assert code(await kernel.answer(client, "nope")) == (ErrorCode.METHOD_UNKNOWN, False)
        assert code(await kernel.answer(client, "echo", extension="nope")) == (ErrorCode.UNKNOWN, False)
        assert client.open_calls == 0

    play(scenario)


def test_process_knows_nothing_of_the_gateways_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANELS_KEY", "canary")

    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        seen = value(await kernel.answer(client, "surroundings"))
        assert seen["folder"] == "/"
        assert seen["settings"] == {"a": 1}
        assert "canary" not in str(seen)
        assert set(seen["environment"]) <= {"LANG", "PATH", "LC_CTYPE"}

    play(scenario)


def test_call_that_runs_is_lost_when_the_process_is_killed() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        client.call(a_call("again", extension="sample", method="hangs"))
        client.call(a_call("once", extension="sample", method="hangs_once"))
        assert client.pid
        os.kill(client.pid, signal.SIGKILL)
        assert code(await kernel.wait_for("again")) == (ErrorCode.LOST, True)
        assert code(await kernel.wait_for("once")) == (ErrorCode.LOST, False)
        await until_restarted(client, kernel)

    play(scenario)


def test_process_that_crashes_by_a_call_is_started_again() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        first = client.pid
        assert code(await kernel.answer(client, "crashes")) == (ErrorCode.LOST, False)
        await until_restarted(client, kernel)
        assert client.pid != first

    play(scenario)


def test_restart_loses_what_runs() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        client.call(a_call("hangs", extension="sample", method="hangs"))
        client.restart()
        assert code(await kernel.wait_for("hangs")) == (ErrorCode.LOST, True)
        await until_restarted(client, kernel)

    play(scenario)


def test_process_that_is_stopped_is_replaced() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        client.call(a_call("hangs", extension="sample", method="hangs"))
        assert client.pid
        os.kill(client.pid, signal.SIGSTOP)
        assert code(await kernel.wait_for("hangs")) == (ErrorCode.LOST, True)
        await until_restarted(client, kernel)

    play(scenario, heartbeat=Heartbeat(interval_s=0.1, misses=10))


def test_process_whose_event_loop_is_blocked_is_replaced() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        assert code(await kernel.answer(client, "blocks")) == (ErrorCode.LOST, True)
        await until_restarted(client, kernel)

    play(scenario, heartbeat=Heartbeat(interval_s=0.1, misses=10))


def test_cancelled_call_is_answered_and_frees_its_slot_in_the_process() -> None:
    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        client.call(a_call("hangs", extension="sample", method="hangs"))
        client.cancel(CallId("hangs"))
        assert code(await kernel.wait_for("hangs")) == (ErrorCode.CANCELLED, False)
        assert value(await kernel.answer(client, "echo", b"[1]")) == 1
        assert client.open_calls == 0

    play(scenario, calls=Calls(CallLimits(running=1)))


def test_call_from_within_an_answer_is_made() -> None:
    async def run() -> None:
        kernel = Kernel()

        def take(returned: Returned) -> None:
            kernel.take(returned)
            if returned.id == "first":
                client.call(a_call("second", b"[2]", extension="sample", method="echo"))
                raise RuntimeError("a defect of the kernel")

        client = ExtensionClient(CONFIG, take, policy=POLICY)
        client.call(a_call("first", b"[1]", extension="sample", method="echo"))
        try:
            await client.start()
            assert value(await kernel.wait_for("second")) == 2
        finally:
            await client.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    "config",
    [
        ExtensionsConfig(extensions=["no_such_module:X"], entry_points=False),
        ExtensionsConfig(extensions=["samples:Failing"], entry_points=False, path=[HERE]),
        ExtensionsConfig(entry_points=False, settings={"nobody": {}}),
        ExtensionsConfig(entry_points=False, http=HttpConfig(allow=["everything"])),
        ExtensionsConfig(entry_points=False, log_level="loud"),
    ],
    ids=["module", "startup", "settings", "allow", "level"],
)
def test_configuration_that_cannot_be_used_ends_the_restarts(config: ExtensionsConfig) -> None:
    async def run() -> None:
        kernel = Kernel()
        client = ExtensionClient(config, kernel.take, policy=POLICY)
        client.call(a_call("early"))
        with pytest.raises(ExtensionConfigError):
            await client.start()
        assert client.state is ClientState.FAILED
        assert code(await kernel.wait_for("early")) == (ErrorCode.UNAVAILABLE, False)
        assert code(await kernel.answer(client, "echo")) == (ErrorCode.UNAVAILABLE, False)
        await client.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    "script",
    ["import os, sys; os.write(int(sys.argv[1]), bytes([255] * 100))", "raise SystemExit(1)"],
    ids=["garbage", "exit"],
)
def test_process_that_is_no_extension_process_is_started_again(script: str) -> None:
    async def run() -> None:
        kernel = Kernel()
        calls = Calls(CallLimits(wait_s=1.0))
        command = (sys.executable, "-c", script)
        client = ExtensionClient(CONFIG, kernel.take, calls=calls, policy=POLICY, command=command)
        starting = asyncio.create_task(client.start())
        assert code(await kernel.answer(client, "echo")) == (ErrorCode.UNAVAILABLE, False)
        assert client.state is ClientState.STARTING
        await client.stop()
        await starting

    asyncio.run(run())


def test_process_ends_with_the_client_and_answers_nothing_more() -> None:
    pids: list[int] = []
    kernels: list[Kernel] = []

    async def scenario(client: ExtensionClient, kernel: Kernel) -> None:
        client.call(a_call("hangs", extension="sample", method="hangs"))
        assert client.pid
        pids.append(client.pid)
        kernels.append(kernel)

    play(scenario)

    assert kernels[0].answers == {}
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_http_is_fetched_by_the_process_with_a_ledger() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.answer(b'{"a":1}', kind="application/json")

    async def run() -> None:
        async with serving(respond) as world:
            kernel = Kernel()
            config = ExtensionsConfig(entry_points=False, http=HttpConfig(allow=["http://127.0.0.0/8:*"]))
            client = ExtensionClient(config, kernel.take, policy=POLICY)
            try:
                await client.start()
                arguments = jsonvalue.encode([world.url()])
                returned = await kernel.answer(client, "get", arguments, extension="http")
                assert value(returned)["data"] == {"a": 1}
                assert [entry.verdict for entry in returned.ledger] == [Verdict.OK]
                denied = await kernel.answer(client, "get", b'["https://example.com/"]', extension="http")
                assert code(denied) == (ErrorCode.DENIED, False)
                assert [entry.verdict for entry in denied.ledger] == [Verdict.DENIED]
            finally:
                await client.stop()

    asyncio.run(run())
