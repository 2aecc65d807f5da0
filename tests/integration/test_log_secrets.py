"""No log and no process title of a running system holds a token or a key; ids go from gateway to worker."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.support.system import System, eventually
from tests.support.tokens import Issuer

PANEL: dict[str, Any] = {
    "id": "p",
    "kind": "k",
    "initialState": {"n": 0},
    "tools": [{"name": "inc", "handler": "$state.n++; console.log('counted'); return $state.n"}],
}
#: Everything speaks, libraries too.
TALKATIVE = ["--log-level=debug,uvicorn=debug,websockets=debug,asyncio=debug"]


@pytest.fixture(params=["json", "text"])
def talkative(request: pytest.FixtureRequest, cache_dir: Path) -> Iterator[System]:
    flags = [*TALKATIVE, f"--log-format={request.param}"]
    with System(gateway=[*flags, "--access-log"], pool=flags, cache_dir=cache_dir) as started:
        yield started.start()


def lines(text: str) -> list[dict[str, Any]]:
    """The records of a log in JSON; a line that is none fails the test."""
    return [json.loads(line) for line in text.splitlines()]


def titles(system: System) -> str:
    """Names and command lines of all processes, as others on the machine see them."""
    seen: list[str] = []
    for process in system.processes():
        for each in (psutil.Process(process.pid), *process.children()):
            with contextlib.suppress(psutil.Error):
                seen += [each.name(), *each.cmdline()]
    return "\n".join(seen)


def use(system: System, tokens: list[str]) -> None:
    """Every way to bring a token, good ones and bad ones, to paths that exist and to others."""
    for token in tokens:
        for path in ("/panels/p/state", "/panels", "/panels/none", "/nowhere", "/metrics", "/panels/p/ws"):
            httpx.get(f"{system.url}{path}", params={"token": token}, trust_env=False)
            httpx.get(f"{system.url}{path}", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        httpx.post(
            f"{system.url}/panels/p/trigger/inc?token={token}",
            json={"args": {}, "requestId": "our-request"},
            timeout=40,
            trust_env=False,
        )
        offered = [Subprotocol("panels.v1"), Subprotocol(f"bearer.{token}")]
        ways: list[dict[str, Any]] = [
            {"subprotocols": offered},
            {"additional_headers": {"Origin": "https://app.example"}},
        ]
        for options in ways:
            with contextlib.suppress(InvalidStatus):
                url = system.socket_url("p") + ("" if "subprotocols" in options else f"?token={token}")
                with connect(url, proxy=None, compression=None, **options) as socket:
                    socket.recv(20)


def test_no_log_and_no_title_holds_a_token_or_a_key(talkative: System) -> None:
    assert talkative.http.post("/panels", json=PANEL).status_code == 201
    good, bad, late = talkative.token(), Issuer().mint(), talkative.issuer.mint(expires_in_s=-60)
    use(talkative, [good, bad, late, "CANARY-no-token"])
    seen = titles(talkative)
    talkative.kill_sandbox()
    for process in talkative.processes():
        process.signal(signal.SIGHUP)
    eventually(lambda: "keys read again" in talkative.the_gateway().text, what="the keys to be read again")
    eventually(lambda: "ended" in talkative.pool.text, what="the pool to speak of its sandbox")
    talkative.await_ready()
    assert talkative.pool.stop() == 0
    assert talkative.the_gateway().stop() == 0
    texts = {process.name: process.text for process in talkative.processes()}
    assert all("panels.gateway.access" in text or "sandbox" in text for text in texts.values())
    bus_key = Path(talkative.endpoint.removeprefix("ipc://") + ".key").read_text().strip()
    assert len(bus_key) == 64
    secrets = [talkative.issuer.secret, bus_key, "CANARY-no-token"]
    for token in (good, bad, late, talkative.token()):
        # the header of all of them is the same and secret to nobody
        secrets += token.split(".")[1:]
    for where, text in {**texts, "titles": seen}.items():
        for secret in secrets:
            assert secret not in text, f"{where} holds a secret"


def test_ids_go_from_the_gateway_to_the_worker(cache_dir: Path) -> None:
    with System(gateway=["--log-format=json"], pool=["--log-format=json"], cache_dir=cache_dir) as system:
        system.start(processes=1)
        system.http.post("/panels", json=PANEL)
        body = {"args": {}, "requestId": "our-request"}
        assert system.http.post("/panels/p/trigger/inc", json=body).status_code == 200
        told = [each for each in lines(system.the_gateway().text) if each["logger"] == "panels.handler"]
        (line,) = told
        assert (line["level"], line["event"]) == ("info", "p/inc: counted")
        assert (line["panel"], line["tool"], line["request"]) == ("p", "inc", "our-request")
        assert isinstance(line["job"], int)
        ready = [each for each in lines(system.pool.text) if each["event"].startswith("ready; confined by")]
        assert [each["worker"] for each in ready] == [line["worker"]]
        assert ready[0]["pid"] == system.sandboxes()[0].pid
        here = [each for each in lines(system.the_gateway().text) if "is here" in each["event"]]
        assert line["worker"] in [each["worker"] for each in here]
