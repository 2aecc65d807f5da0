"""The demonstration: a gateway and two sandbox processes on this machine, example panels, and a client to
watch.

Processes: this one, the gateway, the worker pool (which starts its own children). Everything they write lies
in one temporary directory. Threads: one more, which serves the examples' pages, because a page has to come
from somewhere that the gateway lets in. Shutdown: SIGTERM to both children at once, SIGKILL after a grace.
The gateway is also killed once on purpose, and started again on the same directory: what was committed is
there, and clients go on by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import functools
import http.server
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import websockets

from panels_cli import folder_files

ROOT: Final = Path(__file__).resolve().parent.parent
PANELS: Final = ("counter", "todo", "chat", "approval", "hostile")
APPLICATIONS: Final = ROOT / "examples" / "applications"
#: What the pages are made of. Handlers are JavaScript too, and harmless to read.
CONTENT_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
START_TIMEOUT_S: Final = 60.0
STOP_GRACE_S: Final = 15.0
ANSWER_TIMEOUT_S: Final = 30.0
TOKEN_LIFETIME_S: Final = 12 * 3600
PR_SET_PDEATHSIG: Final = 1


class DemoError(Exception):
    """Something that the person at the terminal has to know; the text is all they see."""


# -- the terminal ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Screen:
    """Coloured lines, or plain ones where colour is not wanted (no terminal, NO_COLOR, --no-color)."""

    colour: bool

    def paint(self, text: str, code: str) -> str:
        """``text`` in the colour with this SGR ``code``."""
        return f"\033[{code}m{text}\033[0m" if self.colour else text

    def head(self, text: str) -> None:
        """A heading with an empty line above it."""
        print(f"\n{self.paint(text, '1')}", flush=True)

    def step(self, what: str, detail: str) -> None:
        """Something that is done now."""
        print(f"  {self.paint('✓', '32')} {what:<12}{self.paint(detail, '2')}", flush=True)

    def lost(self, what: str, detail: str) -> None:
        """Something that is broken now."""
        print(f"\n  {self.paint('✗', '31')} {what:<12}{self.paint(detail, '2')}", flush=True)

    def note(self, who: str, text: str) -> None:
        """What happened to a client."""
        print(f"  {self.paint(f'{who:>5}', '2')} ···  {self.paint(text, '2')}", flush=True)

    def sent(self, who: str, text: str) -> None:
        """What a client said."""
        print(f"\n  {self.paint(f'{who:>5}', '36')} {self.paint('──▶', '36')} {text}", flush=True)

    def heard(self, who: str, kind: str, text: str) -> None:
        """What a client was told."""
        shade = {"ERROR": "31", "RESULT": "32", "PATCH": "33", "EVENT": "35"}.get(kind, "34")
        if sys.stdout.isatty() and kind != "ERROR":  # what is wrong is told whole
            text = cut(text, max(20, shutil.get_terminal_size().columns - 23))
        print(f"  {self.paint(f'{who:>5}', '2')} ◀── {self.paint(f'{kind:<9}', shade)} {text}", flush=True)


def shorten(value: object, width: int = 84) -> str:
    """``value`` as JSON, cut to ``width`` characters."""
    return cut(json.dumps(value, ensure_ascii=False), width)


def cut(text: str, width: int) -> str:
    """``text``, cut to ``width`` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


# -- processes ---------------------------------------------------------------------------------------


