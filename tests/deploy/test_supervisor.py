"""The configuration for supervisord, run by the real supervisord: killed, restarted, replaced under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.integration.guests import ROOT, counter
from tests.integration.test_replacing import sandboxes_in_service
from tests.integration.test_resilience import check_counted, press
from tests.support.system import Process, System, eventually

pytestmark = [
    pytest.mark.skipif("os.geteuid() != 0", reason="supervisord starts the pool as root"),
    pytest.mark.timeout(180),
]

CONFIGURATION: Final = ROOT / "deploy" / "supervisord.conf"
#: How long something that supervisord is to do may take, in seconds.
WITHIN_S: Final = 60.0


class Supervised(System):
    """A system whose programs supervisord starts, as its configuration says, in a folder of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.programs = Path(sys.executable).parent
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.configuration = self.folder / "supervisord.conf"
        self.configuration.write_text(self._translated(CONFIGURATION.read_text()))
        self.secret = self.folder / "secret"
        (self.folder / "panels.toml").write_text(f"port = {self.port}\n")
        (self.folder / "panels-worker.toml").write_text("processes = 2\n")
        self.daemon: Process | None = None

    def _translated(self, text: str) -> str:
        """The configuration with the paths of this folder, for users that every system has."""
        folder = str(self.folder)
        for path, here in (
            ("/opt/panels/bin", str(self.programs)),
            ("/etc/panels/jwt-secret", f"{folder}/secret"),
            ("/etc/panels", folder),
            ("/var/lib/panels", f"{folder}/data"),
            ("/var/cache/panels-worker", f"{folder}/cache"),
            ("/run/", f"{folder}/"),
            ("/dev/stdout", f"{folder}/programs.log"),
            ("user=panels\n", ""),
            ("--user panels-sandbox", "--user nobody"),
        ):
            assert path in text
            text = text.replace(path, here)
        return text

    def supervise(self) -> None:
        """Starts supervisord."""
        arguments = ["supervisor.supervisord", "-c", str(self.configuration)]
        self.daemon = Process.start("supervisord", self.folder, arguments)

    def start_supervised(self) -> None:
        """Starts supervisord, and returns once a job can be run."""
        self.supervise()
        eventually(lambda: self.health() == 200, within_s=WITHIN_S, what="a system that is ready")

    def control(self, *arguments: str) -> str:
        """What supervisorctl says."""
        told = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.configuration), *arguments],
            capture_output=True, text=True, check=False, timeout=WITHIN_S, cwd=self.folder,
        )  # fmt: skip
        return told.stdout + told.stderr

    def state_of(self, program: str) -> str:
        """RUNNING, EXITED and so on."""
        words = self.control("status", program).split()
        return words[1] if len(words) > 1 else ""

    def process(self, program: str) -> psutil.Process:
        """The process of a program that runs, once it does."""

        def look() -> psutil.Process | None:
            number = self.control("pid", program).strip()
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(int(number)) if number.isdecimal() and number != "0" else None
            return None

        found = eventually(look, within_s=WITHIN_S, what=f"a process of {program}")
        assert found is not None
        return found

    def descendant(self, program: str, word: str) -> psutil.Process:
        """A process that ``program`` has started, whose command line has ``word``."""

        def look() -> psutil.Process | None:
            for child in self.process(program).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any(word in argument for argument in child.cmdline()):
                        return child
            return None

        found = eventually(look, within_s=WITHIN_S, what=f"a process of {program} with {word}")
        assert found is not None
        return found

    def sandboxes(self) -> list[psutil.Process]:
        found = []
        for process in self.process("panels-worker").children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if any("sandbox" in word for word in process.cmdline()):
                    found.append(process)
        return found

    @property
    def log(self) -> str:
        """What the programs have written."""
        return (self.folder / "programs.log").read_text()

    def remember_children(self) -> None:
        if self.daemon is not None:
            for child in self.daemon.children():
                self._everyone[child.pid] = child

    def close(self) -> None:
        self.remember_children()
        if self.daemon is not None and self.daemon.running:
            self.daemon.kill()
        super().close()


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    with Supervised() as system:
        yield system


