"""For how long each route keeps the loop: ``python -m benchmarks.routes [--panels 100000]``.

A gateway with so many panels at rest is asked for each of its routes in the form that costs most, over and
over, while somebody else asks it for PONGs (``benchmarks.prober``). Nobody's PONG should take longer than
``TARGET_MS``, whatever the other client asks for. Routes are taken from the application's own table: one that
has no case here is an error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from websockets.sync.client import connect

from benchmarks import handlers, stored
from benchmarks.load.system import ROOT, Options, System, panels
from benchmarks.prober import probe
from benchmarks.report import Report, Table, command, parser
from panels_gateway.app import create_app
from panels_gateway.configuration.config import load
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel.kernel import Kernel
from panels_gateway.observe.counters import BrokerCounters

#: The longest stretch of the loop that one request may take, in milliseconds.
TARGET_MS: Final = 5.0
#: Panels that a token names one by one in the list's worst form.
GRANTS: Final = 140
#: The large state: keys, and characters of each value. About 15 MiB.
KEYS: Final = 60_000
VALUE_CHARS: Final = 240
#: Commits of the panel that has a history.
COMMITS: Final = 3_000

#: Handlers that wait.
SUSPENSIONS: Final = 1_000

UPGRADE: Final = "WS /panels/{id}/ws"

_ASKING: Final = "return await $ext.human.ask('why?');"
_WRITING: Final = (
    'for (let n = 0; n < $args.keys; n++) $state[`k${n}`] = "x".repeat($args.chars) + $state.n; $state.n++;'
)


@dataclass(slots=True)
class Bench:
    """What the cases share: the system, what they made up to now, and how large it is."""

    system: System
    narrow: str
    count: int
    scale: float
    made: int = 0
    large: dict[str, Any] = field(default_factory=dict)
    suspensions: list[str] = field(default_factory=list)

    def fresh(self) -> str:
        """An id that nobody has used."""
        self.made += 1
        return f"made-{self.made}"

    def stored(self) -> str:
        """A panel at rest that nobody has asked for."""
        self.made += 1
        return f"panel-{self.count - self.made}"

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request."""
        return self.system.http(method, path, body)

    def revoke(self) -> str:
        """Revokes a token that nobody has; the revocation's id."""
        self.made += 1
        return str(self.ask("POST", "/revocations", {"jti": f"token-{self.made}"})["id"])


def routes() -> set[str]:
    """``METHOD path`` of everything that the gateway serves, ``UPGRADE`` too."""
    kernel = Kernel(Dispatcher(), MemoryJournal())
    config = load(["--no-auth"], {}, directory=Path.cwd())
    app = create_app(kernel, config, None, bus=BrokerCounters(), port=1)
    found = {UPGRADE}
    for route in app.http.routes:
        methods: set[str] = getattr(route, "methods", None) or set()
        found |= {f"{method} {getattr(route, 'path', '')}" for method in methods if method != "HEAD"}
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """One way to ask for a route, which may fail with a status that is an answer all the same."""

    route: str
    form: str
    ask: Callable[[Bench], object]


def _suspension(bench: Bench) -> str:
    return bench.suspensions.pop()


def _upgrade(query: str, panel: str = "large") -> Callable[[Bench], object]:
    def ask(bench: Bench) -> object:
        url = bench.system.websocket_url(panel)
        if query:
            epoch = bench.ask("GET", f"/panels/{panel}")["epoch"]
            url += f"{'&' if '?' in url else '?'}epoch={epoch}&{query}"
        with connect(url, max_size=None, compression=None, close_timeout=0) as socket:
            return socket.recv()

    return ask


def _narrow(bench: Bench) -> object:
    return replace(bench.system, token=bench.narrow).http("GET", "/panels?limit=1")


def _plain_upgrade(bench: Bench) -> object:
    """A GET of the WebSocket's path that asks for no upgrade: 426."""
    try:
        return bench.ask("GET", "/panels/large/ws")
    except RuntimeError as exc:
        if ": 426:" not in str(exc):
            raise
        return None