def _end_with_parent() -> None:
    # if this process is killed outright, its children are told to stop as well
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """A process of the demonstration, and the file that it logs to."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @classmethod
    def start(cls, name: str, folder: Path, arguments: list[str]) -> Child:
        """Starts ``python -m`` with ``arguments``."""
        log = folder / f"{name}.log"
        # PANELS_ variables of whoever runs this are about another installation
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
        environment |= {"PANELS_LOG_FORMAT": "text", "PANELS_WORKER_LOG_FORMAT": "text"}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,  # Ctrl-C is for this process, which then stops them in order
                # one system call, with nothing that another thread could hold a lock of
                preexec_fn=_end_with_parent,  # noqa: PLW1509
            )
        return cls(name, log, process)

    def check(self) -> None:
        """Raises ``DemoError`` with the end of the log if the process has ended."""
        status = self.process.poll()
        if status is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise DemoError(f"the {self.name} ended with status {status}; its last words:\n{tail}")


class Gateway:
    """The gateway's process, which can be killed and started again. It is one of ``children`` while it
    runs.
    """

    def __init__(self, folder: Path, arguments: list[str], children: list[Child]) -> None:
        self._folder = folder
        self._arguments = arguments
        self._children = children
        self._running: Child | None = None

    def start(self) -> int:
        """Starts it; its process id."""
        self._running = Child.start("gateway", self._folder, self._arguments)
        self._children.append(self._running)
        return self._running.process.pid

    def kill(self) -> int:
        """Ends it with SIGKILL, so that it can do nothing more; the id that it had."""
        assert self._running is not None
        child, self._running = self._running, None
        self._children.remove(child)
        child.process.kill()
        child.process.wait()
        return child.process.pid


def stop(children: list[Child]) -> None:
    """Stops what still runs: all are told at once, and given one grace together."""
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    deadline = time.monotonic() + STOP_GRACE_S
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def choose_port(wanted: int) -> int:
    """``wanted`` if nothing listens there, else a free port."""
    for port in (wanted, 0):
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise DemoError("there is no free port on 127.0.0.1")


class _Pages(http.server.BaseHTTPRequestHandler):
    """Serves files of the examples, by the names that ``pages`` has for them."""

    def __init__(self, pages: Mapping[str, Path], *args: Any) -> None:
        self._pages = pages
        super().__init__(*args)

    def do_GET(self) -> None:
        """One of them."""
        file = self._pages.get(self.path.partition("?")[0])
        if file is None:
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", f"{CONTENT_TYPES[file.suffix]}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Nothing: the terminal belongs to the demonstration."""


@contextlib.contextmanager
def served_pages() -> Iterator[str]:
    """The origin at which the examples' pages are served while the context lasts: examples/browser.html as
    ``/``, and examples/applications below ``/applications/``.
    """
    pages = {"/": ROOT / "examples" / "browser.html"}
    for file in APPLICATIONS.rglob("*"):
        if file.suffix in CONTENT_TYPES:
            path = f"/applications/{file.relative_to(APPLICATIONS).as_posix()}"
            pages[path.removesuffix("index.html")] = file
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Pages, pages))
    thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


# -- the system --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """The running gateway as its clients see it. ``secret`` signs tokens."""

    port: int
    secret: str = field(repr=False)

    @property
    def url(self) -> str:
        """Base of the HTTP API."""
        return f"http://127.0.0.1:{self.port}"

    def token(self, subject: str, panels: list[dict[str, object]] | None = None) -> str:
        """A token for ``subject``; ``panels`` is the claim that narrows what it may do."""
        claims: dict[str, object] = {"sub": subject, "exp": int(time.time()) + TOKEN_LIFETIME_S}
        if panels is not None:
            claims["panels"] = panels
        return jwt.encode(claims, self.secret, algorithm="HS256")

    def socket_url(self, panel: str) -> str:
        """Where a client of ``panel`` connects, without a token."""
        return f"ws://127.0.0.1:{self.port}/panels/{panel}/ws"


def wait_until_ready(url: str, children: list[Child]) -> None:
    """Returns once /health says 200. Raises ``DemoError`` if a child ends first, or nothing happens for
    long.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    answer = "no answer"
    while time.monotonic() < deadline:
        for child in children:
            child.check()
        try:
            response = httpx.get(f"{url}/health", timeout=2, trust_env=False)
            if response.status_code == 200:
                return
            answer = f"{response.status_code} {response.text[:200]}"
        except httpx.TransportError as exc:
            answer = str(exc)
        time.sleep(0.05)
    logs = ", ".join(str(child.log) for child in children)
    raise DemoError(f"expected {url}/health to answer 200, got {answer}; see {logs}")


def create_panels(system: System) -> None:
    """Makes the example panels. Raises ``DemoError`` with the gateway's sentence when it refuses one."""
    headers = {"Authorization": f"Bearer {system.token('demo')}", "Content-Type": "application/json"}
    with httpx.Client(base_url=system.url, headers=headers, timeout=60, trust_env=False) as http_client:
        bodies = {name: (ROOT / "examples" / "panels" / f"{name}.json").read_bytes() for name in PANELS}
        for file in APPLICATIONS.glob("*/panel.toml"):
            bodies[file.parent.name] = folder_files.load(file.parent).made
        for name, body in bodies.items():
            response = http_client.post("/panels", content=body)
            if response.status_code != 201:
                raise DemoError(f"the gateway refused the panel {name}: {response.text[:500]}")


# -- the client --------------------------------------------------------------------------------------


