"""Handlers that wait, and tools that run by themselves, in a system of real processes that get killed."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import ROOT
from tests.support.clients import Client, Message
from tests.support.system import System, eventually

CONFIGURATION: Final = """
entry_points = false
extensions = ["shop:Shop", "samples:Sample"]
path = ["{integration}", "{samples}"]
confine = "strict"
writable = ["{books}"]

[settings.shop]
book = "{book}"

[http]
allow = ["http://127.0.0.0/8:*"]
timeout_s = 50.0
"""

ASK: Final = 'return await $ext.human.approve("refund 80 €?");'
COUNT: Final = "return $state.count = ($state.count ?? 0) + 1;"


def script(name: str, source: str, **fields: object) -> dict[str, object]:
    """A tool in JavaScript that may do everything."""
    capabilities = ["ext:*", "state:read:*", "state:write:*", "events:emit:*"]
    return {"name": name, "handler": source, "capabilities": capabilities, **fields}


def configured(folder: Path) -> list[str]:
    """The gateway's arguments for the extensions of these tests, whose book lies in ``folder``."""
    file, books = folder / "extensions.toml", folder / "books"
    books.mkdir(exist_ok=True)
    tests = ROOT / "tests"
    file.write_text(
        CONFIGURATION.format(
            integration=tests / "integration",
            samples=tests / "gateway" / "extensions",
            books=books,
            book=books / "book",
        )
    )
    return ["--extensions", str(file)]


