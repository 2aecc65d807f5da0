"""What tests of the command line share: a gateway of this process with a scripted worker, and a run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from panels_cli.__main__ import run
from panels_shared.outcome import Failed, Outcome, Reason, Usage
from tests.support.gateway import Call, Gateway, follow
from tests.support.server import serving
from tests.support.tokens import Issuer
from tests.support.waiting import act

ISSUER = Issuer()


def respond(call: Call) -> Outcome:
    """The worker: what a handler's source says, else what its arguments say."""
    if call.tool == "fail":
        details = json.dumps({"snippet": "boom()\n^"}).encode()
        return Failed(Usage(fuel=1), Reason.HANDLER_ERROR, "no\x1b[31m", 3, 5, details)
    return act(call) if call.tool == "wait" else follow(call)


@dataclass(frozen=True)
class Ran:
    """How a run ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as one JSON value."""
        assert self.code == 0, self.err
        return json.loads(self.out)


class Terminal:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        self._capsys.readouterr()
        code = run(arguments)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return Ran(code, out, err)


@pytest.fixture
def panels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Terminal:
    """The program, with a configuration of its own and nothing of the environment's."""
    for name in ("PANELS_URL", "PANELS_TOKEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PANELS_CLI_CONFIG", str(tmp_path / "config" / "config.toml"))
    return Terminal(capsys)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """The file with the secret that the gateway trusts."""
    path = tmp_path / "secret"
    path.write_text(ISSUER.secret + "\n")
    return path


@pytest.fixture
def gateway() -> Gateway:
    """The gateway behind ``url``."""
    return Gateway(respond=respond)


@pytest.fixture
def url(
    monkeypatch: pytest.MonkeyPatch, secret_file: Path, panels: Terminal, gateway: Gateway
) -> Iterator[str]:
    """A gateway in a thread, whose URL and a token for it are in the environment."""
    ports: list[int] = []
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with serving(gateway, secret_file=secret_file) as (port, _):
            ports.append(port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        address = f"http://127.0.0.1:{ports[0]}"
        monkeypatch.setenv("PANELS_URL", address)
        monkeypatch.setenv("PANELS_TOKEN", ISSUER.mint("ann"))
        yield address
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(20)


FOLDER = """\
id = "p"
kind = "test"
title = "T"
[initialState]
n = 1
[tools.do]
handler = "do.js"
[tools.fail]
handler = "do.js"
[tools.wait]
handler = "do.js"
capabilities = ["ext:human"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the panel p."""
    path = tmp_path / "p"
    path.mkdir()
    (path / "panel.toml").write_text(FOLDER)
    (path / "do.js").write_text("return 1;\n")
    return path


@pytest.fixture
def panel(url: str, panels: Terminal, folder: Path) -> str:
    """The panel p on the gateway."""
    assert panels("apply", str(folder)).code == 0
    return "p"