CASES: Final = (
    Case("GET /health/live", "", lambda b: b.ask("GET", "/health/live")),
    Case("GET /health/ready", "", lambda b: b.ask("GET", "/health/ready")),
    Case("GET /panels/{id}/ws", "without an upgrade", _plain_upgrade),
    Case("GET /panels/{id}/logs", "", lambda b: b.ask("GET", "/panels/busy/logs")),
    Case(
        "POST /panels/{id}/replay",
        "small",
        lambda b: b.ask("POST", "/panels/busy/replay", {"seq": b.ask("GET", "/panels/busy")["seq"]}),
    ),
    Case("GET /health", "", lambda b: b.ask("GET", "/health")),
    Case("GET /metrics", "", lambda b: b.system.text("/metrics")),
    Case("GET /panels", f"limit=1, {GRANTS} grants", _narrow),
    Case("GET /panels", "limit=1000", lambda b: b.ask("GET", "/panels?limit=1000&after=panel-5")),
    Case("POST /panels", "small", lambda b: b.ask("POST", "/panels", handlers.WASM(b.fresh()))),
    Case("POST /panels", "15 MiB", lambda b: b.ask("POST", "/panels", {**b.large, "id": b.fresh()})),
    Case("GET /panels/{id}", "not in memory", lambda b: b.ask("GET", f"/panels/{b.stored()}")),
    Case("GET /panels/{id}", "15 MiB", lambda b: b.ask("GET", "/panels/large")),
    Case("PUT /panels/{id}", "15 MiB", lambda b: b.ask("PUT", "/panels/replaced", {**b.large, "id": "replaced"})),
    Case("DELETE /panels/{id}", "not in memory", lambda b: b.ask("DELETE", f"/panels/{b.stored()}")),
    Case("POST /panels/{id}/fork", "15 MiB", lambda b: b.ask("POST", "/panels/large/fork", {"id": b.fresh()})),
    Case("GET /panels/{id}/state", "15 MiB", lambda b: b.ask("GET", "/panels/large/state")),
    Case("GET /panels/{id}/state", "seq=0, 15 MiB", lambda b: b.ask("GET", "/panels/replaced/state?seq=0")),
    Case("GET /panels/{id}/history", "limit=1", lambda b: b.ask("GET", "/panels/busy/history?limit=1")),
    Case("GET /panels/{id}/history", "limit=1000", lambda b: b.ask("GET", "/panels/busy/history?limit=1000")),
    Case(
        "GET /panels/{id}/keys/{key:path}/history",
        "limit=1000",
        lambda b: b.ask("GET", "/panels/busy/keys/n/history?limit=1000"),
    ),
    Case("POST /panels/{id}/revert", "15 MiB", lambda b: b.ask("POST", "/panels/replaced/revert", {"seq": 0})),
    Case("POST /panels/{id}/trigger/{tool}", "small", lambda b: b.ask("POST", "/panels/busy/trigger/write", {"args": {"keys": 1, "chars": 1}})),
    Case("GET /panels/{id}/suspensions", "", lambda b: b.ask("GET", "/panels/asking/suspensions")),
    Case(
        "GET /panels/{id}/suspensions/{suspension}",
        "",
        lambda b: b.ask("GET", f"/panels/asking/suspensions/{_suspension(b)}"),
    ),
    Case(
        "DELETE /panels/{id}/suspensions/{suspension}",
        "",
        lambda b: b.ask("DELETE", f"/panels/asking/suspensions/{_suspension(b)}"),
    ),
    Case(
        "POST /panels/{id}/suspensions/{suspension}/answer",
        "",
        lambda b: b.ask("POST", f"/panels/asking/suspensions/{_suspension(b)}/answer", {"value": 1}),
    ),
    Case("POST /panels/{id}/tools/{tool}/reset", "", lambda b: b.ask("POST", "/panels/busy/tools/write/reset")),
    Case("GET /panels/{id}/stream", "offset=-1, 15 MiB", lambda b: b.system.text("/panels/large/stream?offset=-1")),
    Case("POST /revocations", "", lambda b: b.revoke()),
    Case("GET /revocations", "limit=1000", lambda b: b.ask("GET", "/revocations?limit=1000")),
    Case("GET /revocations/{id}", "", lambda b: b.ask("GET", f"/revocations/{b.revoke()}")),
    Case("DELETE /revocations/{id}", "", lambda b: b.ask("DELETE", f"/revocations/{b.revoke()}")),
    Case(UPGRADE, "15 MiB", _upgrade("")),
    Case(UPGRADE, f"since=0, {COMMITS:,} commits", _upgrade("since=0", "busy")),
)  # fmt: skip


def main() -> None:
    """Measures and prints."""
    arguments = parser("benchmarks.routes", __doc__)
    arguments.add_argument("--panels", type=int, default=100_000, metavar="N", help="at rest (100000)")
    arguments.add_argument("--only", metavar="TEXT", default="", help="cases whose route has this in it")
    arguments.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each case (2)")
    options = arguments.parse_args()
    count, seconds = (2_000, 0.3) if options.quick else (options.panels, options.seconds)
    table = measure(count, seconds, options.only, scale=0.02 if options.quick else 1.0)
    Report(command("benchmarks.routes"), [table]).publish(options.json)