def describe(message: dict[str, Any]) -> str:
    """What a message of the gateway says, in a line."""
    kind = message["type"]
    if kind == "CONNECTED":
        state = shorten(message["state"], 50) if "state" in message else "as you have it"
        resumed = ""
        if "recovered" in message:
            resumed = ", recovered" if message["recovered"] else ", not recovered"
        return f"{message['panelId']}, seq {message['seq']}{resumed}, state {state}"
    if kind == "PATCH":
        changes = (
            f"{m['key']} = {shorten(m['value'], 56)}" if m["op"] == "set" else f"{m['key']} deleted"
            for m in message["mutations"]
        )
        return f"seq {message['seq']}: {', '.join(changes)}"
    if kind == "EVENT":
        event = message["event"]
        return f"{event['name']} {shorten(event['payload'], 60)}"
    if kind == "RESULT":
        result = message["result"]
        metrics = result["metrics"]
        cost = f"{metrics['executionTimeUs']:,} µs, {metrics['fuelConsumed']:,} fuel in the sandbox"
        return f"{shorten(result['returnValue'], 50)}  ({cost})"
    if kind == "PROGRESS":
        return f"{message['status']}, waits for {message['extension']}.{message['method']}"
    if kind == "ANSWERED":
        return f"the answer is recorded, suspension {message['suspensionId']} goes on"
    if kind == "ERROR":
        reason = message.get("details", {}).get("reason", "")
        return " ".join(filter(None, (message["code"], reason, "–", shorten(message["message"], 90))))
    return shorten(message)


class Viewer:
    """A client of one panel that prints what it hears, and resumes where it was when its connection is gone.

    It keeps two things for that: the panel's epoch, and the version up to which it has heard everything.
    """

    def __init__(self, screen: Screen, system: System, name: str, panel: str) -> None:
        self._screen = screen
        self._system = system
        self._name = name
        self._panel = panel
        self._connection: websockets.ClientConnection | None = None
        self._sent = 0
        self._epoch: str | None = None
        self.position = 0

    async def connect(self) -> dict[str, Any]:
        """Connects, as often as it takes, and returns CONNECTED. Resumes where the viewer was connected
        before.
        """
        query = "" if self._epoch is None else f"?epoch={self._epoch}&since={self.position}"
        # a token in this list, unlike one in the URL, ends in nobody's log
        token = self._system.token(self._name)
        protocols = [websockets.Subprotocol("panels.v1"), websockets.Subprotocol(f"bearer.{token}")]
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connection = await websockets.connect(
                    self._system.socket_url(self._panel) + query, subprotocols=protocols, proxy=None
                )
                break
            except (OSError, websockets.InvalidMessage):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        greeting = await self.hear_until("CONNECTED")
        self._epoch = greeting["epoch"]
        if not greeting.get("recovered"):
            self.position = greeting["seq"]
        return greeting

    async def close(self) -> None:
        """Leaves."""
        if self._connection is not None:
            await self._connection.close()

    async def resume(self) -> dict[str, Any]:
        """Notices that the connection is gone, drops what it may still hold unread, and connects again."""
        self._screen.note(self._name, f"connection lost; asks for what comes after seq {self.position}")
        if self._connection is not None:
            self._connection.transport.abort()
            await self._connection.wait_closed()
        return await self.connect()

    async def hear_until(self, *kinds: str) -> dict[str, Any]:
        """Prints what comes, up to and with the first message of these ``kinds``, which is returned."""
        assert self._connection is not None
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                message = json.loads(await self._connection.recv())
                self._screen.heard(self._name, message["type"], describe(message))
                if message["type"] in ("PATCH", "EVENT") and not message.get("more"):
                    self.position = message["seq"]
                if message["type"] in kinds:
                    return dict(message)

    async def send(self, tool: str, args: object = None, *, key: str | None = None, why: str = "") -> None:
        """Sends a TRIGGER, under the idempotency ``key`` if there is one, and does not wait for the
        answer.
        """
        assert self._connection is not None
        self._sent += 1
        message = {"type": "TRIGGER", "tool": tool, "args": args, "requestId": f"{self._name}-{self._sent}"}
        shown = shorten(args) if args is not None else ""
        if key is not None:
            message["idempotencyKey"] = key
            shown = f"{shown} under the key {key}{why}".strip()
        self._screen.sent(self._name, f"TRIGGER {tool} {shown}".rstrip())
        await self._connection.send(json.dumps(message))

    async def answer(self, question: dict[str, Any], value: object) -> dict[str, Any]:
        """Answers a question that somebody's handler asked, and returns ANSWERED or ERROR."""
        assert self._connection is not None
        asked = {"suspensionId": question["suspensionId"], "call": question["call"]}
        self._screen.sent(self._name, f"ANSWER {shorten(value)} to {shorten(question['args'])}")
        await self._connection.send(json.dumps({"type": "ANSWER", **asked, "value": value}))
        return await self.hear_until("ANSWERED", "ERROR")

    async def trigger(
        self, tool: str, args: object = None, *, key: str | None = None, why: str = ""
    ) -> dict[str, Any]:
        """Triggers ``tool`` and returns the RESULT or ERROR, after printing all that came before it."""
        await self.send(tool, args, key=key, why=why)
        return await self.hear_until("RESULT", "ERROR")