@pytest.fixture(scope="module")
def shop(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with extensions, for tests that kill nothing but the extension process."""
    arguments = configured(tmp_path_factory.mktemp("shop"))
    with System(cache_dir=cache_dir, gateway=arguments) as started:
        yield started.start()
        # an extension that raises is in the log with its traceback, which is its author's
        raised = started.the_gateway().text.count(" panels.extensions: sample.breaks failed")
        defects = started.defects()
        for _ in range(raised):
            defects.remove("gateway-1: Traceback (most recent call last):")
        assert not defects, "\n".join(defects) + started.report()


# -- what clients do ---------------------------------------------------------------------------------------


def suspensions(system: System, panel: str) -> list[Message]:
    """The panel's handlers that wait."""
    return list(system.http.get(f"/panels/{panel}/suspensions").json()["suspensions"])


def await_waiting(system: System, panel: str, number: int = 1) -> list[Message]:
    """The panel's handlers that wait, once they are so many."""
    return eventually(
        lambda: found if len(found := suspensions(system, panel)) == number else None,
        what=f"{number} suspensions",
    ) or []  # fmt: skip


def post_answer(system: System, panel: str, suspension: str, value: object, **more: object) -> httpx.Response:
    """Answers a question over HTTP."""
    return system.http.post(f"/panels/{panel}/suspensions/{suspension}/answer", json={"value": value, **more})


def answer_over_socket(client: Client, suspension: str, value: object, **more: object) -> Message:
    """Answers a question by ANSWER; the ANSWERED or ERROR that comes back."""
    client.send({"type": "ANSWER", "suspensionId": suspension, "value": value, "requestId": "answer", **more})
    return client.receive_until(lambda message: message.get("requestId") == "answer")[-1]


def send_keyed(client: Client, tool: str, args: object, key: str) -> None:
    """TRIGGER with an idempotency key, which is its requestId as well."""
    client.send({"type": "TRIGGER", "tool": tool, "args": args, "requestId": key, "idempotencyKey": key})


def kill_everything(system: System) -> None:
    """SIGKILL to the gateway, the extension process, the pools, and every worker."""
    system.close_http()
    running = [process for process in system.processes() if process.running]
    children = [child for process in running for child in process.children()]
    assert len(children) >= 2, "workers, and what the gateway has started"
    for process in running:
        process.child.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    for process in running:
        process.child.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def extension_process(system: System) -> psutil.Process:
    """The extension process, once it runs."""

    def look() -> psutil.Process | None:
        for child in system.the_gateway().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "panels_gateway.extensions" in child.cmdline():
                    return child
        return None

    found = eventually(look, what="the extension process")
    assert found is not None
    return found


@dataclass
class SlowServer:
    """A server on loopback that answers nobody before ``opened`` is set."""

    opened: threading.Event = field(default_factory=threading.Event)
    paths: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def slow_server() -> Iterator[SlowServer]:
    """The server while the context lasts; each answer is JSON with the path."""
    state = SlowServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.paths.append(self.path)
            state.opened.wait(60)
            body = json.dumps({"path": self.path}).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.opened.set()
        server.shutdown()
        server.server_close()


# -- the demonstration -------------------------------------------------------------------------------------


@pytest.mark.timeout(150)
def test_handlers_that_wait_survive_the_end_of_every_process(make_system: MakeSystem, tmp_path: Path) -> None:
    """A slow server, a timer and a person at once: every process is killed, and all handlers go on."""
    system = make_system(gateway=configured(tmp_path))
    source = """
        $state[`begun${$args.n}`] = true;
        const began = $args.n;
        const [page, slept, approved] = await Promise.all([
          $ext.http.get($args.url),
          $ext.time.sleep(300),
          $ext.human.approve(`refund ${$args.n} €?`),
        ]);
        $state.done = ($state.done ?? 0) + 1;
        return { began, path: page.data.path, slept, approved };
    """
    keys = [f"refund-{number}" for number in range(4)]
    with slow_server() as server:
        panel = system.make_panel(script("refund", source), state={})
        with system.connect(panel) as client:
            for number, key in enumerate(keys):
                send_keyed(client, "refund", {"n": number, "url": server.url(f"/{number}")}, key)
            heard = [client.receive_type("PROGRESS") for _ in range(3 * len(keys))]
            assert {message["requestId"] for message in heard} == set(keys)
            eventually(lambda: len(set(server.paths)) == len(keys), what="all requests")
            asked = {found["requestId"]: found["id"] for found in await_waiting(system, panel, len(keys))}
            kill_everything(system)

        system.start()
        after = {found["requestId"]: found["id"] for found in await_waiting(system, panel, len(keys))}
        assert after == asked, "the same handlers wait, under the same names"
        assert system.state(panel) == {f"begun{number}": True for number in range(len(keys))}
        with system.connect(panel) as client, system.connect(panel) as watcher:
            for number, key in enumerate(keys):
                send_keyed(client, "refund", {"n": number, "url": server.url(f"/{number}")}, key)
            for number, key in enumerate(keys):
                assert post_answer(system, panel, asked[key], number % 2 == 0).status_code == 204
            assert not [message for message in client.barrier() if message["type"] in ("RESULT", "ERROR")]
            server.opened.set()
            answers = client.await_answers(keys)
            assert [answer.value for answer in answers] == [
                {"began": number, "path": f"/{number}", "slept": None, "approved": number % 2 == 0}
                for number in range(len(keys))
            ]
            assert not [message for message in client.barrier() if message["type"] in ("RESULT", "ERROR")]
            # once more under the same key: the one answer that there is
            number, key = 1, keys[1]
            send_keyed(watcher, "refund", {"n": number, "url": server.url(f"/{number}")}, key)
            assert watcher.await_answer(key).value == answers[number].value
    assert system.state(panel)["done"] == len(keys)
    commits = system.http.get(f"/panels/{panel}/history").json()["commits"]
    reached = [exchange for commit in commits for exchange in commit.get("egress", [])]
    assert len(reached) == len(keys)
    assert {(exchange["address"], exchange["verdict"]) for exchange in reached} == {("127.0.0.1", "ok")}
    assert suspensions(system, panel) == []
    assert all(server.paths.count(f"/{number}") == 2 for number in range(len(keys))), (
        "at least once, under one key"
    )


def test_wasm_handler_goes_on_after_every_process_was_killed(make_system: MakeSystem) -> None:
    """The guest of examples/wat keeps its place in its own memory."""
    system = make_system(processes=1)
    source = (ROOT / "examples" / "wat" / "interview.wat").read_text()
    panel = system.make_panel(
        {
            "name": "interview",
            "handler": {"language": "wat", "source": source},
            "capabilities": ["ext:*", "state:read:*", "state:write:*"],
        }
    )
    with system.connect(panel) as client:
        send_keyed(client, "interview", {}, "k")
        client.receive_type("PROGRESS")
        kill_everything(system)
    system.start(processes=1)
    with system.connect(panel) as client:
        send_keyed(client, "interview", {}, "k")
        while found := suspensions(system, panel):
            for waiting in found:
                for call in waiting["waitsFor"]:
                    post_answer(system, panel, waiting["id"], "ada", call=call["call"])
        assert client.await_answer("k").final["type"] == "RESULT"


def test_call_that_is_not_repeatable_fails_after_the_gateway_was_killed(
    make_system: MakeSystem, tmp_path: Path
) -> None:
    system = make_system(processes=1, gateway=configured(tmp_path))
    source = "try { await $ext.shop.pays_for_ever(); } catch (e) { return e.code; }"
    panel = system.make_panel(script("pay", source))
    with system.connect(panel) as client:
        send_keyed(client, "pay", {}, "k")
        client.receive_type("PROGRESS")
        eventually((tmp_path / "books" / "book").exists, what="the call")
        kill_everything(system)
    system.start(processes=1)
    with system.connect(panel) as client:
        send_keyed(client, "pay", {}, "k")
        assert client.await_answer("k").value == "extension_lost"
    assert len((tmp_path / "books" / "book").read_text().splitlines()) == 1, "at most once"


# -- other triggers, meanwhile -----------------------------------------------------------------------------


def test_other_triggers_run_while_a_handler_waits_and_it_sees_what_they_did(shop: System) -> None:
    source = "const before = $state.count; await $ext.human.ask('go?'); return [before, $state.count];"
    panel = shop.make_panel(script("wait", source), script("count", COUNT), state={"count": 0})
    with shop.connect(panel) as client:
        first = client.send_trigger("wait")
        progress = client.receive_type("PROGRESS")
        assert progress == {
            "type": "PROGRESS",
            "requestId": first,
            "suspensionId": progress["suspensionId"],
            "status": "suspended",
            "extension": "human",
            "method": "ask",
        }
        assert [client.call("count") for _ in range(3)] == [1, 2, 3]
        answered = answer_over_socket(client, progress["suspensionId"], {"any": "thing"})
        assert answered["type"] == "ANSWERED"
        assert answered["suspensionId"] == progress["suspensionId"]
        assert client.await_answer(first).value == [0, 3]


def test_effects_before_the_wait_are_committed_at_once(shop: System) -> None:
    source = "$state.a = 1; $emit('a', 1); await $ext.human.ask('go?'); throw new Error('no');"
    panel = shop.make_panel(script("wait", source), state={})
    with shop.connect(panel) as client:
        first = client.send_trigger("wait")
        heard = client.receive_until(lambda message: message["type"] == "PROGRESS")
        assert [message["type"] for message in heard] == ["PATCH", "EVENT", "EVENT", "PROGRESS"]
        asked = heard[2]["event"]
        assert asked["name"] == "human.asked"
        assert asked["payload"]["suspensionId"] == heard[3]["suspensionId"]
        assert asked["payload"]["args"] == ["go?"]
        post_answer(shop, panel, heard[3]["suspensionId"], 1)
        answer = client.await_answer(first)
    assert answer.reason == "HANDLER_ERROR"
    assert answer.final["details"]["steps"] == 1
    assert shop.state(panel) == {"a": 1}


def test_exclusive_tool_holds_the_panel_until_it_ends(shop: System) -> None:
    panel = shop.make_panel(
        script("hold", f"$state.count = 10; {ASK}", exclusive=True), script("count", COUNT), state={}
    )
    with shop.connect(panel) as client:
        held = client.send_trigger("hold")
        progress = client.receive_type("PROGRESS")
        behind = [client.send_trigger("count") for _ in range(3)]
        assert client.barrier() == []
        assert answer_over_socket(client, progress["suspensionId"], True)["type"] == "ANSWERED"
        assert client.await_answer(held).value is True
        assert [client.await_answer(each).value for each in behind] == [11, 12, 13]


def test_exclusive_tool_holds_the_panel_after_every_process_was_killed(make_system: MakeSystem) -> None:
    system = make_system(processes=1)
    panel = system.make_panel(
        script("hold", f"$state.count = 10; {ASK}", exclusive=True), script("count", COUNT), state={}
    )
    with system.connect(panel) as client:
        send_keyed(client, "hold", {}, "k")
        client.receive_type("PROGRESS")
        kill_everything(system)
    system.start(processes=1)
    with system.connect(panel) as client:
        behind = client.send_trigger("count")
        assert client.barrier() == []
        send_keyed(client, "hold", {}, "k")
        (waiting,) = suspensions(system, panel)
        post_answer(system, panel, waiting["id"], False)
        answers = client.await_answers(["k", behind])
        assert [answer.value for answer in answers] == [False, 11]


def test_race_goes_on_with_the_first_answer_and_forgets_the_rest(shop: System) -> None:
    source = "return await Promise.race([$ext.human.ask('go?'), $ext.time.sleep(1).then(() => 'late')]);"
    panel = shop.make_panel(script("race", source))
    with shop.connect(panel) as client:
        assert client.call("race") == "late"
    assert suspensions(shop, panel) == []


# -- tools that run by themselves --------------------------------------------------------------------------

#: Counts the runs of each due time in the panel's state, and keeps their order.
TICK: Final = """
    const {runs = {}, due = []} = $state;
    $state.runs = {...runs, [$args.dueMs]: (runs[$args.dueMs] ?? 0) + 1};
    $state.due = [...due, $args.dueMs];
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_timer_fires_each_due_time_once_across_kills(make_system: MakeSystem, misfire: str) -> None:
    system = make_system(processes=1)
    trigger = {"type": "interval", "ms": 200, "misfire": misfire}
    panel = system.make_panel(script("tick", TICK, trigger=trigger), state={"due": [], "runs": {}})

    def due() -> list[int]:
        return [int(each) for each in system.state(panel)["due"]]

    def ran_after(ms: float) -> bool:
        return due()[-1] > ms

    def passed(ms: float) -> bool:
        return time.time() * 1_000 > ms

    eventually(lambda: len(due()) >= 3, what="three runs")
    ends: list[int] = []
    for _ in range(3):
        before = due()
        ends.append(before[-1])
        kill_everything(system)
        # nobody is there while several become due
        eventually(partial(passed, before[-1] + 1_500), what="due times without a gateway")
        back_ms = time.time() * 1_000
        system.start(processes=1)
        eventually(partial(ran_after, back_ms + 1_000), what="runs of due times after the start")
        assert due()[: len(before)] == before
    shown = system.http.get(f"/panels/{panel}").json()["tools"][0]
    state = system.state(panel)
    found, runs = [int(each) for each in state["due"]], state["runs"]
    assert runs == {str(each): 1 for each in found}, "each due time runs once"
    assert len(set(found)) == len(found), "no due time runs twice"
    assert found == sorted(found)
    gaps = [after - first for first, after in pairwise(found)]
    assert all(gap % 200 == 0 for gap in gaps)
    # the longest gap at each kill says what became of the due times that nobody was there for
    longest = [max(b - a for a, b in pairwise(found) if a >= end) for end in ends]
    if misfire == "all":
        assert set(gaps) == {200}, "nothing that was missed is left out"
    else:
        assert all(gap >= 1_000 for gap in longest)
    assert {**shown["trigger"], **trigger} == shown["trigger"]
    assert (shown["trigger"]["nextRunAt"] - shown["trigger"]["lastDueAt"]) % 200 == 0


def test_events_and_changes_run_the_tools_that_listen(shop: System) -> None:
    panel = shop.make_panel(
        script("start", "$emit('order.made', $args); return 'made';"),
        script(
            "note", "$state.noted = $args.event.payload;", trigger={"type": "event", "pattern": "order.*"}
        ),
        script(
            "see",
            "$emit('seen', [$args.keys, $state.noted]);",
            trigger={"type": "state_change", "path": "noted"},
        ),
        state={},
    )
    with shop.connect(panel) as client:
        assert client.call("start", {"n": 7}) == "made"
        heard = client.receive_until(
            lambda message: message["type"] == "EVENT" and message["event"]["name"] == "seen"
        )
    assert heard[-1]["event"]["payload"] == [["noted"], {"n": 7}]


def test_chain_of_triggers_ends_at_its_depth(make_system: MakeSystem) -> None:
    system = make_system(processes=1)
    again = "$state.n = ($state.n ?? 0) + 1; $emit('again');"
    panel = system.make_panel(
        script("start", again),
        script("more", again, trigger={"type": "event", "pattern": "again"}),
        script("ping", "return 1;"),
        state={"n": 0},
    )
    with system.connect(panel) as client:
        client.call("start")
        eventually(lambda: "cause one another" in system.the_gateway().text, what="the end of the chain")
        assert client.call("ping") == 1
        metrics = system.http.get("/metrics").text
    assert "panels_trigger_chains_cut_total 1" in metrics
    assert system.state(panel) == {"n": 8}, "the trigger of the client, and seven that it caused"


def test_mount_and_unmount_run_for_the_first_client_and_behind_the_last(shop: System) -> None:
    panel = shop.make_panel(
        script("came", "$state.came = ($state.came ?? 0) + 1;", trigger={"type": "mount"}),
        script("went", "$state.went = ($state.went ?? 0) + 1;", trigger={"type": "unmount"}),
        state={"came": 0, "went": 0},
    )
    with shop.connect(panel), shop.connect(panel):
        pass
    eventually(lambda: shop.state(panel) == {"came": 1, "went": 1}, what="one of each")
    with shop.connect(panel):
        pass
    eventually(lambda: shop.state(panel) == {"came": 2, "went": 2}, what="one more of each")


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("$ext.nope.method()", "extension_unknown", "nope"),
        ("$ext.sample.nope()", "extension_method_unknown", "nope"),
        ("$ext.sample.echo()", "extension_arguments", "value"),
        ("$ext.sample.echo(1, 2)", "extension_arguments", ""),
        ("$ext.sample.refuses()", "extension_failed", "the shop is closed"),
        ("$ext.sample.breaks()", "extension_failed", ""),
        ("$ext.sample.is_slow()", "extension_timeout", ""),
        ("$ext.sample.returns_an_object()", "extension_result", ""),
        ("$ext.sample.returns_too_much()", "extension_limit", "at most 4194304 bytes"),
        ("$ext.sample.returns_too_deep()", "extension_result", ""),
        ("$ext.sample.returns_a_circle()", "extension_result", ""),
        ("$ext.http.get('http://10.1.2.3/')", "extension_denied", "allow"),
        ("$ext.http.get('nonsense')", "extension_arguments", ""),
        ("$ext.time.sleep(-1)", "extension_arguments", "time.sleep"),
        ("$ext.time.sleep('soon')", "extension_arguments", "time.sleep"),
        ("$ext.time.wake(1)", "extension_arguments", "time.sleep"),
        ("$ext.human.guess('?')", "extension_unknown", "human.approve"),
        ("$ext.panels.trigger('nowhere', 'x')", "PANEL_NOT_FOUND", "nowhere"),
        ("$ext.panels.trigger('nowhere')", "INVALID_REQUEST", "panels.trigger"),
    ],
)
def test_call_that_cannot_be_made_throws_an_error_with_its_code(
    shop: System, call: str, code: str, said: str
) -> None:
    source = f"try {{ return ['?', await {call}]; }} catch (e) {{ return [e.code, e.message]; }}"
    panel = shop.make_panel(script("call", source))
    with shop.connect(panel) as client:
        found = client.call("call")
    assert found[0] == code, found
    assert said in found[1]
    assert "hunter2" not in found[1]
    assert suspensions(shop, panel) == []


def test_call_without_the_capability_is_refused_in_the_sandbox(shop: System) -> None:
    source = "await $ext.sample.echo(1);"
    tool = {**script("call", source), "capabilities": ["ext:sample.who", "ext:time"]}
    panel = shop.make_panel(tool)
    with shop.connect(panel) as client:
        assert client.trigger("call").reason == "PERMISSION_DENIED"


def test_crashed_extension_process_is_replaced_and_repeats_what_may_be_repeated(shop: System) -> None:
    panel = shop.make_panel(
        script("again", "return await $ext.shop.dies_once();"),
        script("lost", "try { await $ext.sample.crashes(); } catch (e) { return e.code; }"),
    )
    with shop.connect(panel) as client:
        before = extension_process(shop).pid
        assert client.call("again") == 2
        assert client.call("lost") == "extension_lost"
        assert client.call("again") == 2
    assert extension_process(shop).pid != before


@pytest.mark.timeout(90)
def test_extension_process_that_hangs_is_killed_and_everybody_else_goes_on(shop: System) -> None:
    panel = shop.make_panel(
        script("hang", "return await $ext.shop.blocks_once();"),
        script("count", COUNT),
        script("sleep", "return await $ext.time.sleep(1);"),
    )
    with shop.connect(panel) as client:
        hanging = client.send_trigger("hang")
        client.receive_type("PROGRESS")
        assert client.call("count") == 1
        assert client.call("sleep") is None
        assert client.await_answer(hanging, timeout_s=60).value == 2


def test_deletion_of_the_panel_ends_its_handlers_that_wait(shop: System) -> None:
    panel = shop.make_panel(script("ask", ASK))
    with ThreadPoolExecutor(1) as pool, shop.connect(panel) as client:
        over_http = pool.submit(shop.http.post, f"/panels/{panel}/trigger/ask", json={})
        client.send_trigger("ask")
        await_waiting(shop, panel, 2)
        assert shop.http.delete(f"/panels/{panel}").status_code == 204
        closed, heard = client.await_close()
        response = over_http.result(30)
    assert closed == 4404
    assert [message["code"] for message in heard if message["type"] == "ERROR"] == ["PANEL_NOT_FOUND"]
    assert (response.status_code, response.json()["error"]["code"]) == (404, "PANEL_NOT_FOUND")
    assert shop.http.get(f"/panels/{panel}/suspensions").status_code == 404


def test_gateway_starts_again_after_a_panel_with_handlers_that_wait_was_deleted(
    make_system: MakeSystem,
) -> None:
    """The end of a suspension was recorded behind its panel's deletion, which no folding process takes."""
    system = make_system(processes=1)
    panel, other = system.make_panel(script("ask", ASK)), system.make_panel(script("count", COUNT))
    with system.connect(panel) as client:
        client.send_trigger("ask")
        await_waiting(system, panel)
        assert system.http.delete(f"/panels/{panel}").status_code == 204
        assert client.await_close()[0] == 4404
    kill_everything(system)
    system.start(processes=1)
    with system.connect(other) as client:
        assert client.call("count") == 1


def test_replacement_of_the_handler_ends_it_and_leaves_others_waiting(shop: System) -> None:
    panel = shop.make_panel(script("ask", ASK), script("other", f"$state.x = 1; {ASK}"), state={})
    with shop.connect(panel) as client:
        replaced, kept = client.send_trigger("ask"), client.send_trigger("other")
        await_waiting(shop, panel, 2)
        tools = [script("ask", f"/* new */ {ASK}"), script("other", f"$state.x = 1; {ASK}")]
        response = shop.http.put(f"/panels/{panel}", json={"kind": "test", "tools": tools})
        assert response.status_code == 200, response.text
        answer = client.await_answer(replaced)
        assert (answer.reason, answer.final["details"]["steps"]) == ("RESUME_FAILED", 1)
        (left,) = suspensions(shop, panel)
        assert answer_over_socket(client, left["id"], True)["type"] == "ANSWERED"
        assert client.await_answer(kept).value is True


def test_handler_goes_on_when_its_client_has_left(shop: System) -> None:
    panel = shop.make_panel(script("ask", f"$state.said = await (async () => {{ {ASK} }})();"), state={})
    with shop.connect(panel) as client:
        client.send_trigger("ask")
        progress = client.receive_type("PROGRESS")
    assert post_answer(shop, panel, progress["suspensionId"], True).status_code == 204
    eventually(lambda: shop.state(panel) == {"said": True}, what="the end of the handler")


def test_handler_that_suspends_for_ever_hinders_nobody_and_can_be_cancelled(shop: System) -> None:
    panel = shop.make_panel(
        script("loop", "for (;;) { await $ext.time.sleep(0); $state.n = ($state.n ?? 0) + 1; }"),
        script("count", COUNT),
        state={},
    )
    with shop.connect(panel) as client, shop.connect(panel) as watcher:
        looping = client.send_trigger("loop")
        eventually(lambda: shop.state(panel).get("n", 0) > 20, what="the loop to turn")
        values = [watcher.call("count") for _ in range(20)]
        assert values == list(range(1, 21))
        (waiting,) = await_waiting(shop, panel)
        assert shop.http.delete(f"/panels/{panel}/suspensions/{waiting['id']}").status_code == 204
        answer = client.await_answer(looping)
    assert answer.reason == "CANCELLED"
    assert answer.final["details"]["steps"] > 20
    assert suspensions(shop, panel) == []


# -- answers -----------------------------------------------------------------------------------------------


def test_first_answer_wins_and_the_second_is_refused(shop: System) -> None:
    both = "return await Promise.all([$ext.human.ask('a'), $ext.human.approve('b')]);"
    panel = shop.make_panel(script("ask", both))
    with shop.connect(panel) as client:
        asking = client.send_trigger("ask")
        name = client.receive_type("PROGRESS")["suspensionId"]
        (waiting,) = await_waiting(shop, panel)
        first, second = (call["call"] for call in waiting["waitsFor"])
        ambiguous = answer_over_socket(client, name, 1)
        assert (ambiguous["code"], ambiguous["details"]) == ("CONFLICT", {"open": [first, second]})
        assert answer_over_socket(client, name, 1, call=first)["type"] == "ANSWERED"
        assert answer_over_socket(client, name, 2, call=first)["code"] == "CONFLICT"
        assert post_answer(shop, panel, name, 2, call=first).status_code == 409
        assert answer_over_socket(client, name, "yes", call=second)["code"] == "INVALID_REQUEST"
        assert answer_over_socket(client, name, True, call=second)["type"] == "ANSWERED"
        assert client.await_answer(asking).value == [1, True]
        assert answer_over_socket(client, name, True, call=second)["code"] == "NOT_FOUND"
        assert post_answer(shop, panel, name, True).status_code == 404


def test_answer_needs_the_permission_of_the_tool(shop: System) -> None:
    panel = shop.make_panel(script("ask", ASK))
    clerk = shop.token(grants=[(panel, ["read", "trigger:*", "answer:other"])], subject="clerk")
    boss = shop.token(grants=[(panel, ["read", "answer:ask"])], subject="boss")
    with shop.connect(panel, token=clerk) as asking, shop.connect(panel, token=boss) as answering:
        sent = asking.send_trigger("ask")
        name = asking.receive_type("PROGRESS")["suspensionId"]
        assert answer_over_socket(asking, name, True)["code"] == "FORBIDDEN"
        with shop.http_client(clerk) as http:
            url = f"/panels/{panel}/suspensions/{name}"
            assert http.post(f"{url}/answer", json={"value": True}).status_code == 403
            assert http.delete(url).status_code == 403
        assert answer_over_socket(answering, name, True)["type"] == "ANSWERED"
        assert asking.await_answer(sent).value is True


@pytest.mark.parametrize(
    ("suspension", "value", "code"),
    [
        ("000000000000", "true", "NOT_FOUND"),
        ("../../health", "true", "NOT_FOUND"),
        ("\u0660" * 12, "true", "NOT_FOUND"),
        ("", "true", "NOT_FOUND"),
        (None, "true", "NOT_FOUND"),
        (None, '"' + "x" * 70_000 + '"', "TOO_LARGE"),
    ],
)
def test_answer_that_fits_no_question_is_refused(
    shop: System, suspension: str | None, value: str, code: str
) -> None:
    panel, other = shop.make_panel(script("ask", ASK)), shop.make_panel(script("ask", ASK))
    with shop.connect(panel) as client, shop.connect(other) as elsewhere:
        client.send_trigger("ask")
        name = client.receive_type("PROGRESS")["suspensionId"]
        # a name of another panel is no name here
        asker = client if code == "TOO_LARGE" else elsewhere
        chosen = name if suspension is None else suspension
        asker.send_raw(
            f'{{"type":"ANSWER","suspensionId":{json.dumps(chosen)},"value":{value},"requestId":"r"}}'
        )
        assert asker.receive_until(lambda message: message.get("requestId") == "r")[-1]["code"] == code
    assert len(suspensions(shop, panel)) == 1


# -- bounds ------------------------------------------------------------------------------------------------


def test_bounds_on_handlers_that_wait(make_system: MakeSystem) -> None:
    system = make_system(
        processes=1,
        gateway=["--max-suspensions-per-panel", "3", "--max-suspensions", "5", "--suspension-ttl", "600"],
    )
    first, second = (
        system.make_panel(script("ask", ASK), script("count", COUNT), state={}) for _ in range(2)
    )
    with system.connect(first) as one, system.connect(second) as two:
        for client in (one, two):
            for _ in range(3):
                client.send_trigger("ask")
        await_waiting(system, first, 3)
        await_waiting(system, second, 2)
        refused = one.trigger("ask")
        assert refused.reason == "LIMIT_EXCEEDED"
        assert one.call("count") == 1
        (waiting, *_) = suspensions(system, first)
        post_answer(system, first, waiting["id"], True)
        await_waiting(system, first, 2)
        one.send_trigger("ask")
        await_waiting(system, first, 3)


def test_handler_that_nobody_answers_fails_at_its_deadline(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--suspension-ttl", "1"])
    panel = system.make_panel(script("ask", ASK))
    with system.connect(panel) as client:
        assert client.trigger("ask").reason == "TIMEOUT"
    assert suspensions(system, panel) == []


def test_panels_that_trigger_one_another_end_at_their_depth(shop: System) -> None:
    panel = f"t-depth-{shop.port}"
    source = f"return 1 + await $ext.panels.trigger('{panel}', 'dig', null);"
    made = shop.make_panel(script("dig", source), panel_id=panel)
    with shop.connect(made) as client:
        answer = client.trigger("dig")
    assert answer.reason == "HANDLER_ERROR"
    assert re.search(r"at most 8 deep", answer.final["message"])


@pytest.mark.timeout(90)
def test_caller_over_http_is_told_with_202_that_the_handler_waits(shop: System) -> None:
    panel = shop.make_panel(script("ask", ASK))
    response = shop.http.post(
        f"/panels/{panel}/trigger/ask", json={"requestId": "r"}, headers={"Idempotency-Key": "k"}
    )
    assert response.status_code == 202
    assert response.json()["status"] == "suspended"
    name = response.json()["suspensionId"]
    assert shop.http.get(f"/panels/{panel}/suspensions/{name}").json()["waitsFor"][0]["method"] == "approve"
    assert post_answer(shop, panel, name, True).status_code == 204
    again = shop.http.post(
        f"/panels/{panel}/trigger/ask", json={"requestId": "r"}, headers={"Idempotency-Key": "k"}
    )
    assert again.status_code == 200
    assert again.json()["result"]["returnValue"] is True
