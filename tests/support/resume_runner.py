"""Drives a server through tests/vectors/resume, whatever it is written in, and prints a table. See the README
there.

    scripts/resume_vectors URL [--token TOKEN] [--history-commits N] [NAME ...]

It makes panels on that server, one for each vector, and deletes them. Exit status: 0 when every vector that
was run passed, 1 when one failed, 2 when the server could not be reached.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.support.resume_client import GapError, ProtocolError, ResumingClient, previous

FOLDER: Final = Path(__file__).resolve().parents[1] / "vectors" / "resume"
TIMEOUT_S: Final = 20.0
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
#: The tool by which every commit is made: sets, deletes and emits what its arguments say.
APPLY: Final = """\
for (const [key, value] of Object.entries($args.set)) $state.set(key, value);
for (const key of $args.delete) $state.delete(key);
for (const [name, payload] of $args.emit) $emit(name, payload);
return null;
"""

Json = dict[str, Any]


class VectorError(Exception):
    """What the server did is not what the vector says."""


def expand(value: Any) -> Any:
    """``value`` with each {"$repeat": [text, count]} written out."""
    if isinstance(value, dict):
        if set(value) == {"$repeat"}:
            text, count = value["$repeat"]
            return text * count
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    return value


def load(names: Sequence[str] = ()) -> list[Json]:
    """The vectors of these names, all without any. Raises ``OSError``."""
    paths = [FOLDER / f"{name}.json" for name in names] or sorted(FOLDER.glob("*.json"))
    return [expand(json.loads(path.read_text())) for path in paths]


def essence(message: Mapping[str, Any]) -> Json:
    """What two servers must agree on: the order of a PATCH's mutations, an EVENT's time and unknown fields
    are left out.
    """
    shown: Json = {
        "type": message["type"],
        "seq": message["seq"],
        "follows": previous(message),
        "more": message.get("more", False),
    }
    if message["type"] == "PATCH":
        shown["changes"] = {
            m["key"]: [m["value"]] if m["op"] == "set" else "deleted" for m in message["mutations"]
        }
    else:
        shown["event"] = {"name": message["event"]["name"], "payload": message["event"]["payload"]}
    return shown


def expect(what: str, wanted: object, got: object) -> None:
    """Raises ``VectorError`` unless the two are equal."""
    if wanted != got:
        raise VectorError(f"{what}: expected {_short(wanted)}, got {_short(got)}")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:159] + "…"


# -- the server --------------------------------------------------------------------------------------------


@dataclass
class Panel:
    """One vector's panel on the server. ``epochs`` are those of the panels that have had its id, the last
    one's last.
    """

    http: httpx.Client
    socket_base: str
    id: str
    token: str | None = field(repr=False)
    epochs: list[str] = field(default_factory=list[str])

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        """An answer to a request about the panel. Raises ``VectorError`` unless it is a success."""
        response = self.http.request(method, path, json=body)
        if not response.is_success:
            raise VectorError(f"{method} {path}: {response.status_code} {response.text[:200]}")
        return response

    def create(self, state: Mapping[str, Any]) -> None:
        """Makes the panel."""
        self.ask("POST", "/panels", {"id": self.id, **self._definition(state)})
        self.epochs.append(self.ask("GET", f"/panels/{self.id}/state").json()["epoch"])

    def _definition(self, state: Mapping[str, Any] | None) -> Json:
        made: Json = {"kind": "vector", "tools": [{"name": "apply", "handler": APPLY}]}
        return made if state is None else {**made, "initialState": state}

    def do(self, operation: Mapping[str, Any]) -> None:
        """One operation of a vector."""
        ((kind, value),) = operation.items()
        if kind == "commit":
            self.ask("POST", f"/panels/{self.id}/trigger/apply", {"args": value})
        elif kind == "revert":
            self.ask("POST", f"/panels/{self.id}/revert", {"seq": value})
        elif kind == "replace":
            self.ask("PUT", f"/panels/{self.id}", self._definition(value))
        elif kind == "recreate":
            self.delete()
            self.create(value)
        elif kind == "outlive":
            self._outlive(value["seq"], value["commit"])
        else:
            raise VectorError(f"expected an operation that this runner knows, got {kind!r}")

    def _outlive(self, seq: int, commit: Mapping[str, Any]) -> None:
        # a server may trim in the background and in steps: how soon is its own affair
        deadline = time.monotonic() + TIMEOUT_S
        while self.http.get(f"/panels/{self.id}/history", params={"since": seq}).status_code != 410:
            if time.monotonic() > deadline:
                raise VectorError(f"expected the history to leave version {seq} behind, and it did not")
            self.do({"commit": commit})

    def seq(self) -> int:
        """The panel's version."""
        return int(self.ask("GET", f"/panels/{self.id}/state").json()["seq"])

    def delete(self) -> None:
        """Removes the panel."""
        self.ask("DELETE", f"/panels/{self.id}")

    @contextmanager
    def resume(self, asks: Mapping[str, Any]) -> Iterator[ClientConnection]:
        """A WebSocket that asks to resume, as ``asks`` says."""
        query: dict[str, str] = {"since": str(asks["since"])}
        if asks["epoch"] != "absent":
            query["epoch"] = {"current": self.epochs[-1], "former": self.epochs[0]}.get(
                asks["epoch"], "elsewhere"
            )
        path = f"{self.socket_base}/panels/{self.id}/ws?{urlencode(query)}"
        if "topics" in asks:
            path += "&topics=" + ",".join(quote(topic, safe="") for topic in asks["topics"])
        headers = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        with connect(
            path, additional_headers=headers, max_size=MAX_MESSAGE_BYTES, open_timeout=TIMEOUT_S, proxy=None
        ) as connection:
            yield connection


