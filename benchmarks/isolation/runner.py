"""Carries out attacks against a real system, and keeps what came back and how much memory it took."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import msgspec
import psutil
import websockets

from benchmarks.isolation.attack import Attack, Call
from benchmarks.isolation.corpus.floods import FORGED_LINE
from benchmarks.isolation.verdict import Row, judge
from tests.support.clients import Client
from tests.support.system import System

#: Handlers that share a panel, and so a process.
_AT_ONCE: Final = 16
#: How often the sandboxes' memory is looked at, in seconds.
_LOOK_S: Final = 0.02
#: How long a definition, or an answer, is waited for, in seconds.
_PATIENCE_S: Final = 60.0
#: How long a definition is tried again that is answered "try again", and how long after that, in seconds.
_BUSY_S: Final = 12.0
_AGAIN_S: Final = 0.5
_PAGE_BYTES: Final = 4096


class Runner:
    """See the module's docstring. ``window_s`` is how long an attack goes on at least: it begins again until
    then; 0 makes each call once. One before and one after it, of ``quiet_s``, are without any. ``pool`` is
    the label of the pool that is attacked.
    """

    def __init__(self, system: System, *, window_s: float, quiet_s: float, pool: str | None = None) -> None:
        self._system = system
        self._window_s = window_s
        self._quiet_s = quiet_s
        self._last_quiet = (0.0, 0.0)
        self._definition = {} if pool is None else {"pool": pool}

    def rest(self, *, seconds: float | None = None) -> tuple[float, float]:
        """A window without attacks, of ``quiet_s`` or so many seconds."""
        began_s = time.monotonic()
        time.sleep(self._quiet_s if seconds is None else seconds)
        self._last_quiet = (began_s, time.monotonic())
        return self._last_quiet

    def run(self, attack: Attack) -> Row:
        """One attack, and the quiet window after it."""
        row = Row(attack.family, attack.name)
        lost, before, pids = self._workers_lost(), self._last_quiet, self._pids()
        with Memory(pids) as memory, contextlib.ExitStack() as stack:
            began_s = time.monotonic()
            panels = [
                made for calls in _packed(attack.calls) if (made := self._install(attack, calls, row, stack))
            ]
            while True:
                for panel in panels:
                    panel.trigger(row)
                if time.monotonic() - began_s >= self._window_s or not panels or row.all_problems:
                    break
            row.window = (began_s, time.monotonic())
            row.peak_bytes = memory.peak_bytes
        for panel in panels:
            row.problems += panel.remains(attack)
        row.replaced = len(self._pids() - pids)
        if gone := self._workers_lost() - lost:
            row.problems.append(f"{gone} worker(s) were lost")
        row.quiet = tuple(window for window in (before, self.rest()) if window[1] > window[0])
        return row

    def _install(
        self, attack: Attack, calls: Sequence[Call], row: Row, stack: contextlib.ExitStack
    ) -> _Installed | None:
        """A panel with these handlers; those that are refused are noted, and left out."""
        # a compiler that got too little of the machine says so, and whoever asks is to ask again
        left, until_s = list(calls), time.monotonic() + _BUSY_S
        while left:
            tools = [call.tool(f"t{at}") for at, call in enumerate(left)]
            began_s = time.monotonic()
            try:
                response = self._system.post_panel(*tools, state=attack.state, **self._definition)
            except httpx.TimeoutException:
                row.problems.append(f"{left[0].name}: the definition was not answered")
                return None
            took_ms = (time.monotonic() - began_s) * 1e3
            if response.status_code == 503 and time.monotonic() < until_s:
                time.sleep(_AGAIN_S)
                continue
            if response.status_code == 201:
                panel = str(response.json()["id"])
                client = stack.enter_context(self._system.connect(panel))
                return _Installed(self._system, panel, client, left, commits=attack.commits)
            body = response.json()
            details = body.get("error", {}).get("details") or {}
            named = str(details.get("tool", "t0"))
            at = int(named[1:]) if named[1:].isdigit() and int(named[1:]) < len(left) else 0
            row.seen.append(judge(left.pop(at), response.status_code, body, took_ms))
        return None

    def _pids(self) -> set[int]:
        return {process.pid for process in self._system.sandboxes()}

    def _workers_lost(self) -> int:
        found = re.search(
            r"^panels_workers_lost_total (\d+)", self._system.http.get("/metrics").text, re.MULTILINE
        )
        return int(found[1]) if found else 0

    def aftermath(self) -> list[str]:
        """What of the whole run is wrong that no single attack shows."""
        system = self._system
        problems = list(system.defects())
        for process in system.processes():
            if not process.running:
                problems.append(f"{process.name} ended with {process.child.returncode}")
            if any(line.startswith(FORGED_LINE) for line in process.text.splitlines()):
                problems.append(f"{process.name}: a handler forged a line of the log")
        if system.health() != 200:
            problems.append(f"expected /health to answer 200, got {system.health()}")
        return problems


class _Installed:
    """A panel with hostile handlers, and a client of it."""

    def __init__(
        self, system: System, panel: str, client: Client, calls: Sequence[Call], *, commits: bool
    ) -> None:
        self._system = system
        self._panel = panel
        self._client = client
        self._calls = calls
        self._commits = commits

    def trigger(self, row: Row) -> None:
        """Each handler once."""
        for at, call in enumerate(self._calls):
            began_s = time.monotonic()
            try:
                answer = self._client.trigger(f"t{at}", call.args, timeout_s=_PATIENCE_S)
            except (TimeoutError, websockets.ConnectionClosed, msgspec.DecodeError) as exc:
                row.problems.append(f"{call.name}: no answer, {type(exc).__name__}")
                continue
            took_ms = (time.monotonic() - began_s) * 1e3
            heard = [
                message for message in answer.heard if message["type"] in ("PATCH", "EVENT", "VIEW_COMMAND")
            ]
            row.seen.append(judge(call, 101, answer.final, took_ms, heard=heard, commits=self._commits))

    def remains(self, attack: Attack) -> list[str]:
        """What is wrong with the panel's state after it; the panel is deleted."""
        problems: list[str] = []
        lenient = attack.commits or any("*" in call.expected for call in self._calls)
        if not lenient and (seq := self._system.seq(self._panel)):
            problems.append(f"{attack.name}: {seq} commits on a panel that was to have none")
        self._system.http.delete(f"/panels/{self._panel}")
        return problems


