"""The commands that README.md and docs/operations.md print, run as they are printed. Ports and directories
alone are others.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from panels_shared.endpoint import parse_one_key
from tests.integration.conftest import MakeSystem
from tests.integration.guests import ROOT, counter
from tests.support.system import System, eventually

pytestmark = pytest.mark.timeout(120)

BLOCK = re.compile(r"(?:^    .*\n)+", re.MULTILINE)


def blocks(document: str, heading: str) -> list[str]:
    """The indented blocks of a section, without their indentation."""
    text = (ROOT / document).read_text()
    section = re.split(r"^## ", text[text.index(f"## {heading}\n") + 3 :], maxsplit=1, flags=re.MULTILINE)[0]
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in BLOCK.findall(section)]


class Terminal:
    """A shell with job control, which is given one block after the other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            text=True,
        )
        self.run("set -m")

    def run(self, block: str) -> str:
        """What comes until the block has ended; its last exit status has to be 0."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{block.rstrip()}\necho; echo ended with $?\n")
        self.shell.stdin.flush()
        lines: list[str] = []
        for line in self.shell.stdout:
            lines.append(line)
            if line.startswith("ended with "):
                assert line == "ended with 0\n", "".join(lines)
                return "".join(lines[:-1])
        raise AssertionError("the shell ended:\n" + "".join(lines))

    def close(self) -> None:
        """Ends what the shell may have left running, and the shell."""
        assert self.shell.stdin is not None
        if self.shell.poll() is None:
            self.shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
            self.shell.stdin.close()
            self.shell.wait(30)
        assert self.shell.stdout is not None
        self.shell.stdout.close()


@pytest.fixture
def clone() -> Iterator[Path]:
    """What a clone has where the README's commands look for it. Its name is short: a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="panels-", dir="/tmp") as name:
        folder = Path(name)
        (folder / ".venv").symlink_to(sys.prefix)
        (folder / "examples").symlink_to(ROOT / "examples")
        yield folder


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_readme_can_be_followed_to_the_letter(clone: Path) -> None:
    port = free_port()
    start, watch, message, shown, ask, stop = (
        block.replace(":3001", f":{port}") for block in blocks("README.md", "A handler")
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
    environment |= {"PANELS_PORT": str(port), "XDG_CACHE_HOME": str(clone / "cache")}
    terminal = Terminal(clone, environment)
    try:
        assert f'"wsUrl":"ws://127.0.0.1:{port}/panels/poll/ws"' in terminal.run(start)
        with subprocess.Popen(
            watch.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=clone, text=True
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(message)
            client.stdin.flush()
            heard = []
            for line in client.stdout:
                if found := re.search(r'\{"type":"(\w+)".*', line):
                    heard.append(found)
                    if found[1] == "RESULT":
                        break
            client.kill()
        kinds = [json.loads(line)["type"] for line in shown.splitlines() if "…" not in line]
        assert [found[1] for found in heard] == ["CONNECTED", *kinds, "RESULT"]
        assert json.loads(heard[1][0]) == json.loads(shown.splitlines()[0])

        answers = terminal.run(ask)
        again = terminal.run(ask)
        assert '"returnValue":{"coffee":1}' in answers
        assert '"args":{"choice":"coffee"}' in answers
        result, history = (line for line in answers.splitlines() if line.startswith("{"))
        assert [result, history] == [line for line in again.splitlines() if line.startswith("{")]

        terminal.run(stop)
        terminal.run("wait")
    finally:
        terminal.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def comparable(text: str) -> str:
    """``text`` with each number as N, and without the progress, which a quick command does not tell."""
    return re.sub(r"\d+", "N", re.sub(r"^\w+: \d+ %\n", "", text, flags=re.MULTILINE))


def test_operations_commands_work_as_printed(make_system: MakeSystem) -> None:
    system = make_system(auth=False)
    definition = {"id": "panel-1", "kind": "test", "initialState": {"count": 0}, "tools": [counter()]}
    assert system.http.post("/panels", json=definition).status_code == 201
    with system.connect("panel-1") as client:
        assert client.call("count") == 1
    there = {
        "/var/lib/panels": str(system.folder / "data"),
        "/backup/": f"{system.folder}/",
        "/srv/panels": str(system.folder / "data.new"),
        "/tmp/panel-1.json": str(system.folder / "panel-1.json"),
    }
    wanted = ["backup", "restore", "install", "verify", "export", "import"]
    for heading in ("Backup and restore", "Verify", "Export and import"):
        for block in blocks("docs/operations.md", heading):
            for command in re.split(r"^(?=\$ )", block, flags=re.MULTILINE):
                if not command.startswith("$ "):
                    continue
                here = re.sub("|".join(map(re.escape, there)), lambda found: there[found[0]], command)
                line, _, output = here.partition("\n")
                program, *rest = line.removeprefix("$ ").split()
                words = (
                    [sys.executable, "-m", "panels_gateway", *rest]
                    if program == "panels-gateway"
                    else [program, *rest]
                )
                done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=50)
                assert done.returncode == 0, done.stderr
                assert comparable(done.stderr + done.stdout) == comparable(output)
                assert wanted.pop(0) in line
    assert wanted == []


def waits(system: System) -> str:
    """A panel whose handler asks a question, and then sets ``done``."""
    tool = {
        "name": "wait",
        "handler": "await $ext.human.ask('sure?'); $state.done = true;",
        "capabilities": ["ext:human", "state:read:*", "state:write:*"],
    }
    made = system.http.post("/panels", json={"kind": "test", "tools": [tool]})
    assert made.status_code == 201, made.text
    panel: str = made.json()["id"]
    with system.connect(panel) as client:
        client.send_trigger("wait")
        eventually(lambda: system.http.get(f"/panels/{panel}/suspensions").json()["suspensions"])
    return panel


@pytest.mark.parametrize("key", [True, False], ids=["with its key", "without"])
def test_restored_handlers_go_on_with_the_seal_key_alone(make_system: MakeSystem, key: bool) -> None:
    system = make_system(auth=False)
    panel = waits(system)
    data, copy = system.folder / "data", system.folder / "copy"
    program = [sys.executable, "-m", "panels_gateway"]
    subprocess.run([*program, "backup", f"--data-dir={data}", copy], check=True, capture_output=True)
    assert system.the_gateway().stop() == 0
    data.rename(system.folder / "old")
    subprocess.run([*program, "restore", f"--data-dir={data}", copy], check=True, capture_output=True)
    if key:
        shutil.copy(system.folder / "old" / "seal.key", data)
    restarted = system.start_gateway()
    (waiting,) = system.http.get(f"/panels/{panel}/suspensions").json()["suspensions"]
    answered = f"/panels/{panel}/suspensions/{waiting['id']}/answer"
    assert system.http.post(answered, json={"value": True}).status_code == 204
    eventually(lambda: not system.http.get(f"/panels/{panel}/suspensions").json()["suspensions"])
    state = system.http.get(f"/panels/{panel}/state").json()["state"]
    assert state == ({"done": True} if key else {})
    assert ("not sealed with this directory's seal.key" in restarted.text) is not key


def test_printed_command_makes_keys_as_both_programs_take_them() -> None:
    (command,) = (
        block
        for block in blocks("docs/configuration.md", "Workers on other hosts")
        if block.startswith("python -c ")
    )
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    public, secret = done.stdout.splitlines()
    assert zmq.curve_public(parse_one_key(secret.encode(), option="o", path="p")) == public.encode()


def test_printed_command_makes_a_token_that_the_gateway_takes(make_system: MakeSystem) -> None:
    (command,) = (
        block.strip() for block in blocks("docs/configuration.md", "Keys and tokens") if "jwt.encode" in block
    )
    system = make_system()
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=system.folder)
    with system.http_client(done.stdout.strip()) as client:
        assert client.get("/panels").status_code == 200
