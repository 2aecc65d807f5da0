"""The program `panels` against a real gateway and real sandboxes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import ROOT
from tests.support.system import System, eventually

pytestmark = pytest.mark.timeout(120)

PANELS = [sys.executable, "-m", "panels_cli"]


def environment(system: System, folder: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
    mine = {"PANELS_URL": system.url, "PANELS_CLI_CONFIG": str(folder / "config.toml")}
    token = {"PANELS_TOKEN": system.token(subject="ann")} if system.auth else {}
    return {**inherited, **mine, **token}


def run(system: System, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PANELS, *arguments],
        cwd=folder,
        env=environment(system, folder),
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def watching(system: System, folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """`panels watch` with its output in a file, ended by Ctrl-C."""
    log = folder / "watch.log"
    with log.open("w") as output:
        watcher = subprocess.Popen(
            [*PANELS, "watch", *arguments],
            cwd=folder,
            env=environment(system, folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield watcher, log
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(20) == 130, log.read_text()
        finally:
            watcher.kill()
            watcher.wait()


@pytest.mark.parametrize("template", ["js", "ts", "wasm"])
def test_folder_is_made_applied_and_called(system: System, tmp_path: Path, template: str) -> None:
    name = f"cli-{template}"
    assert run(system, tmp_path, "init", name, "--template", template).returncode == 0
    applied = run(system, tmp_path, "apply", name)
    assert applied.returncode == 0, applied.stderr
    called = run(system, tmp_path, "call", name, "add", '{"by": 2}')
    assert (called.returncode, called.stdout, called.stderr) == (0, "2\n", "")
    again = run(system, tmp_path, "apply", name, "--json")
    assert json.loads(again.stdout)["request"] is None


def test_failure_shows_where_in_the_source(system: System, tmp_path: Path) -> None:
    panel = system.make_panel({"name": "boom", "handler": "const a = 1;\nthrow new Error('no');"})
    failed = run(system, tmp_path, "call", panel, "boom")
    assert failed.returncode == 1
    assert "failed at line 2" in failed.stderr
    assert "throw new Error('no');" in failed.stderr


def test_compile_error_names_the_file(system: System, tmp_path: Path) -> None:
    run(system, tmp_path, "init", "cli-broken")
    (tmp_path / "cli-broken" / "add.js").write_text("const = 1;\n")
    refused = run(system, tmp_path, "apply", "cli-broken")
    assert refused.returncode == 1
    assert "cli-broken/add.js:1:" in refused.stderr


def test_doctor_finds_the_sandboxes_confined(system: System, tmp_path: Path) -> None:
    shown = run(system, tmp_path, "doctor", "--json")
    findings = {finding["what"]: finding for finding in json.loads(shown.stdout)["findings"]}
    assert findings["workers"]["text"] == "2 sandboxes connected"
    # those of other tests run here too, and need not be confined
    assert "no sandbox runs" not in findings["confinement"]["text"]
    assert findings["access"]["level"] == "ok"


def test_call_waits_for_a_handler_that_asks(system: System, tmp_path: Path) -> None:
    tool = {"name": "ask", "handler": "return await $ext.human.ask('?');", "capabilities": ["ext:human"]}
    panel = system.make_panel(tool)
    caller = subprocess.Popen(
        [*PANELS, "call", panel, "ask"],
        env=environment(system, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # answered only after 202 has come, so that the answer is the second one under the key
    assert caller.stderr is not None
    assert "waits for human.ask" in caller.stderr.readline()
    listed = run(system, tmp_path, "suspensions", "ls", panel, "--json")
    sid = json.loads(listed.stdout)["suspensions"][0]["id"]
    assert run(system, tmp_path, "suspensions", "answer", panel, sid, '"42"').returncode == 0
    out, _ = caller.communicate(timeout=30)
    assert (caller.returncode, out) == (0, '"42"\n')


def test_watch_goes_on_after_the_gateway_was_killed(make_system: MakeSystem, tmp_path: Path) -> None:
    system = make_system()
    set_n = {"name": "set", "handler": "$state.n = $args; $emit('set', $args);"}
    panel = system.make_panel(set_n, state={"n": 0})
    with watching(system, tmp_path, panel) as (_, log):
        eventually(lambda: "connected, version 0" in log.read_text())
        run(system, tmp_path, "call", panel, "set", "1")
        eventually(lambda: "1 ! set 1" in log.read_text())
        system.the_gateway().kill()
        eventually(lambda: "lost the connection" in log.read_text())
        system.start_gateway()
        system.await_ready()
        assert run(system, tmp_path, "call", panel, "set", "2").returncode == 0
        eventually(lambda: "2 ! set 2" in log.read_text())
        text = log.read_text()
    assert text.count("● recovered: nothing was missed") == 1
    assert text.count("~ n 0 → 1") == 1
    assert text.count("~ n 1 → 2") == 1
    assert text.count("! set 1") == 1


def test_watch_says_that_it_resynced_after_the_panel_was_made_anew(
    make_system: MakeSystem, tmp_path: Path
) -> None:
    system = make_system(processes=0)
    panel = system.make_panel(state={"n": 1})
    with watching(system, tmp_path, panel) as (watcher, log):
        eventually(lambda: "connected, version 0" in log.read_text())
        # it notices nothing until another history is there
        watcher.send_signal(signal.SIGSTOP)
        system.the_gateway().kill()
        (system.folder / "data").rename(system.folder / "old")
        system.close_http()
        system.start_gateway()
        system.make_panel(state={"n": 5}, panel_id=panel)
        watcher.send_signal(signal.SIGCONT)
        eventually(lambda: "~ n 1 → 5" in log.read_text())
        text = log.read_text()
    assert "lost the connection" in text
    assert "● resynced" in text


def test_reader_that_has_enough_ends_it_quietly(system: System, tmp_path: Path) -> None:
    line = f"{shlex.join(PANELS)} ls --json | head -c 1; {shlex.join(PANELS)} --help | head -1"
    done = subprocess.run(
        ["bash", "-c", line], env=environment(system, tmp_path), capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.startswith("{Usage: panels")


def test_document_prints_what_the_commands_print(make_system: MakeSystem, tmp_path: Path) -> None:
    system = make_system(auth=False)
    text = (ROOT / "docs" / "cli.md").read_text()
    session = text[text.index("<!-- session -->") : text.index("<!-- end of session -->")]
    blocks = re.findall(r"(?:^    .*\n)+", session, re.MULTILINE)
    ran = 0
    for block in blocks:
        lines = re.sub(r"^    ", "", block, flags=re.MULTILINE)
        for command in re.split(r"^(?=\$ )", lines, flags=re.MULTILINE):
            if not command.startswith("$ panels "):
                continue
            words, _, output = command.removeprefix("$ panels ").partition("\n")
            done = run(system, tmp_path, *shlex.split(words))
            assert comparable(done.stdout + done.stderr) == comparable(output), words
            ran += 1
    assert ran >= 8


def comparable(text: str) -> str:
    """``text`` with digests, times, epochs and ports as one letter each, and white space once."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "D", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T", text)
    text = re.sub(r"(127\.0\.0\.1):\d+", r"\1:P", text)
    text = re.sub(r'(?m)^epoch +.*$|"epoch":"[^"]*"', "epoch", text)
    return re.sub(r"[ \n]+", " ", text).strip()