@contextlib.asynccontextmanager
async def watching(screen: Screen, system: System, name: str, panel: str) -> AsyncIterator[Viewer]:
    """A viewer that is connected while the context lasts, and has printed the greeting."""
    viewer = Viewer(screen, system, name, panel)
    await viewer.connect()
    try:
        yield viewer
    finally:
        await viewer.close()


def expect(wanted: str, answer: dict[str, Any]) -> None:
    """Raises ``DemoError`` unless ``answer`` is what the demonstration is about."""
    if answer["type"] != wanted:
        raise DemoError(f"expected {wanted}, got {json.dumps(answer)[:300]}")


async def show_record(screen: Screen, system: System, gateway: Gateway, children: list[Child]) -> None:
    """Kills the gateway while a trigger is under way, starts it again, and has everybody go on."""
    screen.head("The record. The gateway is killed before ada has her answer, and comes back.")
    async with (
        watching(screen, system, "ada", "counter") as ada,
        watching(screen, system, "bob", "counter") as bob,
    ):
        key = f"ada-{secrets.token_hex(3)}"
        await ada.send("increment", key=key)
        patch = await bob.hear_until("PATCH")
        await bob.hear_until("EVENT")
        screen.lost("SIGKILL", f"the gateway, process {gateway.kill()}, was killed before ada had her answer")
        resuming = asyncio.gather(ada.resume(), bob.resume())
        await asyncio.sleep(0)  # both find out before anything else happens
        screen.step("gateway", f"started again as process {gateway.start()}, on the same directory")
        await asyncio.to_thread(wait_until_ready, system.url, children)
        for greeting in await resuming:
            if greeting.get("recovered") is not True:
                raise DemoError(f"expected to recover, got {json.dumps(greeting)[:300]}")
        await ada.hear_until("EVENT")
        screen.step("recovered", "both got what they missed, because it had been recorded first")

        again = await ada.trigger("increment", key=key, why=", sent again")
        expect("RESULT", again)
        if again["seq"] != patch["seq"]:
            raise DemoError(f"expected the answer of seq {patch['seq']}, got {json.dumps(again)[:300]}")
        screen.step("one effect", "the same key got the same answer, and nothing ran again")
        expect("RESULT", await ada.trigger("increment"))
        following = await bob.hear_until("PATCH")
        await bob.hear_until("EVENT")
        if following["seq"] != patch["seq"] + 1:
            raise DemoError(f"expected seq {patch['seq'] + 1}, got {json.dumps(following)[:300]}")


async def show_approval(screen: Screen, system: System, gateway: Gateway, children: list[Child]) -> None:
    """Has a handler wait for a person, kills the gateway meanwhile, and lets the person answer."""
    screen.head("A refund that waits for a person. The gateway is killed while it waits.")
    async with (
        watching(screen, system, "ada", "approval") as ada,
        watching(screen, system, "bob", "approval") as bob,
    ):
        key = f"ada-{secrets.token_hex(3)}"
        await ada.send("refund", {"amount": 80}, key=key)
        await ada.hear_until("PROGRESS")
        question = (await bob.hear_until("EVENT"))["event"]["payload"]
        screen.lost("SIGKILL", f"the gateway, process {gateway.kill()}, is gone; nothing holds the handler")
        resuming = asyncio.gather(ada.resume(), bob.resume())
        await asyncio.sleep(0)  # both find out before anything else happens
        screen.step("gateway", f"started again as process {gateway.start()}, on the same directory")
        await asyncio.to_thread(wait_until_ready, system.url, children)
        await resuming

        await ada.send("refund", {"amount": 80}, key=key, why=", again: no answer came")
        expect("ANSWERED", await bob.answer(question, True))
        expect("RESULT", await ada.hear_until("RESULT", "ERROR"))
        screen.step("approved", "the handler went on where it waited, and ada has the one answer")


