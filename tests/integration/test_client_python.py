"""The client in Python against a real gateway that is killed and restarted while calls are under way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from panels_client import CallError, ClosedError, Options, OutcomeUnknownError, connect
from panels_client import sync as panels_sync
from tests.integration.conftest import MakeSystem
from tests.support.system import System

FAST = Options(backoff_initial_s=0.02, backoff_max_s=0.2, proxy=None)
ADD = """\
const n = ($state.get("n") ?? 0) + 1;
$state.set("n", n);
$state.set("by:" + $args.name, n);
$emit("added", $args.name);
return n;
"""
TOOLS = ({"name": "add", "handler": ADD}, {"name": "fail", "handler": 'throw new Error("no")'})
ASK = {"name": "ask", "handler": 'return await $ext.human.ask("how many?")', "capabilities": ["ext:human"]}


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not look():  # noqa: ASYNC110 - what is looked at has no event of its own
            await asyncio.sleep(0.002)


def test_client_calls_hears_and_is_told_of_errors(system: System) -> None:
    panel_id = system.make_panel(*TOOLS)

    async def whole() -> None:
        async with connect(system.url, panel=panel_id, token=system.token(), options=FAST) as panel:
            events = panel.events("added")
            result = await panel.call("add", {"name": "a"}, optimistic={"n": 1})
            assert (result.value, result.seq, dict(panel.state)) == (1, 1, {"n": 1, "by:a": 1})
            assert (await anext(events)).payload == "a"
            with pytest.raises(CallError, match="EXECUTION_ERROR") as caught:
                await panel.call("fail")
            assert caught.value.ran
            with pytest.raises(CallError, match="TOOL_NOT_FOUND"):
                await panel.call("nothing")

    asyncio.run(whole())


def test_client_answers_a_handler_that_waits(system: System) -> None:
    panel_id = system.make_panel(ASK)

    async def whole() -> None:
        async with connect(system.url, panel=panel_id, token=system.token(), options=FAST) as panel:
            answers: list[asyncio.Future[None]] = []
            calling = asyncio.ensure_future(
                panel.call(
                    "ask",
                    on_progress=lambda told: answers.append(
                        asyncio.ensure_future(panel.answer(told.suspension_id, 3))
                    ),
                )
            )
            assert (await calling).value == 3
            await answers[0]

    asyncio.run(whole())


def test_deleted_panel_ends_the_client(system: System) -> None:
    panel_id = system.make_panel(*TOOLS)

    async def whole() -> None:
        async with connect(system.url, panel=panel_id, token=system.token(), options=FAST) as panel:
            await asyncio.to_thread(system.http.delete, f"/panels/{panel_id}")
            await until(lambda: panel.status == "closed")
            with pytest.raises(ClosedError, match="panel_deleted"):
                await panel.call("add", {"name": "a"})
        with pytest.raises(ClosedError, match="panel_not_found"):
            async with connect(system.url, panel=panel_id, token=system.token(), options=FAST):
                pass

    asyncio.run(whole())


def test_replaced_panel_keeps_its_clients_and_answers_what_waits(system: System) -> None:
    panel_id = system.make_panel(ASK, *TOOLS)

    async def whole() -> None:
        async with connect(system.url, panel=panel_id, token=system.token(), options=FAST) as panel:
            waiting = asyncio.Event()
            calling = asyncio.ensure_future(panel.call("ask", on_progress=lambda _: waiting.set()))
            await waiting.wait()
            definition = {"id": panel_id, "kind": "test", "tools": [], "initialState": {"new": 1}}
            answer = await asyncio.to_thread(system.http.put, f"/panels/{panel_id}", json=definition)
            assert answer.is_success, answer.text
            await until(lambda: dict(panel.state) == {"new": 1})
            with pytest.raises(CallError, match="TOOL_NOT_FOUND"):
                await panel.call("add", {"name": "a"})
            with pytest.raises(CallError, match="EXECUTION_ERROR"):
                await calling
            assert panel.status == "live"

    asyncio.run(whole())


def test_token_that_is_not_good_ends_the_client(system: System) -> None:
    panel_id = system.make_panel(*TOOLS)

    async def whole(token: str) -> None:
        async with connect(system.url, panel=panel_id, token=token, options=FAST):
            pass

    with pytest.raises(ClosedError, match="unauthorized"):
        asyncio.run(whole("wrong"))
    with pytest.raises(ClosedError, match="forbidden"):
        asyncio.run(whole(system.token(grants=[("elsewhere", ["read"])])))


def test_script_calls_without_async(system: System) -> None:
    panel_id = system.make_panel(*TOOLS)
    with panels_sync.connect(system.url, panel=panel_id, token=system.token(), options=FAST) as panel:
        assert panel.call("add", {"name": "a"}).value == 1
        assert panel.state == {"n": 1, "by:a": 1}


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_no_call_is_lost_and_none_runs_twice_while_the_gateway_is_killed(make_system: MakeSystem) -> None:
    system = make_system()
    panel_id = system.make_panel(*TOOLS)
    token, calls, kills = system.token(), 200, 3

    async def whole() -> None:
        async with connect(system.url, panel=panel_id, token=token, options=FAST) as panel:
            heard: list[str] = []
            notices: list[str] = []
            panel.on("added", lambda event: heard.append(event.payload))
            panel.on_notice(lambda notice: notices.append(notice.kind))
            answered: dict[str, int] = {}

            async def caller(first: int) -> None:
                for number in range(first, calls, 8):
                    name = f"c{number}"
                    while name not in answered:
                        try:
                            result = await panel.call("add", {"name": name}, timeout=None)
                        except CallError as exc:
                            # no worker is there yet: a refusal of what was sent once ran nowhere
                            assert (exc.code, exc.ran) == ("UNAVAILABLE", False)
                            await asyncio.sleep(0.05)
                        else:
                            answered[name] = result.value

            callers = [asyncio.ensure_future(caller(first)) for first in range(8)]
            for kill in range(1, kills + 1):
                await until(lambda kill=kill: len(answered) > kill * calls // (kills + 2))  # type: ignore[misc]
                await asyncio.to_thread(system.the_gateway().kill)
                await asyncio.to_thread(system.start_gateway)
            await asyncio.gather(*callers)
            await until(lambda: panel.state.get("n") == calls)
            assert sorted(answered.values()) == list(range(1, calls + 1))
            assert all(panel.state[f"by:{name}"] == n for name, n in answered.items())
            assert sorted(heard) == sorted(answered)
            assert set(notices) == {"recovered"}
            assert panel.pending == ()
            # a gateway dies with the thread that started it, so that it is asked before the loop ends
            assert (await asyncio.to_thread(system.state, panel_id))["n"] == calls

    asyncio.run(whole())


def test_calls_to_a_panel_that_was_made_anew_meanwhile_are_not_made_there(make_system: MakeSystem) -> None:
    system = make_system()
    panel_id = system.make_panel(ASK, state={"old": 1})

    async def whole() -> None:
        async with connect(system.url, panel=panel_id, token=system.token(), options=FAST) as panel:
            waiting = asyncio.Event()
            notices: list[str] = []
            panel.on_notice(lambda notice: notices.append(notice.kind))
            calling = asyncio.ensure_future(panel.call("ask", on_progress=lambda _: waiting.set()))
            await waiting.wait()
            await asyncio.to_thread(system.the_gateway().kill)
            for path in sorted((system.folder / "data").rglob("*")):
                if path.is_file():
                    path.unlink()
            await asyncio.to_thread(system.start_gateway)
            with contextlib.suppress(ClosedError):
                await asyncio.to_thread(system.make_panel, ASK, state={"new": 1}, panel_id=panel_id)
            with pytest.raises((OutcomeUnknownError, ClosedError)):
                await calling

    asyncio.run(whole())


def test_programs_of_the_readme_run_as_printed(make_system: MakeSystem) -> None:
    system = make_system(auth=False)
    tool = {"name": "add", "handler": "$state.n = ($state.n ?? 0) + $args.by; return $state.n;"}
    system.make_panel(tool, panel_id="counter")
    text = (Path(__file__).parents[2] / "clients" / "python" / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert program(first, system.url) == "n: None -> 2\nreturned 2 and the state is {'n': 2}\n"
    assert program(second, system.url) == "4 {'n': 4}\n"


def program(text: str, url: str) -> str:
    done = subprocess.run([sys.executable, "-c", text, url], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout
