"""`panels up`: a gateway and workers for development, and panels that follow the files they are made of.

Processes: this one, the gateway, and the worker pool, which starts its sandboxes. Threads: those of the page
(``page``), one that watches the files, and one for each of the two programs, which reads what it writes; the
last three only put events into one queue, which the main thread takes from. Bound: ``MAX_EVENTS`` events
wait; while the queue is full, the threads wait too, and with them the programs' writing. Shutdown: Ctrl-C and
SIGTERM stop the gateway first, which answers what is in flight and needs workers for it, then the workers.
"""

from __future__ import annotations

import queue
import shlex
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from panels_cli import applying, context_file, development, folder_files, granting, workspace
from panels_cli.api import Api
from panels_cli.children import Child
from panels_cli.commands.folders import find_panel, send, show_plan, shown_plan
from panels_cli.context import Context
from panels_cli.development import Watched
from panels_cli.faults import CommandError, RefusedError, UnreachableError, UsageError
from panels_cli.output import Output
from panels_cli.page import Page
from panels_cli.session import Json, Session, session_of
from panels_cli.workspace import Workspace
from panels_shared import panel_files
from panels_shared.errors import CODES, Code
from panels_shared.panel_folder import PANEL_FILE, Folder, FolderError

DEFAULT_PORT: Final = 3001
START_TIMEOUT_S: Final = 60.0
TOKEN_LIFETIME_S: Final = 23 * 3_600
RENEW_S: Final = 12 * 3_600.0
MAX_EVENTS: Final = 1_024
#: Milliseconds without a change after which a burst of changes counts as over, and that it takes at most.
QUIET_MS: Final = 40
BURST_MS: Final = 400
GATEWAY: Final = "panels-gateway"
POOL: Final = "panels-worker"
#: Bytes of a folder whose path leaves room for a socket's name, and for the file beside it: 107 in all.
MAX_SOCKET_FOLDER_BYTES: Final = 80
_SIGNS: Final = {
    "handler": ("·", "dim"),
    "failed": ("✗", "bold red"),
    "warning": ("!", "yellow"),
    "error": ("✗", "bold red"),
}
#: Warnings of the gateway that say what was asked for.
EXPECTED: Final = frozenset({"authentication is off", "waiting for a bus key"})


def up(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A panel's folder, or one above such.")
    ] = Path(),
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="The gateway's port; else 3001, or a free one.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many sandboxes run handlers.")] = 2,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let everybody on this machine in.")] = False,
    json: Json = False,
) -> None:
    """Run panels on this machine while you write them.

    Starts a gateway and workers, applies the panel folders in DIR, and applies each again when its files
    change. Ctrl-C stops everything; the panels' state stays in DIR/.panels-up.
    """
    session = session_of(ctx)
    output = session.output(json)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = choose_port(port)
    with workspace.opened(path) as space:
        Development(session, output, space, no_token=no_token).run(chosen, processes)


@dataclass(frozen=True, slots=True)
class _Line:
    program: str
    text: str | None


@dataclass(frozen=True, slots=True)
class _Files:
    paths: tuple[str, ...]


class Development:
    """One run of the command."""

    def __init__(self, session: Session, output: Output, space: Workspace, *, no_token: bool) -> None:
        self._session = session
        self._output = output
        self._space = space
        self._no_token = no_token
        self._events: queue.Queue[_Line | _Files] = queue.Queue(MAX_EVENTS)
        self._watched = Watched()
        self._folders: list[Path] = []
        self._sources: dict[tuple[str, str], tuple[Path, str]] = {}
        self._ids: dict[str, Path] = {}
        self._name = workspace.context_name(space.base)
        self._command = "panels"
        self._secret = b""
        self._renew_s = 0.0
        self._context = Context("")
        self._stopping = threading.Event()
        self._page = Page(self._described)

    def run(self, port: int, processes: int) -> None:
        """Runs until Ctrl-C. Raises ``CommandError``."""
        children: list[Child] = []
        with socket_folder(self._space) as sockets:
            try:
                self._start(children, port, processes, sockets)
                self._context = Context(self._await_ready(children), self._token())
                with self._named():
                    self._begin()
                    self._loop(children)
            except KeyboardInterrupt:
                self._tell("stopping", "stopping; the state stays, and the next panels up goes on with it")
            finally:
                self._stopping.set()
                # a second Ctrl-C does not leave processes behind
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                threading.Thread(target=self._drain, name="drain", daemon=True).start()
                for child in children:
                    child.stop()
                self._page.close()

    def _described(self) -> dict[str, Any]:
        """What the page connects to. Called in another thread: it only reads."""
        tools: dict[str, list[str]] = {}
        for panel, tool in tuple(self._sources):
            tools.setdefault(panel, []).append(tool)
        return {"gateway": self._context.url, "token": self._context.token, "tools": tools}

    def _drain(self) -> None:
        # the programs still write while they stop, and must not wait for somebody who reads it
        while True:
            self._events.get()

    # -- the programs ----------------------------------------------------------------------------------

    def _start(self, children: list[Child], port: int, processes: int, sockets: Path) -> None:
        space = self._space
        self._secret = space.secret()
        access = ["--no-auth"] if self._no_token else ["--jwt-secret-file", str(space.secret_file)]
        gateway = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(space.data), *access]
        # at debug the gateway tells how handlers failed
        gateway += ["--log-level", "debug", "--allowed-origins", self._page.origin]
        endpoint = f"ipc://{sockets}/workers.sock"
        gateway += ["--workers-endpoint", endpoint]
        pool = ["--gateway", endpoint, "--processes", str(processes), "--verify-replay"]
        for name, arguments in ((GATEWAY, gateway), (POOL, pool)):
            arguments += ["--log-format", "json"]  # which ``development.logged`` reads
            children.append(Child(name, arguments, space.hidden / f"{name}.log", self._heard))
        for child in children:
            child.listen()
        self._page.start()

    def _heard(self, name: str, line: str | None) -> None:
        self._events.put(_Line(name, line))

    def _await_ready(self, children: Sequence[Child]) -> str:
        """Waits until a trigger can be run; the gateway's URL."""
        deadline = time.monotonic() + START_TIMEOUT_S
        url = None
        while time.monotonic() < deadline:
            try:
                event = self._events.get(timeout=0.02)
            except queue.Empty:
                pass
            else:
                if isinstance(event, _Line):
                    url = url or development.listening(event.text or "")
                    self._take_line(event, children)
            if url is not None:
                with Api(Context(url)) as api:
                    try:
                        if api.look("GET", "/health").status == 200:
                            return url
                    except UnreachableError:
                        pass
        raise CommandError(
            f"nothing was ready after {START_TIMEOUT_S:g} s; {self._space.hidden} has the logs"
        )

    def _token(self) -> str | None:
        if self._no_token:
            return None
        import jwt  # brings cryptography

        self._renew_s = time.monotonic() + RENEW_S
        claims = granting.claims("developer", TOKEN_LIFETIME_S, (), now_s=int(time.time()))
        return jwt.encode(claims, self._secret, algorithm="HS256")

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A context for other terminals, as long as this runs."""
        where = context_file.location(self._session.environment)
        self._write_context(where)
        try:
            yield
        finally:
            contexts = context_file.read(where)
            if contexts.by_name.get(self._name) == self._context:
                context_file.write(where, contexts.remove(self._name))

    def _write_context(self, where: Path) -> None:
        contexts = context_file.read(where).add(self._name, self._context)
        context_file.write(where, contexts)
        in_use = contexts.current == self._name and not (
            self._session.environment.get("PANELS_URL") or self._session.environment.get("PANELS_TOKEN")
        )
        self._command = "panels" if in_use else f"panels -c {self._name}"

    def _renew(self) -> None:
        """Makes a new token before the old one ends."""
        if self._context.token is not None and time.monotonic() > self._renew_s:
            self._context = Context(self._context.url, self._token())
            self._write_context(context_file.location(self._session.environment))

    # -- the panels --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._tell(
            "ready",
            f"panels up at {self._context.url}",
            url=self._context.url,
            context=self._name,
            page=self._page.link(""),
        )
        watching = threading.Thread(target=self._watch, name="files", daemon=True)
        watching.start()
        try:
            self._folders = panel_files.panel_folders(self._space.base)
        except FolderError as exc:
            raise UsageError(str(exc)) from None
        if not self._folders:
            self._tell(
                "empty", f"no {PANEL_FILE} below {self._space.base} yet; panels init NAME makes a panel"
            )
        self._watched.changed(self._folders, time.monotonic())

    def _watch(self) -> None:
        from watchfiles import watch

        for changes in watch(
            self._space.base,
            watch_filter=self._is_ours,
            debounce=BURST_MS,
            step=QUIET_MS,
            stop_event=self._stopping,
            rust_timeout=500,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            self._events.put(_Files(tuple(path for _, path in changes)))

    def _is_ours(self, _: object, path: str) -> bool:
        try:
            parts = Path(path).relative_to(self._space.base).parts
        except ValueError:
            return False
        return not any(part.startswith(".") or part in panel_files.SKIPPED for part in parts)

    def _look_around(self) -> None:
        before = self._folders
        try:
            self._folders = panel_files.panel_folders(self._space.base)
        except FolderError as exc:
            self._problem(UsageError(str(exc)))
            return
        for path in set(before) - set(self._folders):
            if (gone := next((name for name, at in self._ids.items() if at == path), None)) is not None:
                del self._ids[gone]
                self._watched.forget(path)
                removed = f"the panel stays until you say: {self._command} rm {gone}"
                self._tell("gone", f"{gone} has no {PANEL_FILE} any more; {removed}", id=gone)

    def _loop(self, children: Sequence[Child]) -> None:
        while True:
            self._renew()
            for path in self._watched.due(time.monotonic()):
                self._apply(path)
            due_s = self._watched.next_s()
            wait_s = 1.0 if due_s is None else max(0.0, min(1.0, due_s - time.monotonic()))
            try:
                event = self._events.get(timeout=wait_s)
            except queue.Empty:
                continue
            if isinstance(event, _Files):
                self._look_around()
                self._watched.changed(development.owners(self._folders, event.paths), time.monotonic())
            else:
                self._take_line(event, children)

    def _apply(self, path: Path) -> None:
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        try:
            folder = folder_files.load(path, shown=shown, filled=True)
        except UsageError as exc:
            self._fail(path, exc, unread=True)
            return
        other = self._ids.get(folder.id, path)
        if other != path:
            fault = UsageError(
                f"{shown}/{PANEL_FILE}: id: {folder.id!r} is the panel of {other}; give another"
            )
            self._fail(path, fault, unread=True)
            return
        self._ids[folder.id] = path
        if not self._watched.is_news(path, folder.fingerprint):
            return
        try:
            with Api(self._context) as api:
                plan = applying.plan(folder, find_panel(api, folder.id))
                if plan.method is not None:
                    send(api, shown, folder, plan)
        except UnreachableError as exc:
            self._fail(path, exc, unread=True)
            return
        except CommandError as exc:
            again = isinstance(exc, RefusedError) and exc.code in CODES and CODES[Code(exc.code)].retryable
            self._fail(path, exc, again=again)
            return
        self._watched.applied(path, folder.fingerprint)
        first = self._sources.keys().isdisjoint((folder.id, tool.name) for tool in folder.tools)
        for key in [key for key in self._sources if key[0] == folder.id]:
            del self._sources[key]
        for tool in folder.tools:
            text = tool.source.decode(errors="replace")
            self._sources[folder.id, tool.name] = (shown / tool.file, text)
        if self._output.json:
            self._output.value({"event": "applied", **shown_plan(folder, plan, plan.method is not None)})
            return
        show_plan(self._output, folder, plan)
        if first:
            self._suggest(folder)

    def _suggest(self, folder: Folder) -> None:
        """What to click, and what to paste into another terminal."""
        self._output.line(f"    {self._page.link(folder.id)}")
        self._output.line(f"    {self._command} watch {folder.id}")
        if folder.tools:
            self._output.line(f"    {self._command} call {folder.id} {shlex.quote(folder.tools[0].name)}")

    def _fail(self, path: Path, fault: CommandError, *, unread: bool = False, again: bool = False) -> None:
        if self._watched.failed(path, str(fault), time.monotonic(), unread=unread, again=again):
            self._problem(fault)

    def _problem(self, fault: CommandError) -> None:
        if self._output.json:
            self._output.value({"event": "problem", **fault.shown(), "source": fault.appendix})
            return
        self._output.note(("✗ ", "bold red"), str(fault))
        for line in fault.appendix:
            self._output.note(f"    {line}")

    # -- what the programs say -----------------------------------------------------------------------------

    def _take_line(self, event: _Line, children: Sequence[Child]) -> None:
        if event.text is None:
            child = next(child for child in children if child.name == event.program)
            raise CommandError(
                f"{child.name} ended with status {child.status}; {child.log} has its last words"
            )
        shown = development.logged(event.text, quiet=EXPECTED)
        if shown is None:
            return
        text, snippet = shown.text, tuple[str, ...]()
        if shown.kind == "failed":
            text, snippet = development.failure(shown.text, self._sources)
        if self._output.json:
            self._output.value({"event": shown.kind, "message": text, "source": snippet})
            return
        sign, style = _SIGNS[shown.kind]
        self._output.note((f"{sign} ", style), text)
        for line in snippet:
            self._output.note(f"    {line}")

    def _tell(self, event: str, text: str, **more: object) -> None:
        if self._output.json:
            self._output.value({"event": event, "message": text, **more})
        else:
            self._output.line((text, "bold"))


@contextmanager
def socket_folder(space: Workspace) -> Iterator[Path]:
    """Where the socket of the workers lies: in the data directory, or where its path would be too long for a
    socket, in a temporary folder for as long as the context lasts.
    """
    if len(str(space.data).encode()) <= MAX_SOCKET_FOLDER_BYTES:
        yield space.data
        return
    with tempfile.TemporaryDirectory(prefix="panels-up-", dir="/tmp") as name:
        yield Path(name)


def choose_port(wanted: int | None) -> int:
    """A port of this machine to listen on: ``wanted``; without it the usual one, or a free one if that is
    taken. Raises ``UsageError``.
    """
    why = ""
    for port in (wanted,) if wanted is not None else (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as exc:
                why = str(exc.strerror)
                continue
            return int(probe.getsockname()[1])
    raise UsageError(f"--port: cannot listen on port {wanted}: {why}; give another, or none for a free one")