def measure(count: int, seconds: float, only: str, *, scale: float) -> Table:
    """A row for each case, the longest stretch first. ``scale`` makes what is large smaller."""
    missing = routes() - {case.route for case in CASES}
    if missing:
        raise RuntimeError(f"expected a case for every route, got none for {', '.join(sorted(missing))}")
    table = Table(
        f"How long a route keeps others waiting, {count:,} panels",
        (
            "route",
            "form",
            "asked",
            "answer ms",
            "PONG p50 ms",
            "p99 ms",
            "longest ms",
            f"within {TARGET_MS:g} ms",
        ),
    )
    table.notes.append("PONG and longest: of another client, without what its threads waited for a CPU.")
    with tempfile.TemporaryDirectory(prefix="panels-routes-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text("s" * 32)
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        stored.store(data, count, 200)
        options = Options(
            data_dir=data,
            auth=["--jwt-secret-file", str(secret)],
            gateway_args=[
                "--max-body-bytes=64MiB",
                "--history-bytes=4GiB",
                "--max-suspensions-per-panel=100000",
                "--max-in-flight=16384",
                "--max-admitted=16384",
            ],
        )
        with panels(options) as system:
            system.token = token("s" * 32)
            bench = Bench(system, token("s" * 32, _grants()), count, scale)
            _prepare(bench)
            rows = [_measured(bench, case, seconds) for case in CASES if only in f"{case.route} {case.form}"]
    for row in sorted(rows, key=lambda row: -row[6]):
        table.add(*row, row[6] <= TARGET_MS)
    return table


def _prepare(bench: Bench) -> None:
    keys = int(KEYS * bench.scale)
    bench.large = {
        **handlers.WASM("large"),
        "initialState": {f"key-{n}": "x" * VALUE_CHARS for n in range(keys)},
    }
    for panel_id in ("large", "replaced"):
        bench.ask("POST", "/panels", {**bench.large, "id": panel_id})
    other = {**handlers.WASM("replaced"), "initialState": {f"key-{n}": 0 for n in range(keys)}}
    bench.ask("PUT", "/panels/replaced", other)
    for name, tool, source in (("busy", "write", _WRITING), ("asking", "ask", _ASKING)):
        handler = {"name": tool, "handler": source}
        if name == "asking":
            handler["capabilities"] = ["ext:human.*"]  # type: ignore[assignment]
        bench.ask("POST", "/panels", {"id": name, "kind": name, "initialState": {"n": 0}, "tools": [handler]})
    bench.ask("POST", "/panels", handlers.WASM("quiet"))
    with connect(bench.system.websocket_url("busy"), max_size=None, compression=None) as socket:
        commits = int(COMMITS * bench.scale)
        for first in range(0, commits, 50):
            for _ in range(50):
                socket.send('{"type":"TRIGGER","tool":"write","args":{"keys":8,"chars":100},"requestId":"r"}')
            answered = 0
            while answered < 50 and first < commits:
                message = json.loads(socket.recv())
                if message["type"] == "ERROR":
                    raise RuntimeError(str(message))
                answered += message["type"] == "RESULT"


def _suspend(bench: Bench) -> None:
    """Has handlers wait for every case that takes one away."""
    count = max(10, int(SUSPENSIONS * bench.scale))
    with connect(bench.system.websocket_url("asking"), compression=None, close_timeout=0) as socket:
        for _ in range(count):
            socket.send('{"type":"TRIGGER","tool":"ask"}')
            while (message := json.loads(socket.recv()))["type"] != "PROGRESS":
                if message["type"] == "ERROR":
                    raise RuntimeError(str(message))
            bench.suspensions.append(message["suspensionId"])


def _measured(bench: Bench, case: Case, seconds: float) -> tuple[Any, ...]:
    server = bench.system.server
    assert server is not None
    url = bench.system.websocket_url("quiet")
    if "suspensions" in case.route:
        _suspend(bench)
    arguments = [sys.executable, "-m", "benchmarks.prober", url, str(seconds), str(server.pid)]
    output: list[str] = []

    def listen() -> None:
        # a process of its own costs a second to start, which a quick run does not have for each case
        if bench.scale < 1:
            output.append(probe(url, seconds, server.pid))
        else:
            done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            output.append(done.stdout)

    reader = threading.Thread(target=listen)
    reader.start()
    times: list[float] = []
    while reader.is_alive() or not times:
        began = time.perf_counter()
        try:
            case.ask(bench)
        except (RuntimeError, IndexError) as exc:
            # the record cannot keep up with what is written at once, which is said with 503; or all that
            # waited was answered
            if isinstance(exc, RuntimeError) and ": 503: " not in str(exc):
                raise
            if not reader.is_alive():
                break
            time.sleep(0.1)
            continue
        times.append((time.perf_counter() - began) * 1e3)
    reader.join()
    if not output:
        raise RuntimeError(f"{case.route}: the prober failed; see above")
    waits = sorted(float(line.split()[1]) for line in output[0].splitlines())
    times.sort()
    return (
        case.route, case.form, len(times), times[len(times) // 2] if times else 0.0, waits[len(waits) // 2],
        waits[len(waits) * 99 // 100], waits[-1],
    )  # fmt: skip


def _grants() -> list[dict[str, Any]]:
    # short, since a token has at most 8 KiB
    ids = [f"q{number}*" for number in range(1, GRANTS)] + ["panel-99"]
    return [{"id": panel_id, "allow": ["read"]} for panel_id in ids]


def token(secret: str, grants: list[dict[str, Any]] | None = None) -> str:
    """A token that is valid for a day, for everything or for these grants."""
    claims: dict[str, Any] = {"panels_admin": True, "exp": int(time.time()) + 80_000}
    if grants is not None:
        claims["panels"] = grants
    text = b".".join(
        _part(json.dumps(part, separators=(",", ":")).encode()) for part in ({"alg": "HS256"}, claims)
    )
    return (text + b"." + _part(hmac.digest(secret.encode(), text, hashlib.sha256))).decode()


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


if __name__ == "__main__":
    main()
