"""Panels as durable streams at a real gateway: with an HTTP client, and with the protocol's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.integration.conftest import MakeSystem
from tests.support.resume_runner import APPLY
from tests.support.system import System

FOLDER: Final = Path(__file__).parent / "durable_streams"
OLDEST_NODE: Final = 20
TOOLS: Final = [{"name": "apply", "handler": APPLY}]


def make(system: System, panel: str, **fields: object) -> None:
    definition = {"id": panel, "kind": "test", "tools": TOOLS, **fields}
    response = system.http.post("/panels", json=definition)
    assert response.status_code == 201, response.text


def apply(
    system: System, panel: str, *, emit: list[tuple[str, object]] | None = None, **changes: object
) -> None:
    args = {"set": changes, "delete": [], "emit": emit or []}
    response = system.http.post(f"/panels/{panel}/trigger/apply", json={"args": args})
    assert response.status_code == 200, response.text


def read(system: System, panel: str, **query: str) -> httpx.Response:
    return system.http.get(f"/panels/{panel}/stream", params=query)


def values(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(message["key"], message.get("value")) for message in messages if "key" in message]


class Events:
    """The server-sent events of one response, one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()
        self.offset = ""

    def following(self) -> tuple[str, Any]:
        """The next event: its name and what it carries."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line and fields:
                carried = json.loads(fields["data"])
                if fields["event"] == "control":
                    self.offset = carried["streamNextOffset"]
                return fields["event"], carried
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        raise AssertionError("expected another event, and the response ended")


@contextmanager
def listening(system: System, panel: str, offset: str) -> Iterator[Events]:
    query = {"live": "sse", "offset": offset}
    with (
        system.http_client(system.token()) as client,
        client.stream("GET", f"/panels/{panel}/stream", params=query) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)


def test_reader_catches_up_then_polls(system: System) -> None:
    make(system, "polled", initialState={"n": 0})
    first = read(system, "polled")
    assert values(first.json()) == [("n", 0)]
    start = first.headers["stream-next-offset"]
    apply(system, "polled", n=1)
    page = read(system, "polled", offset=start)
    assert (values(page.json()), page.headers["stream-up-to-date"]) == ([("n", 1)], "true")
    again = system.http.get(
        "/panels/polled/stream", params={"offset": start}, headers={"If-None-Match": page.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    following = page.headers["stream-next-offset"]
    assert following > start
    with system.connect("polled") as client:
        # whoever polls is told with everybody else
        client.send_trigger("apply", {"set": {"n": 2}, "delete": [], "emit": []})
        polled = read(
            system, "polled", offset=following, live="long-poll", cursor=page.headers["stream-cursor"]
        )
    assert values(polled.json()) == [("n", 2)]
    assert system.http.head("/panels/polled/stream").headers["stream-next-offset"] > following


def test_events_follow_as_they_happen(system: System) -> None:
    make(system, "followed")
    with listening(system, "followed", "-1") as events:
        assert [name for name, _ in (events.following(), events.following())] == ["data", "control"]
        for number in range(3):
            apply(system, "followed", n=number)
            name, messages = events.following()
            assert (name, values(messages)) == ("data", [("n", number)])
            assert events.following()[1]["upToDate"] is True


@pytest.mark.timeout(120)
def test_offset_goes_on_after_the_gateway_was_killed(make_system: MakeSystem) -> None:
    system = make_system()
    make(system, "p")
    apply(system, "p", n=1)
    with listening(system, "p", "-1") as events:
        events.following()
        events.following()
        apply(system, "p", n=2)
        assert values(events.following()[1]) == [("n", 2)]
        events.following()
        offset = events.offset
        system.the_gateway().kill()
        with pytest.raises((httpx.TransportError, AssertionError)):
            events.following()
    system.close_http()
    system.start_gateway()
    system.await_ready()
    assert read(system, "p", offset=offset).json() == []
    apply(system, "p", n=3)
    assert values(read(system, "p", offset=offset).json()) == [("n", 3)]
    with listening(system, "p", offset) as events:
        assert values(events.following()[1]) == [("n", 3)]
    # another panel of the same id is another stream
    assert system.http.delete("/panels/p").status_code == 204
    make(system, "p")
    gone = read(system, "p", offset=offset, live="long-poll")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "HISTORY_GONE")
    assert read(system, "p").headers["stream-next-offset"] != offset


@pytest.mark.timeout(120)
def test_gateway_that_is_told_to_stop_ends_what_is_live(make_system: MakeSystem) -> None:
    system = make_system(processes=0)
    assert system.http.post("/panels", json={"id": "p", "kind": "test", "tools": []}).status_code == 201
    with listening(system, "p", "now") as events:
        assert events.following()[0] == "control"
        assert system.the_gateway().stop() == 0
        with pytest.raises(AssertionError, match="the response ended"):
            events.following()


# -- the protocol's own client -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder with the protocol's client in it."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if not missing:
        version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
            missing = [f"node {OLDEST_NODE}"]
    if missing:
        if os.environ.get("CI_TOOLCHAIN"):
            pytest.fail(f"expected {missing[0]} on PATH")
        pytest.skip(f"expected {missing[0]} on PATH")
    wanted = json.loads((FOLDER / "package.json").read_text())["devDependencies"]
    for name, version in wanted.items():
        manifest = FOLDER / "node_modules" / name / "package.json"
        if not manifest.exists() or json.loads(manifest.read_text())["version"] != version:
            command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=200)
            assert done.returncode == 0, done.stderr
            break
    return FOLDER


class Follower:
    """The protocol's client in a process of its own, which prints a line of JSON for all that it hears."""

    def __init__(self, system: System, package: Path, panel: str, **environment: str) -> None:
        self.child = subprocess.Popen(
            ["node", "follow.mjs"],
            cwd=package,
            env={
                **os.environ,
                "STREAM_URL": f"{system.url}/panels/{panel}/stream",
                "PANELS_TOKEN": system.token(),
                **environment,
            },
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> Any:
        """What it printed next."""
        assert self.child.stdout is not None
        printed = self.child.stdout.readline()
        assert printed, "expected another line, and the client ended"
        return json.loads(printed)

    def until(self, n: int | None) -> Any:
        """The first line with this ``n``."""
        while (line := self.line()).get("n") != n:
            pass
        return line

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()


@contextmanager
def following(system: System, package: Path, panel: str, **environment: str) -> Iterator[Follower]:
    follower = Follower(system, package, panel, **environment)
    try:
        yield follower
    finally:
        follower.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("live", ["long-poll", "sse"])
def test_client_from_npm_follows_a_panel(system: System, package: Path, live: str) -> None:
    panel = f"npm-{live}"
    make(system, panel, initialState={"n": {"is": 0}, "kept": "é\n"})
    offset = ""
    with following(system, package, panel, LIVE=live, UNTIL="3") as follower:
        follower.until(0)
        for number in range(1, 4):
            apply(system, panel, emit=[("e", number)], n={"is": number})
            offset = follower.until(number)["offset"]
        last = follower.line()
    assert last["state"] == {"n": {"is": 3}, "kept": "é\n"}
    assert last["events"] == [["1.0", "e"], ["2.0", "e"], ["3.0", "e"]]
    # another one goes on where this one was
    apply(system, panel, n={"is": 4})
    with following(system, package, panel, LIVE=live, UNTIL="4", OFFSET=offset) as follower:
        assert follower.until(4)["n"] == 4
        assert follower.line()["state"] == {"n": {"is": 4}}


@pytest.mark.timeout(300)
def test_database_from_npm_has_the_state(system: System, package: Path) -> None:
    make(system, "npm-db", initialState={"n": {"is": 0}})
    with following(system, package, "npm-db", LIVE="sse", UNTIL="2", DB="1") as follower:
        assert follower.line() == {"n": 0}
        apply(system, "npm-db", added={"is": 1})
        apply(system, "npm-db", n={"is": 2})
        assert follower.line() == {"keys": ["added", "n"]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("live", ["long-poll", "sse"])
def test_client_from_npm_outlives_the_gateway(make_system: MakeSystem, package: Path, live: str) -> None:
    system = make_system()
    make(system, "p", initialState={"n": {"is": 0}})
    with following(system, package, "p", LIVE=live, UNTIL="2") as follower:
        follower.until(0)
        apply(system, "p", n={"is": 1})
        follower.until(1)
        system.the_gateway().kill()
        system.close_http()
        system.start_gateway()
        system.await_ready()
        apply(system, "p", n={"is": 2})
        follower.until(2)
        assert follower.line()["state"] == {"n": {"is": 2}}