def call_again(system: Supervised, panel: str) -> object:
    """The count that a new client's trigger returns, once the system can run it."""

    def attempt() -> object:
        with contextlib.suppress(Exception):
            response = system.http.post(f"/panels/{panel}/trigger/count")
            return response.json()["result"]["returnValue"] if response.status_code == 200 else None
        return None

    return eventually(attempt, within_s=WITHIN_S, what="a trigger that works")


def test_every_process_that_is_killed_comes_back_and_nothing_is_lost(supervised: Supervised) -> None:
    supervised.start_supervised()
    panel = supervised.make_panel(counter(), state={"count": 0})
    victims: tuple[Callable[[], psutil.Process], ...] = (
        lambda: supervised.process("panels-gateway"),
        lambda: supervised.process("panels-worker"),
        lambda: supervised.descendant("panels-gateway", "fold"),
        lambda: supervised.descendant("panels-worker", "sandbox"),
    )
    for number, find in enumerate(victims, 1):
        victim = find()
        victim.send_signal(signal.SIGKILL)
        psutil.wait_procs([victim], timeout=WITHIN_S)
        supervised.close_http()
        assert call_again(supervised, panel) == number
    assert supervised.state(panel) == {"count": len(victims)}
    assert {supervised.state_of(name) for name in ("panels-gateway", "panels-worker")} == {"RUNNING"}


def test_restart_of_each_program_is_orderly(supervised: Supervised) -> None:
    supervised.start_supervised()
    panel = supervised.make_panel(counter(), state={"count": 0})
    with supervised.connect(panel) as client:
        assert client.call("count") == 1
        assert "started" in supervised.control("restart", "panels-gateway")
        assert client.await_close()[0] == 1012
    supervised.close_http()
    assert call_again(supervised, panel) == 2
    before = {process.pid for process in supervised.sandboxes()}
    assert "started" in supervised.control("restart", "panels-worker")
    assert call_again(supervised, panel) == 3
    assert not before & {process.pid for process in supervised.sandboxes()}
    daemon, children = supervised.daemon, supervised.daemon.children() if supervised.daemon else []
    assert daemon is not None
    assert daemon.stop() == 0
    assert psutil.wait_procs(children, timeout=WITHIN_S)[1] == []
    assert "Traceback" not in supervised.log


def test_replacement_of_all_sandboxes_under_load_fails_no_trigger(supervised: Supervised) -> None:
    supervised.start_supervised()
    panels = [supervised.make_panel(counter(), state={"count": 0}) for _ in range(2)]
    before = eventually(lambda: found if len(found := sandboxes_in_service(supervised)) == 2 else set())

    async def replace() -> None:
        done = asyncio.Event()
        pressing = [
            asyncio.create_task(press(supervised, panel, triggers=10**6, window=4, name=panel, until=done))
            for panel in panels
        ]
        assert "signalled" in await asyncio.to_thread(supervised.control, "signal", "HUP", "panels-worker")
        await asyncio.to_thread(
            eventually,
            lambda: len(now := sandboxes_in_service(supervised)) == 2 and not now & before,
            within_s=WITHIN_S,
            what="two other sandboxes",
        )
        done.set()
        for panel, record in zip(panels, await asyncio.gather(*pressing), strict=True):
            assert check_counted(supervised, panel, [record]) > 0

    asyncio.run(replace())


def has_exited(system: Supervised, program: str) -> bool:
    """Whether supervisord takes the program's end for final."""
    return system.state_of(program) == "EXITED"


def test_configuration_that_cannot_work_is_not_tried_again(supervised: Supervised) -> None:
    for name in ("panels.toml", "panels-worker.toml"):
        (supervised.folder / name).write_text("nonsense = 1\n")
    supervised.supervise()
    for program in ("panels-gateway", "panels-worker"):
        eventually(partial(has_exited, supervised, program), within_s=WITHIN_S, what=f"{program} to end")
    # each turn of supervisord's loop would start them again
    for _ in range(3):
        supervised.control("status")
    assert supervised.log.count("nonsense") == 2


def test_secrets_of_the_installation_are_not_in_the_configuration() -> None:
    text = CONFIGURATION.read_text()
    assert "password" not in text
    assert os.sep + "home" not in text
