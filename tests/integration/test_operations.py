"""What an operator does and sees while a real gateway runs under load: backups, health, and a folding process
that stands still.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.gateway.commands.builders import load
from tests.integration.conftest import MakeSystem
from tests.integration.guests import counter, returns, set_from_args, tool
from tests.support.system import System, eventually


def run(system: System, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``panels-gateway`` with these arguments, on the directory of the system's gateway."""
    name, *rest = map(str, arguments)
    words = [sys.executable, "-m", "panels_gateway", name, f"--data-dir={system.folder / 'data'}", *rest]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=system.folder, timeout=50)


def folder_of(system: System) -> psutil.Process:
    """The gateway's folding process."""

    def look() -> psutil.Process | None:
        for child in system.the_gateway().children():
            if "panels_gateway.journal.folder" in child.cmdline():
                return child
        return None

    found = eventually(look, what="a folding process")
    assert found is not None
    return found


def has_folded(system: System, position: int) -> bool:
    """Whether the gateway has folded its log so far."""
    return bool(system.http.get("/health").json()["journal"]["folded"] >= position)


@contextmanager
def counting(system: System, panels: list[str]) -> Iterator[dict[str, int]]:
    """A client for each panel that triggers ``count`` as fast as it is answered; the last value that each was
    told.
    """
    told = dict.fromkeys(panels, 0)
    stop = threading.Event()

    def press(panel: str) -> None:
        with system.connect(panel) as client:
            while not stop.is_set():
                told[panel] = client.call("count")

    threads = [threading.Thread(target=press, args=(panel,)) for panel in panels]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_backup_under_load_restores_to_a_moment_not_before_its_start(make_system: MakeSystem) -> None:
    system = make_system(auth=False)
    panels = [system.make_panel(counter(), state={"count": 0}) for _ in range(4)]
    moments: list[tuple[Path, dict[str, int], dict[str, int]]] = []
    with counting(system, panels) as told:
        eventually(lambda: all(told.values()), what="every client to be answered")
        for number in range(4):
            before = dict(told)
            copy = system.folder / f"copy-{number}"
            done = run(system, "backup", copy)
            assert done.returncode == 0, done.stderr
            assert copy.stat().st_mode & 0o777 == 0o600
            moments.append((copy, before, dict(told)))
            # the next one meets another log: this one has been folded, and its segments deleted, meanwhile
            folded = system.http.get("/health").json()["journal"]["position"]
            eventually(partial(has_folded, system, folded))
        live = run(system, "verify")
        assert live.returncode == 0, live.stdout
    for copy, before, after in moments:
        target = system.folder / f"{copy.name}-data"
        words = [sys.executable, "-m", "panels_gateway", "restore", f"--data-dir={target}", str(copy)]
        subprocess.run(words, check=True, capture_output=True)
        # verify walks each panel's history from its floor to its version, and finds every gap
        words = [sys.executable, "-m", "panels_gateway", "verify", f"--data-dir={target}"]
        verified = subprocess.run(words, check=False, capture_output=True, text=True)
        assert verified.returncode == 0, verified.stdout
        for panel in panels:
            restored = load(target, panel)
            assert restored is not None
            assert json.loads(restored.state["count"]) == restored.seq
            # a commit that was under way at the end may be in it and not have been told yet
            assert before[panel] <= restored.seq <= after[panel] + 1


def test_gateway_serves_a_restored_directory_under_another_epoch(make_system: MakeSystem) -> None:
    system = make_system(auth=False)
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        assert [client.call("count") for _ in range(3)] == [1, 2, 3]
    epoch = system.http.get(f"/panels/{panel}/state").json()["epoch"]
    assert run(system, "backup", system.folder / "copy").returncode == 0
    assert system.the_gateway().stop() == 0
    (system.folder / "data").rename(system.folder / "old")
    assert run(system, "restore", system.folder / "copy").returncode == 0
    system.start_gateway()
    system.await_ready()
    answer = system.http.get(f"/panels/{panel}/state").json()
    assert (answer["seq"], answer["state"]) == (3, {"count": 3})
    assert answer["epoch"] != epoch
    with system.connect(panel) as client:
        assert client.call("count") == 4


