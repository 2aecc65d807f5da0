"""Nobody waits for ever: triggers without a worker, and definitions beside those of somebody who asks for a
lot.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from functools import partial

import httpx
import psutil
import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter, returns, wat
from tests.integration.test_handlers_bad import binary, compile_bomb
from tests.support.system import System, eventually


@pytest.fixture
def stranded(make_system: MakeSystem) -> tuple[System, str]:
    """A system whose pool has gone, and a panel that counts."""
    system = make_system(processes=1, gateway=["--queue-timeout-s", "2"])
    panel = system.make_panel(counter(), state={"count": 0})
    system.pool.stop()
    eventually(lambda: system.health() == 503, what="the gateway to notice")
    return system, panel


def jobs_are(system: System, expected: int) -> bool:
    """Whether so many triggers are not answered, as /metrics says."""
    return f"\npanels_jobs {expected}" in system.http.get("/metrics").text


def test_trigger_without_a_worker_is_answered_in_time(stranded: tuple[System, str]) -> None:
    system, panel = stranded
    with system.connect(panel) as client:
        sent = client.send_trigger("count")
        response = system.http.post(f"/panels/{panel}/trigger/count")
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "UNAVAILABLE"
        assert response.json()["error"]["details"]["retryAfterMs"] > 0
        heard = client.receive_type("ERROR")
        assert (heard["requestId"], heard["code"]) == (sent, "UNAVAILABLE")
        system.start_pool(processes=1)
        system.await_ready()
        assert client.call("count") == 1


def test_caller_that_hangs_up_takes_its_trigger_away(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--queue-timeout-s", "3600"])
    panel = system.make_panel(counter(), state={"count": 0})
    system.pool.stop()
    eventually(lambda: system.health() == 503, what="the gateway to notice")
    path = f"{system.url}/panels/{panel}/trigger/count"
    for headers, left in (({}, 0), ({"idempotency-key": "k"}, 1)):
        sent = {**headers, "authorization": f"Bearer {system.token()}"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(path, headers=sent, timeout=1.0, trust_env=False)
        eventually(partial(jobs_are, system, left), what=f"{left} triggers to be left")


def test_gateway_told_to_stop_answers_what_no_worker_will_run(make_system: MakeSystem) -> None:
    system = make_system(processes=1)
    panel = system.make_panel(counter(), state={"count": 0})
    system.pool.stop()
    eventually(lambda: system.health() == 503, what="the gateway to notice")
    answers: list[httpx.Response] = []
    path = f"/panels/{panel}/trigger/count"
    caller = threading.Thread(target=lambda: answers.append(system.http.post(path)))
    with system.connect(panel) as client, system.http_client(system.token()) as observer:
        sent = client.send_trigger("count")
        caller.start()

        def both_wait() -> bool:
            return "\npanels_jobs 2" in observer.get("/metrics").text

        eventually(both_wait, what="two triggers that wait")
        system.the_gateway().signal(signal.SIGTERM)
        code, heard = client.await_close()
    caller.join()
    errors = {m["requestId"]: m["code"] for m in heard if m["type"] == "ERROR"}
    assert (code, errors) == (1012, {sent: "UNAVAILABLE"})
    (answer,) = answers
    assert answer.headers["content-type"] == "application/json"
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert system.the_gateway().wait() == 0
    assert system.defects() == []


def test_gateway_told_to_stop_leaves_a_handler_that_is_to_go_on_to_the_next_one(
    make_system: MakeSystem,
) -> None:
    """No worker can resume it any more: the gateway waited for all of its grace, and warned of it."""
    system = make_system(processes=1)
    source = "await $ext.human.ask('go on?'); $state.done = true;"
    capabilities = ["ext:*", "state:write:*"]
    panel = system.make_panel({"name": "ask", "handler": source, "capabilities": capabilities}, state={})
    with system.connect(panel) as client:
        client.send_trigger("ask")
        suspension = client.receive_type("PROGRESS")["suspensionId"]
        system.pool.stop()
        eventually(lambda: system.health() == 503, what="the gateway to notice")
        answered = system.http.post(f"/panels/{panel}/suspensions/{suspension}/answer", json={"value": 1})
        assert answered.status_code == 204, answered.text
        eventually(partial(jobs_are, system, 1), what="the handler to wait for a worker")
        system.close_http()
        stopping = system.the_gateway()
        stopping.signal(signal.SIGTERM)
        assert client.await_close()[0] == 1012
    assert stopping.wait() == 0
    assert "did not end in time" not in stopping.text
    system.start(processes=1)
    eventually(lambda: system.state(panel) == {"done": True}, what="the handler to go on")


def test_honest_definition_is_answered_while_64_compile_bombs_are_compiled(system: System) -> None:
    """By one subject, in eight definitions: the first refusal of a definition ends the rest of it."""
    seed = 3_000 + secrets.randbelow(100)
    bombs = [{**binary(compile_bomb(seed + number)), "name": f"bomb{number}"} for number in range(64)]
    answers: list[int] = []

    def attack(which: int) -> None:
        body = {"kind": "test", "tools": bombs[which::8]}
        with system.http_client(system.token(subject="mallory")) as client:
            answers.append(client.post("/panels", json=body).status_code)

    attackers = [threading.Thread(target=attack, args=(which,)) for which in range(8)]
    for attacker in attackers:
        attacker.start()
    eventually(lambda: compilers(system), what="a bomb to be compiled")
    with system.http_client(system.token(subject="ann")) as client:
        honest = client.post("/panels", json={"kind": "test", "tools": [honest_tool()]})
    before = len(answers)
    for attacker in attackers:
        attacker.join()
    assert honest.status_code == 201, honest.text
    assert before < len(answers) == 8
    assert 201 not in answers
    eventually(lambda: not compilers(system), what="the other bombs to be given up")


def honest_tool() -> dict[str, object]:
    """A tool that no system has compiled before."""
    return {"name": "t", "handler": {"language": "wat", "source": wat(returns(secrets.token_hex(8)))}}


def compilers(system: System) -> list[int]:
    """The compile children that run now."""
    found = []
    for process in system.pool.children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any("compiling" in word for word in process.cmdline()):
                found.append(process.pid)
    return found


def test_panel_with_a_label_is_compiled_and_run_by_a_pool_that_has_it(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--queue-timeout-s", "2"], pool=["--labels", "gpu,big"])
    panel = system.make_panel(counter(), state={"count": 0}, pool="gpu")
    assert system.http.get(f"/panels/{panel}").json()["pool"] == "gpu"
    assert system.http.post(f"/panels/{panel}/trigger/count").status_code == 200
    refused = system.post_panel(honest_tool())  # no pool is there for panels without a label
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
    # a panel that moves to another label keeps its state, and is not run meanwhile
    without_tools = {"kind": "test", "pool": "other", "tools": []}
    assert system.http.put(f"/panels/{panel}", json=without_tools).status_code == 200
    assert system.state(panel) == {"count": 1}
    bad = system.post_panel(pool="no label")
    assert bad.json()["error"]["details"]["path"] == "pool"