def heard_until_pong(connection: ClientConnection) -> list[Json]:
    """Everything that the server sends up to the PONG for a PING sent now, without that PONG."""
    connection.send('{"type":"PING"}')
    messages: list[Json] = []
    while True:
        message = json.loads(connection.recv(timeout=TIMEOUT_S))
        if message["type"] == "PONG":
            return messages
        messages.append(message)


# -- a vector ----------------------------------------------------------------------------------------------


def client_of(vector: Mapping[str, Any]) -> ResumingClient:
    """The client as it was when its connection broke. Raises ``VectorError`` where it would not ask what the
    vector asks.
    """
    had = vector["had"]
    client = ResumingClient(position=had["seq"], state=had["state"])
    for message in had["heard"]:
        client.hear(message)
    if vector["asks"]["since"] != "none":
        expect("the vector's since", client.position, vector["asks"]["since"])
    return client


def take(client: ResumingClient, greeting: Mapping[str, Any], messages: Sequence[Json]) -> None:
    """Has the client hear what follows a resume. Raises ``GapError``, ``ProtocolError``."""
    client.connected(greeting)
    for message in messages:
        client.hear(message)


def check_end(client: ResumingClient, ends: Mapping[str, Any], *, last: int) -> None:
    """Raises ``VectorError`` unless the client ended as it must. ``last`` is the panel's version at the
    resume.
    """
    expect("position at the end", last if ends["seq"] == "last" else ends["seq"], client.position)
    expect("state at the end", ends["state"], client.state)
    expect("events at the end", ends["events"], [list(seen) for seen in client.events])


def run(vector: Mapping[str, Any], panel: Panel) -> None:
    """Takes one server through one vector. Raises ``VectorError``, ``GapError``, ``ProtocolError``."""
    client = client_of(vector)
    sent, then = vector["sent"], vector.get("then", {"operations": [], "messages": []})
    panel.create(vector["panel"]["initialState"])
    for operation in vector["operations"]:
        panel.do(operation)
    last = panel.seq()
    with panel.resume(vector["asks"]) as connection:
        greeting, *messages = heard_until_pong(connection)
        expect("the first message", "CONNECTED", greeting["type"])
        expect("recovered", sent["recovered"], greeting.get("recovered"))
        expect("seq of CONNECTED", last if sent["seq"] == "last" else sent["seq"], greeting["seq"])
        expect("epoch of CONNECTED", panel.epochs[-1], greeting["epoch"])
        expect("state of CONNECTED", sent.get("state"), greeting.get("state"))
        for operation in then["operations"]:
            panel.do(operation)
        live = heard_until_pong(connection)
    expect("messages", [essence(m) for m in sent["messages"]], [essence(m) for m in messages])
    expect("messages after the resume", [essence(m) for m in then["messages"]], [essence(m) for m in live])
    take(client, greeting, [*messages, *live])
    check_end(client, vector["ends"], last=last)


@dataclass(frozen=True)
class Verdict:
    """How a server did with one vector. ``problem`` is empty where it passed; ``skipped`` where it was not
    run.
    """

    name: str
    problem: str = ""
    skipped: bool = False


def run_all(
    url: str,
    vectors: Sequence[Mapping[str, Any]],
    *,
    token: str | None = None,
    history_commits: int | None = None,
) -> Iterator[Verdict]:
    """The verdicts, one after the other. Raises ``httpx.TransportError`` where nobody answers at ``url``."""
    url = url.rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
        for vector in vectors:
            name, needed = vector["name"], vector.get("needs", {}).get("historyCommits")
            if needed is not None and (history_commits is None or history_commits > needed):
                yield Verdict(name, f"needs a server that keeps at most {needed} commits", skipped=True)
                continue
            panel = Panel(
                http, f"ws{url.removeprefix('http')}", f"vector-{name}-{secrets.token_hex(4)}", token
            )
            problem = ""
            try:
                run(vector, panel)
            except (VectorError, GapError, ProtocolError, WebSocketException, TimeoutError) as exc:
                problem = f"{exc}" or type(exc).__name__
            except (KeyError, TypeError, ValueError) as exc:
                problem = f"an answer is not what the protocol says: {exc!r}"
            finally:
                http.delete(f"/panels/{panel.id}")
            yield Verdict(name, problem)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/resume_vectors", description="Take a server through the vectors of resuming."
    )
    parser.add_argument("url", help="where the server is, like http://127.0.0.1:3001")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="vectors to run, without .json; all by default"
    )
    parser.add_argument("--token", help="sent as Authorization: Bearer; must allow everything on vector-*")
    parser.add_argument(
        "--history-commits",
        type=int,
        metavar="N",
        help="how many commits the server keeps of a panel; without it, what depends on that is left out",
    )
    arguments = parser.parse_intermixed_args()
    counts = {"ok": 0, "FAILED": 0, "skipped": 0}
    try:
        vectors = load(arguments.names)
        width = max(len(vector["name"]) for vector in vectors)
        verdicts = run_all(
            arguments.url, vectors, token=arguments.token, history_commits=arguments.history_commits
        )
        for verdict in verdicts:
            word = "skipped" if verdict.skipped else "FAILED" if verdict.problem else "ok"
            counts[word] += 1
            print(f"{verdict.name:<{width}}  {word:<7}  {verdict.problem}".rstrip(), flush=True)
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as exc:
        print(f"resume_vectors: {exc}", file=sys.stderr)
        return 2
    print(f"\n{counts['ok']} ok, {counts['FAILED']} failed, {counts['skipped']} skipped")
    return 1 if counts["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
