"""`panels up` with the real console scripts: files that change, mistakes in them, its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from panels_cli import development
from tests.integration.conftest import MakeSystem
from tests.integration.test_printed_commands import free_port
from tests.support.backdoor import taken_over
from tests.support.browser import running_browser
from tests.support.system import eventually

pytestmark = pytest.mark.timeout(180)

PANELS = str(Path(sys.executable).parent / "panels")
DEADLINE_S = 60.0


class Place:
    """A folder with the panel `tally` in it if it is ``made``, and a configuration of its own."""

    def __init__(self, folder: Path, *, made: bool = True) -> None:
        self.folder = folder / "w"
        self.folder.mkdir()
        self.log = folder / "up.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
        self.environment = {**inherited, "PANELS_CLI_CONFIG": str(folder / "config.toml")}
        if made:
            assert self.run("init", "tally").returncode == 0
        self.handler = self.folder / "tally" / "add.js"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PANELS, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    def call(self, args: str = "{}") -> str:
        done = self.run("call", "tally", "add", args)
        return (done.stdout + done.stderr).strip()

    @contextmanager
    def up(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`panels up`, once the panel is there; what it started is ended with it."""
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                [PANELS, "up", "--port", str(free_port()), *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        children: list[psutil.Process] = []
        try:
            self.shows('"applied"' if "--json" in arguments else "call tally add", process)
            children = psutil.Process(process.pid).children(recursive=True)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(40)
            finally:
                process.kill()
            _, alive = psutil.wait_procs(children, timeout=20)
            for child in alive:
                child.kill()
            assert alive == [], "something was left running"

    def shows(self, text: str, process: subprocess.Popen[bytes] | None = None) -> str:
        """What was printed, once ``text`` is in it."""

        def look() -> bool:
            if process is not None and process.poll() is not None:
                raise AssertionError(self.log.read_text())
            return text in self.log.read_text()

        eventually(look, within_s=DEADLINE_S, what=text)
        return self.log.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_handler_follows_its_file_and_the_state_stays(place: Place) -> None:
    with place.up() as process:
        assert place.call() == "1"
        place.handler.write_text(place.handler.read_text().replace("?? 1;", "?? 10;"))
        place.shows("tally changes")
        assert place.call() == "11"
        # every trigger ran twice, and nobody sees it
        assert any("--verify-replay" in child.cmdline() for child in psutil.Process(process.pid).children())
        assert json.loads(place.run("get", "tally", "--json").stdout)["seq"] == 2
        assert "would not replay" not in place.log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0, place.log.read_text()
    assert "stopping" in place.log.read_text()
    assert "up-w" not in place.run("context", "ls").stdout
    with place.up():
        assert "is as the folder says" in place.log.read_text()
        assert place.call() == "21"


def test_mistakes_are_shown_in_their_files_and_the_old_definition_stays(place: Place) -> None:
    good = place.handler.read_text()
    definition = place.folder / "tally" / "panel.toml"
    toml = definition.read_text()
    with place.up():
        place.handler.write_text("const = 1;\n")
        assert "tally/add.js:1:" in place.shows("    const = 1;\n    ")
        assert place.call() == "1"
        place.handler.write_text("")
        place.shows("tally/add.js: expected something in it, got an empty file")
        assert place.call() == "2"
        place.handler.write_text(good)
        place.shows("tally is as the folder says")

        definition.write_text(toml + "\n[tools.half\n")
        assert "panel.toml:" in place.shows("    [tools.half\n               ^")
        assert place.call() == "3"
        (place.folder / "tally" / "add.ts").write_text("const by: number = ;\nreturn by;\n")
        definition.write_text(toml.replace("add.js", "add.ts"))
        assert "tally/add.ts:1:" in place.shows("    const by: number = ;\n")
        assert place.call() == "4"
        definition.write_text(toml)
        # an exception at run time, with the line that threw it
        assert "failed at line 3" in place.call('{"by": "two"}')
        text = place.shows("failed at line 3")
        assert "tally/add.js:3:" in text
        assert '    if (!Number.isInteger(by)) throw new Error("expected by to be a whole number");' in text


def test_handler_that_would_not_replay_is_told_of() -> None:
    """A sandbox whose random numbers are not the job's, in a pool that is started as `up` starts it."""
    with taken_over(
        """
from dataclasses import replace
from itertools import count
from panels_worker.javascript.program import JavaScriptProgram

seeds = count()
run = JavaScriptProgram.run
JavaScriptProgram.run = lambda self, task: run(self, replace(task, seed=next(seeds)))

def attack(captive):
    pass
""",
        gateway=["--log-format=json"],
        pool=["--verify-replay"],
    ) as taken:
        system = taken.system
        system.await_ready()
        steady = {"name": "steady", "handler": "$state.n = 1; return $state.n;"}
        random = {"name": "random", "handler": "$state.n = Math.random(); $emit('e', 1); return 1;"}
        definition = {"id": "p", "kind": "test", "tools": [steady, random]}
        assert system.http.post("/panels", json=definition).status_code == 201
        with system.connect("p") as client:
            assert client.call("steady") == 1
            assert client.call("random") == 1
            eventually(lambda: "would not replay" in system.the_gateway().text, within_s=DEADLINE_S)
        lines = [
            shown
            for line in system.the_gateway().text.splitlines()
            if (shown := development.logged(line)) and "would not replay" in shown.text
        ]
        assert [shown.kind for shown in lines] == ["warning"]
        assert lines[0].text.startswith("p/random: ")
        assert "differs in mutations" in lines[0].text
        assert system.http.get("/panels/p/state").json()["seq"] == 2, "the second runs had no effects"


def test_page_shows_the_panel_and_calls_its_tools(place: Place, tmp_path: Path) -> None:
    with running_browser(tmp_path) as browser, place.up():
        (link,) = re.findall(r"http://127\.0\.0\.1:\d+/[\w-]{16}/#tally", place.log.read_text())
        tab = browser.open(link, width=360)
        tab.wait("document.querySelector('#status').textContent.startsWith('connected')")
        tab.wait("document.querySelector('#tool').value === 'add'")
        assert place.call() == "1"
        tab.wait("""document.querySelector('#state').textContent.includes('"count": 1')""")
        tab.evaluate("document.querySelector('#args').value = ''")
        tab.type("#args", '{"by": 4}')
        tab.wait("document.querySelector('#answer').textContent === '5'")
        tab.wait("document.querySelector('#events').firstChild.textContent === 'counted 5'")
        tab.evaluate("document.querySelector('#args').value = ''")
        tab.type("#args", '{"by": "two"}')
        tab.wait("document.querySelector('#answer').textContent.includes('whole number')")
        assert tab.problems == []
        # without the secret path there is no page, and no token
        origin = link.split("/#")[0].rpartition("/")[0]
        for path in ("/", "/panels.json", "/AAAAAAAAAAAAAAAA/panels.json"):
            assert httpx.get(origin + path, trust_env=False).status_code == 404


def test_new_and_removed_folders_are_noticed(place: Place) -> None:
    with place.up():
        assert place.run("init", "second", "--template", "ts").returncode == 0
        place.shows("call second add")
        assert place.run("call", "second", "add").stdout == "1\n"
        (place.folder / "second" / "panel.toml").unlink()
        place.shows("second has no panel.toml any more")
        assert place.run("call", "second", "add").stdout == "2\n"


def test_second_up_in_the_folder_is_refused(place: Place) -> None:
    with place.up() as process:
        second = place.run("up")
        assert second.returncode == 2
        assert f"runs there already, as process {process.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert place.call() == "1"


def test_port_in_use_is_one_sentence(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = place.run("up", "--port", str(port))
    assert refused.returncode == 2
    assert f"cannot listen on port {port}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (place.folder / ".panels-up").exists()


@pytest.mark.parametrize("program", ["panels-gateway", "panels-worker"])
def test_program_that_dies_ends_everything(place: Place, program: str) -> None:
    with place.up() as process:
        victim = next(
            child
            for child in psutil.Process(process.pid).children()
            if any(word.endswith(program) for word in child.cmdline())
        )
        victim.kill()
        assert process.wait(40) == 1
    assert f"panels: {program} ended with status -9" in place.log.read_text()


def test_token_is_needed_unless_it_is_switched_off(place: Place) -> None:
    with place.up("--json"):
        lines = [json.loads(line) for line in place.log.read_text().splitlines()]
        assert [line["event"] for line in lines] == ["ready", "applied"]
        url = lines[0]["url"]
        assert httpx.get(f"{url}/panels", trust_env=False).status_code == 401
        assert place.run("ls").returncode == 0
        assert stat.S_IMODE((place.folder / ".panels-up" / "secret").stat().st_mode) == 0o600
    with place.up("--json", "--no-token"):
        url = json.loads(place.log.read_text().splitlines()[0])["url"]
        assert httpx.get(f"{url}/panels", trust_env=False).status_code == 200


def test_folder_with_a_long_path_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    place = Place(deep)
    with place.up():
        assert place.call() == "1"


def test_gateway_loads_the_same_folders_and_changes_nothing(place: Place, make_system: MakeSystem) -> None:
    system = make_system(gateway=["--panels", str(place.folder)], auth=False)
    eventually(lambda: "tally is made" in system.the_gateway().text, within_s=DEADLINE_S)
    place.environment["PANELS_URL"] = system.url
    assert place.call() == "1"
    assert json.loads(place.run("apply", "tally", "--json").stdout)["request"] is None
    system.the_gateway().stop()
    place.handler.write_text(place.handler.read_text().replace("?? 1;", "?? 10;"))
    system.start_gateway()
    system.await_ready()
    eventually(lambda: "tally is up to date now" in system.the_gateway().text, within_s=DEADLINE_S)
    assert place.call() == "11"
    system.the_gateway().stop()
    system.start_gateway()
    system.await_ready()
    eventually(lambda: "tally is as the folder says" in system.the_gateway().text, within_s=DEADLINE_S)
    assert json.loads(place.run("get", "tally", "--json").stdout)["seq"] == 2