async def show(screen: Screen, system: System, gateway: Gateway, children: list[Child]) -> None:
    """The tour: a counter that two people watch, a list, handlers that misbehave, and a gateway that dies."""
    screen.head("A counter in WebAssembly. ada triggers, bob only watches.")
    async with (
        watching(screen, system, "ada", "counter") as ada,
        watching(screen, system, "bob", "counter") as bob,
    ):
        for _ in range(2):
            expect("RESULT", await ada.trigger("increment"))
            await bob.hear_until("EVENT")

    screen.head("A to-do list in JavaScript. A handler that throws changes nothing.")
    async with watching(screen, system, "ada", "todo") as ada:
        added = await ada.trigger("add", {"text": "read the handler guide"})
        expect("RESULT", added)
        expect("RESULT", await ada.trigger("toggle", {"id": added["result"]["returnValue"]["id"]}))
        expect("ERROR", await ada.trigger("toggle", {"id": 999}))

    screen.head("Handlers that misbehave. Each gets an answer, and nothing is committed.")
    async with watching(screen, system, "eve", "hostile") as eve:
        for tool in ("spin", "hoard", "dig", "reach"):
            expect("ERROR", await eve.trigger(tool))
        expect("RESULT", await eve.trigger("fine"))

    await show_record(screen, system, gateway, children)
    await show_approval(screen, system, gateway, children)


# -- the whole ---------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Start panels on this machine and watch it work."
    )
    parser.add_argument("--once", action="store_true", help="end after the client has shown everything")
    parser.add_argument(
        "--port", type=int, default=3001, help="port of the gateway (3001; a free one if it is taken)"
    )
    parser.add_argument("--no-color", action="store_true", help="plain text")
    return parser.parse_args()


def run(arguments: argparse.Namespace, screen: Screen, folder: Path, children: list[Child]) -> None:
    """Starts everything, shows it, and returns when it is time to stop."""
    port = choose_port(arguments.port)
    system = System(port, secrets.token_hex(32))
    secret_file = folder / "jwt-secret"
    secret_file.touch(mode=0o600)
    secret_file.write_text(system.secret)
    endpoint = f"ipc://{folder}/workers.sock"

    screen.head("Starting")
    with served_pages() as page:
        gateway = Gateway(
            folder,
            [
                *("panels_gateway", "--port", str(port), "--data-dir", str(folder / "data")),
                *("--jwt-secret-file", str(secret_file), "--workers-endpoint", endpoint),
                *("--allowed-origins", page),
            ],
            children,
        )
        gateway.start()
        worker = [
            "panels_worker",
            "--gateway",
            endpoint,
            "--processes",
            "2",
            "--cache-dir",
            str(folder / "cache"),
        ]
        children.append(Child.start("worker", folder, worker))
        wait_until_ready(system.url, children)
        taken = "" if arguments.port in (0, port) else f"  (port {arguments.port} is taken)"
        screen.step("gateway", f"{system.url}{taken}")
        screen.step("workers", "2 sandbox processes")
        create_panels(system)
        screen.step("panels", ", ".join(PANELS))
        screen.step("logs", str(folder))

        asyncio.run(show(screen, system, gateway, children))

        token = system.token("you")
        screen.head("Your turn")
        page_url = f"{page}/#port={port}&token={token}"
        socket_url = f"{system.socket_url('counter')}?token={token}"
        applications = f"{page}/applications/#gateway=ws://127.0.0.1:{port}&token={token}"
        print(f"  in a browser      {screen.paint(page_url, '4')}")
        print(f"\n  applications      {screen.paint(applications, '4')}")
        print(f"\n  from a program    {screen.paint(socket_url, '4')}")
        print(f"\n  with curl         curl -H 'Authorization: Bearer {token}' \\")
        print(f"                      -X POST {system.url}/panels/counter/trigger/increment", flush=True)
        if arguments.once:
            return
        print(
            "\n  The token works for 12 hours, or until you stop the demo. Ctrl-C stops everything.",
            flush=True,
        )
        while True:
            for child in children:
                child.check()
            time.sleep(0.5)


def main() -> int:
    """Exit status: 0 when everything went as it should."""
    arguments = parse_arguments()
    colour = sys.stdout.isatty() and not arguments.no_color and "NO_COLOR" not in os.environ
    screen = Screen(colour)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # short and in /tmp on purpose: the path of a Unix socket may have 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="panels-demo-", dir="/tmp"))
    children: list[Child] = []
    status = 0
    try:
        run(arguments, screen, folder, children)
    except KeyboardInterrupt:
        print("\n\n  stopping", flush=True)
    except BrokenPipeError:
        # whoever read has read enough; what Python flushes at its end has to go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (DemoError, OSError, websockets.WebSocketException, httpx.HTTPError, TimeoutError) as exc:
        print(
            f"\n{screen.paint('demo:', '31')} {str(exc) or type(exc).__name__}", file=sys.stderr, flush=True
        )
        status = 1
    finally:
        stop(children)
    if status:
        print(f"demo: the logs are kept in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
