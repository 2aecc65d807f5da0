"""What happens to triggers, state and order when processes are killed, stopped and started in any order."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import websockets

from tests.integration.conftest import MakeSystem
from tests.integration.guests import (
    code,
    counter,
    emit,
    emit_args,
    returns,
    returns_args,
    set_from_args,
    set_key,
    spins,
    tool,
    traps,
)
from tests.support.clients import Message
from tests.support.system import System, eventually

SLOW = tool("slow", spins(), limits={"fuel": 10**10, "timeoutMs": 400})


@dataclass
class Record:
    """What one client sent and heard."""

    sent: list[str] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    patches: list[Message] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        """What its triggers returned."""
        return [answer["result"]["returnValue"] for answer in self.answers if answer["type"] == "RESULT"]

    def check_answered_once(self) -> None:
        """Fails the test unless each trigger has one answer, in the order of the triggers."""
        assert [answer.get("requestId") for answer in self.answers] == self.sent


async def press(
    system: System,
    panel: str,
    *,
    triggers: int,
    window: int,
    name: str,
    tool_name: str = "count",
    until: asyncio.Event | None = None,
) -> Record:
    """A client that sends ``triggers`` triggers, ``window`` at a time (or until told to
    stop), and hears all answers.
    """
    record = Record()
    url = f"{system.socket_url(panel)}?token={system.token()}"
    async with websockets.connect(
        url, compression=None, proxy=None, ping_timeout=60, max_queue=None
    ) as socket:

        async def send() -> None:
            request_id = f"{name}-{len(record.sent)}"
            record.sent.append(request_id)
            await socket.send(json.dumps({"type": "TRIGGER", "tool": tool_name, "requestId": request_id}))

        def more() -> bool:
            return len(record.sent) < triggers and not (until is not None and until.is_set())

        for _ in range(window):
            if more():
                await send()
        while len(record.answers) < len(record.sent):
            async with asyncio.timeout(30):
                message = json.loads(await socket.recv())
            if message["type"] == "PATCH":
                record.patches.append(message)
            elif message["type"] in ("RESULT", "ERROR"):
                record.answers.append(message)
                if more():
                    await send()
    return record


def run_clients(system: System, panel: str, *, clients: int, triggers: int, window: int) -> list[Record]:
    """Many of them at once."""

    async def all_of_them() -> list[Record]:
        pressing = (
            press(system, panel, triggers=triggers, window=window, name=f"c{number}")
            for number in range(clients)
        )
        return list(await asyncio.gather(*pressing))

    return asyncio.run(all_of_them())


def check_counted(system: System, panel: str, records: list[Record], *, failed: int = 0) -> int:
    """Fails the test unless the records are those of a counter that lost nothing; how often it counted."""
    values = [value for record in records for value in record.values]
    for record in records:
        record.check_answered_once()
        assert record.values == sorted(record.values), "a client's triggers run in order"
        seqs = [patch["seq"] for patch in record.patches]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "versions without gaps"
        for patch in record.patches:
            assert patch["mutations"] == [{"op": "set", "key": "count", "value": patch["seq"]}]
    assert sorted(values) == list(range(1, len(values) + 1)), "no update is lost, and none happens twice"
    assert sum(len(record.sent) for record in records) - len(values) == failed
    assert system.state(panel) == {"count": len(values)}
    assert system.seq(panel) == len(values)
    return len(values)


# -- order and atomicity -----------------------------------------------------------------------------


def test_no_update_is_lost_when_many_clients_trigger_at_once(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    records = run_clients(system, panel, clients=20, triggers=50, window=8)

    assert check_counted(system, panel, records) == 1_000


def test_panels_do_not_mix(system: System) -> None:
    panels = [system.make_panel(counter(), state={"count": 0}) for _ in range(12)]

    async def press_all() -> list[Record]:
        pressing = [press(system, panel, triggers=60, window=6, name=panel) for panel in panels]
        return list(await asyncio.gather(*pressing))

    for panel, record in zip(panels, asyncio.run(press_all()), strict=True):
        assert check_counted(system, panel, [record]) == 60


def test_watchers_can_rebuild_the_state_from_patches(system: System) -> None:
    panel = system.make_panel(
        counter(),
        tool("last", set_from_args("last")),
        tool("drop", code(""), set_key("last", None)),
        state={"count": 0},
    )
    with system.connect(panel) as caller, system.connect(panel) as watcher:
        for number in range(50):
            caller.send_trigger("count")
            caller.send_trigger("last", {"n": number})
        final = caller.send_trigger("drop")
        caller.await_answer(final)
        state, seq = dict(watcher.hello["state"]), watcher.hello["seq"]
        for message in watcher.barrier():
            if message["type"] == "PATCH":
                assert message["seq"] == seq + 1
                seq = message["seq"]
                for mutation in message["mutations"]:
                    if mutation["op"] == "set":
                        state[mutation["key"]] = mutation["value"]
                    else:
                        del state[mutation["key"]]
    assert state == system.state(panel)
    assert seq == system.seq(panel)


def test_client_that_joins_under_load_misses_nothing(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    stop = threading.Event()

    def load() -> None:
        with system.connect(panel) as client:
            while not stop.is_set():
                client.call("count")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(20):
            with system.connect(panel) as late:
                patch = late.receive_type("PATCH")
                assert late.hello["state"]["count"] == late.hello["seq"]
                assert patch["seq"] == late.hello["seq"] + 1
    finally:
        stop.set()
        thread.join()


def test_handler_that_changes_and_then_traps_changes_nothing(system: System) -> None:
    panel = system.make_panel(
        counter(),
        tool("break", set_key("count", 1_000), emit("broken"), returns(1), traps()),
        state={"count": 0},
    )
    with system.connect(panel) as client, system.connect(panel) as watcher:
        sent = [client.send_trigger(name) for name in ["count", "break"] * 9]
        answers = [client.receive_until(lambda m: m["type"] in ("RESULT", "ERROR"))[-1] for _ in sent]
        heard = watcher.barrier()

    assert [answer["requestId"] for answer in answers] == sent
    assert [a["result"]["returnValue"] for a in answers if a["type"] == "RESULT"] == list(range(1, 10))
    assert Counter(a["type"] for a in answers) == {"RESULT": 9, "ERROR": 9}
    assert Counter(message["type"] for message in heard) == {"PATCH": 9, "EVENT": 9}
    assert system.state(panel) == {"count": 9}
    assert system.seq(panel) == 9


def test_hot_panel_lets_another_ones_trigger_through(system: System) -> None:
    hot = system.make_panel(tool("work", spins(100_000)))
    cold = system.make_panel(counter())
    with system.connect(hot) as busy, system.connect(cold) as lone:
        lone.call("count")
        last = ""
        for _ in range(250):
            last = busy.send_trigger("work")
        started = time.monotonic()
        lone.call("count")
        assert time.monotonic() - started < 0.5
        assert busy.await_answer(last).value is None


# -- workers that die --------------------------------------------------------------------------------


def killing(
    system: System, panel: str, kill: Callable[[], object], *, times: int, commits: int = 60
) -> list[Record]:
    """Clients under load while ``kill`` is called ``times`` times, each after ``commits`` more versions."""

    async def run() -> list[Record]:
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(press(system, panel, triggers=10**6, window=8, name=f"c{number}", until=stop))
            for number in range(4)
        ]

        async def more_commits() -> None:
            target = system.seq(panel) + commits
            await asyncio.to_thread(
                eventually, lambda: system.seq(panel) >= target, within_s=40, what="more commits"
            )

        for _ in range(times):
            await more_commits()
            await asyncio.to_thread(kill)
        await more_commits()
        stop.set()
        return list(await asyncio.gather(*clients))

    return asyncio.run(run())


def lost(records: list[Record]) -> list[Message]:
    return [answer for record in records for answer in record.answers if answer["type"] == "ERROR"]


def test_killed_sandboxes_under_load_lose_nothing(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    panel = system.make_panel(counter(), state={"count": 0})
    victims: set[int] = set()

    def kill() -> None:
        eventually(lambda: len(system.sandboxes()) == 2, what="two sandboxes")
        number = len(victims) % 2
        victims.add(system.kill_sandbox(number).pid)

    records = killing(system, panel, kill, times=6)

    assert lost(records) == []
    assert check_counted(system, panel, records) > 300
    healed = eventually(lambda: ids if len(ids := {p.pid for p in system.sandboxes()}) == 2 else None)
    assert len(victims) == 6
    assert healed is not None
    assert not healed & victims


def test_all_sandboxes_killed_at_once_lose_nothing(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    panel = system.make_panel(counter(), state={"count": 0})

    def kill_all() -> None:
        eventually(lambda: len(system.sandboxes()) == 2, what="two sandboxes")
        for process in system.sandboxes():
            process.kill()

    records = killing(system, panel, kill_all, times=2)

    assert lost(records) == []
    check_counted(system, panel, records)


def test_killed_pool_takes_its_sandboxes_along_and_another_carries_on(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    panel = system.make_panel(counter(), state={"count": 0})
    first = system.pool
    system.start_pool(processes=1)
    eventually(lambda: len(system.sandboxes()) == 3)
    orphans: list[psutil.Process] = []

    def kill() -> None:
        orphans.extend(first.children())
        first.kill()

    records = killing(system, panel, kill, times=1)

    assert lost(records) == []
    check_counted(system, panel, records)
    assert len(orphans) >= 2
    eventually(
        lambda: not any(_alive(process) for process in orphans), what="the killed pool's children to end"
    )


def test_triggers_wait_while_there_is_no_worker(make_system: MakeSystem) -> None:
    """kill -9 of the only pool: what is asked meanwhile is answered when a new one is there."""
    system = make_system(processes=1)
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        client.call("count")
        system.pool.kill()
        eventually(lambda: system.health() == 503, what="the gateway to notice")
        sent = [client.send_trigger("count") for _ in range(5)]
        assert client.barrier() == []
        system.start_pool(processes=1)
        answers = client.await_answers(sent)
    assert [answer.value for answer in answers] == [2, 3, 4, 5, 6]


def test_stopped_sandbox_counts_as_lost_and_its_late_answer_is_dropped(make_system: MakeSystem) -> None:
    """SIGSTOP, as a machine that hangs: others take over, and what it says afterwards changes nothing."""
    system = make_system(processes=2)
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        for _ in range(5):
            client.call("count")
        frozen = system.sandboxes()
        frozen[0].suspend()
        try:
            values = [client.call("count") for _ in range(20)]
        finally:
            frozen[0].resume()
        values += [client.call("count") for _ in range(20)]
    assert values == list(range(6, 46))
    assert system.state(panel) == {"count": 45}


def test_trigger_that_runs_when_its_worker_is_killed_runs_again(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    panel = system.make_panel(SLOW, counter(), state={"count": 0})
    with system.connect(panel) as client:
        client.call("count")
        sent = [client.send_trigger(name) for name in ("slow", "count", "count")]
        client.barrier()
        for process in system.sandboxes():
            process.kill()
        answers = client.await_answers(sent)
    assert answers[0].reason in ("TIMEOUT", "WORKER_LOST")
    assert [answer.value for answer in answers[1:]] == [2, 3]


# -- gateway and workers in any order ----------------------------------------------------------------


def test_pool_may_be_started_before_the_gateway() -> None:
    with System() as system:
        system.start_pool(processes=1)
        system.start_gateway()
        system.await_ready()
        with system.connect(system.make_panel(counter())) as client:
            assert client.call("count") == 1
        assert not system.defects(), system.report()


def test_pool_finds_a_gateway_that_was_killed_and_started_again(make_system: MakeSystem) -> None:
    """A locked-in sandbox cannot connect anew: it ends, and the pool starts another.

    The pool itself stays.
    """
    system = make_system(processes=2)
    panel = system.make_panel(counter())
    with system.connect(panel) as client:
        client.call("count")
        system.the_gateway().kill()
        assert client.await_close()[0] == 1006
    system.close_http()
    system.start_gateway()
    system.await_ready()
    panel = system.make_panel(counter())
    with system.connect(panel) as client:
        assert client.call("count") == 1
    assert system.pool.running
    eventually(lambda: len(system.sandboxes()) == 2, what="both sandboxes to be there again")


def test_health_is_503_until_a_worker_can_run_a_job(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    assert system.health() == 503
    system.start_pool(processes=1)
    system.await_ready()
    with system.connect(system.make_panel(counter())) as client:
        assert client.call("count") == 1
    assert system.pool.stop() == 0
    eventually(lambda: system.health() == 503)


def test_second_gateway_on_the_same_data_is_refused(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    first = system.the_gateway()
    second = system.start_gateway(wait=False)
    assert second.wait() == 69
    assert "in use" in second.text
    assert first.running
    system.gateway = first
    assert system.health() == 503


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--no-auth"),
        (["--no-auth", "--port", "70000"], "port"),
        (["--no-auth", "--max-frame-bytes", "lots"], "max-frame-bytes"),
        (["--no-auth", "--workers-endpoint", "tcp://127.0.0.1:5555"], "CURVE"),
        (["--jwt-secret-file", "/nonexistent/secret"], "jwt-secret-file"),
    ],
)
def test_gateway_with_a_bad_configuration_says_what_to_do(arguments: list[str], says: str) -> None:
    from tests.support.system import Process

    with System() as system:
        data = ["--data-dir", str(system.folder / "data")]
        process = Process.start("gateway", system.folder, ["panels_gateway", *data, *arguments])
        assert process.wait() == 78
        lines = process.text.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]


# -- told to stop ------------------------------------------------------------------------------------


def test_gateway_told_to_stop_answers_what_it_has_accepted(make_system: MakeSystem) -> None:
    system = make_system(processes=1)
    panel = system.make_panel(SLOW, counter(), state={"count": 0})
    with system.connect(panel) as client:
        sent = [client.send_trigger(name) for name in ("count", "slow", "count")]
        client.receive_type("RESULT")
        system.the_gateway().signal(signal.SIGTERM)
        code_, heard = client.await_close()
    answers = {m["requestId"]: m["type"] for m in heard if m["type"] in ("RESULT", "ERROR")}
    assert answers == {sent[1]: "ERROR", sent[2]: "RESULT"}
    assert code_ == 1012
    assert system.the_gateway().wait() == 0


def test_gateway_told_to_stop_is_not_held_up_for_ever(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--shutdown-grace-s", "0.5"])
    panel = system.make_panel(tool("slow", spins(), limits={"fuel": 10**10, "timeoutMs": 20_000}))
    with system.connect(panel) as client:
        client.send_trigger("slow")
        client.barrier()
        started = time.monotonic()
        system.the_gateway().signal(signal.SIGTERM)
        assert client.await_close()[0] == 1012
        assert system.the_gateway().wait() == 0
        assert time.monotonic() - started < 8


def test_pool_told_to_stop_finishes_its_jobs_and_ends(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    panel = system.make_panel(SLOW, counter(), state={"count": 0})
    first = system.pool
    with system.connect(panel) as client:
        client.call("count")
        children = first.children()
        sent = [client.send_trigger(name) for name in ("slow", "count", "count")]
        client.barrier()
        system.start_pool(processes=1)
        first.signal(signal.SIGTERM)
        answers = client.await_answers(sent)
    assert answers[0].reason == "TIMEOUT"
    assert [answer.value for answer in answers[1:]] == [2, 3]
    assert first.wait() == 0
    assert not any(_alive(process) for process in children)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- what travels ------------------------------------------------------------------------------------


def test_large_state_travels_whole_and_survives_a_lost_worker(make_system: MakeSystem) -> None:
    system = make_system(processes=2)
    state = {f"k{number}": "x" * 50_000 for number in range(60)}
    panel = system.make_panel(counter(), tool("keep", set_from_args("k0")), state={**state, "count": 0})
    with system.connect(panel) as client:
        assert client.hello["state"] == {**state, "count": 0}
        assert client.call("count") == 1
        for process in system.sandboxes():
            process.kill()
        client.call("keep", "y" * 60_000)
        assert client.call("count") == 2
    assert system.state(panel) == {**state, "count": 2, "k0": "y" * 60_000}


def test_outside_change_is_seen_by_the_triggers_after_it(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 0})
    body = {"kind": "k", "tools": [counter()], "initialState": {"count": 100}}
    with system.connect(panel) as client:
        sent = [client.send_trigger("count") for _ in range(20)]
        assert system.http.put(f"/panels/{panel}", json=body).status_code == 200
        values = [answer.value for answer in client.await_answers(sent)]
        values.append(client.call("count"))
    assert values == sorted(values)
    jump = next((at for at, value in enumerate(values) if value > 100), 0)
    assert values[:jump] == list(range(1, jump + 1))
    assert values[jump:] == list(range(101, 101 + len(values) - jump))


def test_events_carry_their_payload_through_everything(system: System) -> None:
    panel = system.make_panel(tool("say", emit_args("said"), returns_args()))
    payload = {"text": "ünï\u2028\U0001f600", "big": 2**64 - 1, "list": [None, True, 1.5]}
    with system.connect(panel) as client, system.connect(panel) as watcher:
        assert client.call("say", payload) == payload
        assert watcher.barrier()[0]["event"]["payload"] == payload