def _packed(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """The calls in order, those that may be refused alone, the others with up to ``_AT_ONCE`` on a panel."""
    pack: list[Call] = []
    for call in calls:
        if call.alone:
            yield [call]
            continue
        pack.append(call)
        if len(pack) == _AT_ONCE:
            yield pack
            pack = []
    if pack:
        yield pack


# -- memory ------------------------------------------------------------------------------------------


class Memory:
    """Looks at the resident memory of some processes again and again: ``peak_bytes`` is the most of one."""

    def __init__(self, pids: set[int]) -> None:
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for pid in self._pids:
                with contextlib.suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    self.peak_bytes = max(self.peak_bytes, pages * _PAGE_BYTES)


def resident(system: System) -> dict[str, int]:
    """Name → resident bytes, of every process of the system; processes of a kind are added up."""
    found: dict[str, int] = {}
    sandboxes = {process.pid for process in system.sandboxes()}
    for process in system.processes():
        kind = process.name.split("-")[0]
        with contextlib.suppress(psutil.Error):
            found[kind] = found.get(kind, 0) + int(psutil.Process(process.pid).memory_info().rss)
        for child in process.children():
            name = "sandboxes" if child.pid in sandboxes else f"{kind}'s others"
            with contextlib.suppress(psutil.Error):
                found[name] = found.get(name, 0) + int(child.memory_info().rss)
    return found


def layers(system: System) -> str:
    """The layers of confinement that the sandboxes say they have, and what they do without."""
    found = re.findall(r"ready; confined by ([^\[\n]+[^\[\s])", system.pool.text)
    if not found:
        return "unknown"
    # nothing is missing where a pool that is not root keeps its user: it could not do otherwise
    absent = "" if re.search(r"\buser\b", found[-1]) else "; without user, for which the pool has to be root"
    return f"{found[-1]}{absent}"