def test_folding_process_that_stands_still_makes_the_gateway_refuse_and_recover(
    make_system: MakeSystem,
) -> None:
    system = make_system(auth=False, gateway=["--max-backlog-bytes=1MiB"])
    panel = system.make_panel(tool("put", set_from_args("k"), returns(1)), state={"k": ""})
    folder = folder_of(system)
    folder.send_signal(signal.SIGSTOP)
    try:
        with system.connect(panel) as client:
            text = "x" * 60_000
            answers = [client.trigger("put", text) for _ in range(10)]
            while answers[-1].final["type"] == "RESULT":
                assert len(answers) < 100, "the bound was never reached"
                answers.append(client.trigger("put", text))
            assert (answers[-1].code, answers[-1].final["details"]["scope"]) == ("OVERLOADED", "journal")
            accepted = len(answers) - 1

        health = system.http.get("/health")
        assert health.status_code == 503
        problem, *_ = health.json()["problems"]
        assert "wait to be folded, more than the bound of 1,048,576" in problem
        # nothing else may grow the log either
        refused = system.post_panel(tool("t", returns(1)))
        assert (refused.json()["error"]["code"], refused.json()["error"]["details"]["scope"]) == (
            "OVERLOADED",
            "journal",
        )
        assert system.seq(panel) == accepted
        assert system.http.get(f"/panels/{panel}/history?since=0&limit=3").status_code == 200
        # the log says it when the segment has ended that went over the bound
        eventually(
            lambda: "triggers are refused until" in system.the_gateway().text, what="the log to speak of it"
        )
        # what waits is in a backup all the same
        assert run(system, "backup", system.folder / "copy").returncode == 0
    finally:
        folder.send_signal(signal.SIGCONT)
    eventually(lambda: system.health() == 200, what="the gateway to recover")
    with system.connect(panel) as client:
        assert client.call("put", "y") == 1
    assert system.seq(panel) == accepted + 1
    assert "wait to be folded: the folding process has caught up" in system.the_gateway().text


def test_folding_process_that_dies_is_told_and_started_again(make_system: MakeSystem) -> None:
    system = make_system(processes=0, auth=False)
    folder_of(system).kill()
    eventually(lambda: system.http.get("/health").json()["journal"]["foldingDeaths"] == 1)
    eventually(lambda: system.http.get("/health").json()["journal"]["folding"] == "up")
    assert "the folding process ended with exit code -9" in system.the_gateway().text


def test_signal_to_all_processes_of_a_gateway_ends_it_in_order(make_system: MakeSystem) -> None:
    system = make_system(auth=False)
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        assert client.call("count") == 1
    folder = folder_of(system)
    os.killpg(system.the_gateway().pid, signal.SIGTERM)
    assert system.the_gateway().wait() == 0
    assert "the folding process ended" not in system.the_gateway().text
    assert not folder.is_running()
    restarted = system.start_gateway()
    assert "batches that had to be folded first: 0," in restarted.text


def test_start_says_what_it_opened(make_system: MakeSystem) -> None:
    system = make_system(auth=False)
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        client.call("count")
    folder = folder_of(system)
    folder.send_signal(signal.SIGSTOP)
    position = system.http.get("/health").json()["journal"]["position"]
    system.the_gateway().kill()
    folder.kill()
    restarted = system.start_gateway()
    assert f"opened {system.folder}/data at position {position}, durability process" in restarted.text
    assert f"panels: 1, batches that had to be folded first: {position}, all in" in restarted.text


def test_commands_on_a_live_directory_that_need_it_stopped_say_so(make_system: MakeSystem) -> None:
    system = make_system(processes=0, auth=False)
    panel = system.make_panel(state={"a": 1})
    exported = run(system, "export", panel, "p.json")
    assert exported.returncode == 0, exported.stderr
    refused = run(system, "import", "p.json", "--id", "q")
    assert refused.returncode == 69
    assert "has it open" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert httpx.get(f"{system.url}/panels/{panel}/state", trust_env=False).json()["state"] == {"a": 1}


@pytest.mark.parametrize("flag", ["--host=127.0.0.1", "--port=0"])
def test_options_are_not_taken_for_commands(make_system: MakeSystem, flag: str) -> None:
    system = make_system(processes=0, auth=False, gateway=[flag])
    assert system.health() == 503
