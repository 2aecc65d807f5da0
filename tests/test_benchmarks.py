"""The verifying programs do verify: short real runs without a violation, and violations
where an answer is falsified.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load.client import LoadClient, Samples
from benchmarks.model import Room, compare
from benchmarks.record import PARTS, with_part
from benchmarks.report import Report, Table
from benchmarks.routes import routes

ROOT = Path(__file__).resolve().parents[1]


def built_client() -> None:
    """Builds the client in TypeScript. Skips the test, or fails it on CI, where that cannot be."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            missing = f"expected {tool} on PATH, found none"
            if os.environ.get("CI_TOOLCHAIN"):
                pytest.fail(missing)
            pytest.skip(missing)
    package = ROOT / "clients" / "typescript"
    if not (package / "node_modules" / "esbuild").exists():
        install = ("npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
        subprocess.run(install, cwd=package, check=True, capture_output=True, timeout=150)
    subprocess.run(("node", "scripts/build.mjs"), cwd=package, check=True, capture_output=True, timeout=60)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280
    )


@pytest.mark.timeout(120)
def test_load_test_writes_its_report(tmp_path: Path) -> None:
    report, figures = tmp_path / "report.html", tmp_path / "figures.json"
    done = run(
        "benchmarks.load", "--duration", "0.5", "--panels", "3", "--html", str(report), "--json", str(figures)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads(figures.read_text())["runs"]
    assert [each["name"] for each in runs] == ["panels", "reference"]
    assert all(each["answered"] > 100 and not each["violations"] for each in runs)
    text = report.read_text()
    assert text.count("<svg") >= 3
    assert "http" not in text.replace("http://www.w3.org", "")


@pytest.mark.timeout(120)
def test_soak_ends_as_the_model_says() -> None:
    done = run("benchmarks.soak", "--minutes", "0.1", "--seed", "7", "--panels", "3", "--clients", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "violations 0" in done.stdout


@pytest.mark.timeout(120)
def test_overload_leaves_no_trigger_unanswered_and_serves_who_is_polite(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    short = ("--seconds", "1", "--warmup", "0.3", "--panels", "2", "--clients", "4", "--triggers", "10000")
    done = run("benchmarks.overload", *short, "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(figures.read_text())
    assert (told["sent"], told["unanswered"], told["violations"]) == (10_000, 0, [])
    assert sum(told["answers"].values()) == 10_000
    assert told["answers"].keys() <= {"RESULT", "OVERLOADED"}
    assert told["answers"]["RESULT"] > 0
    assert told["polite_answers"] == {"RESULT": told["polite_sent"]}


@pytest.mark.timeout(120)
def test_waiting_takes_all_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run("benchmarks.waiting", "--quick", "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = json.loads(figures.read_text())["tables"]
    assert len(table["rows"]) == 9


@pytest.mark.timeout(120)
def test_routes_asks_for_every_route(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run("benchmarks.routes", "--quick", "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    (table,) = json.loads(figures.read_text())["tables"]
    assert {row[0] for row in table["rows"]} == routes()


@pytest.mark.parametrize("part", list(PARTS))
def test_record_measures(part: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run("benchmarks.record", "--quick", "--only", part, "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads(figures.read_text())["tables"][0]
    assert table["title"] == "The record"
    assert table["rows"]


def test_results_keep_one_part_of_the_record() -> None:
    first, second = (Report("command", [Table(name, ("a",))]) for name in ("first", "second"))
    results = with_part(with_part("# Results\n", [first]), [second])
    assert results.count("# The record\n") == 1
    assert results.startswith("# Results\n")
    assert "## second" in results
    assert "## first" not in results


@pytest.mark.timeout(120)
def test_sandbox_runs_beside_bare_wasmtime() -> None:
    done = run("benchmarks.sandbox", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr


# -- what must not go unnoticed ----------------------------------------------------------------------


class Frame:
    """A frame as picows gives it."""

    def __init__(self, message: dict[str, Any]) -> None:
        from picows import WSMsgType

        self.msg_type = WSMsgType.TEXT
        self._payload = json.dumps(message).encode()

    def get_payload_as_memoryview(self) -> memoryview:
        return memoryview(self._payload)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"type": "RESULT", "requestId": "a-9"}], "not awaited"),
        ([{"type": "RESULT", "requestId": "a-1"}, {"type": "RESULT", "requestId": "a-1"}], "not awaited"),
        ([{"type": "PATCH", "seq": 2}], "expected PATCH 1, got 2"),
        ([{"type": "PATCH", "seq": 1}, {"type": "PATCH", "seq": 1}], "expected PATCH 2, got 1"),
        ([{"type": "CONNECTED", "seq": 0}], "twice"),
        ([{"type": "ERROR", "code": "INTERNAL", "message": "no", "requestId": "a-1"}], "ERROR INTERNAL"),
        ([{"type": "NONSENSE"}], "NONSENSE"),
    ],
)
def test_client_sees_what_is_wrong(messages: list[dict[str, Any]], said: str) -> None:
    samples = Samples()
    client = LoadClient(samples, name="a", window=1, tool="t", args=b"{}", start_s=0.0, allow_errors=False)
    client.in_flight["a-1"] = 0.0
    frames: Any = [Frame({"type": "CONNECTED", "seq": 0}), *map(Frame, messages)]
    transport: Any = None
    for frame in frames:
        client.on_ws_frame(transport, frame)
    assert any(said in text for text in samples.violations), samples.violations


def sound() -> tuple[Room, dict[str, Any]]:
    room = Room("r", asked={1: "fold", 2: "count", 3: "fold"})
    room.versions = {1: {"h": 1, "last": 1, "n": 1}, 2: {"count": 1}, 3: {"h": 34, "last": 3, "n": 2}}
    room.results = [(1, 1, [0, 1]), (2, 2, 1), (3, 3, [1, 34])]
    room.events = [(1, 1), (2, 1), (3, 3)]
    room.replicas = [(0, {}), (2, {"h": 1, "last": 1, "n": 1, "count": 1})]
    return room, {"h": 34, "last": 3, "n": 2, "count": 1}


def test_model_agrees_with_a_sound_run() -> None:
    room, state = sound()
    assert compare(room, 3, state) == []


def test_model_sees_what_is_wrong() -> None:
    def wrong(change: Any) -> list[str]:
        room, state = sound()
        change(room, state)
        return compare(room, 3, state)

    def lost_update(room: Room, state: dict[str, Any]) -> None:
        room.versions[3] = {"h": 3, "last": 3, "n": 1}

    def twice(room: Room, state: dict[str, Any]) -> None:
        room.versions[3] = {"h": 32, "last": 1, "n": 2}

    assert "expected" in wrong(lost_update)[0]
    assert any("committed as 1 and as 3" in text for text in wrong(twice))
    assert any("versions 1 to 3" in text for text in wrong(lambda room, _: room.versions.pop(2)))
    assert any("know" in text for text in wrong(lambda room, _: room.replicas.append((1, {}))))
    assert any("did not hear" in text for text in wrong(lambda room, _: room.replicas.append((4, {}))))
    assert any("expected 3 events" in text for text in wrong(lambda room, _: room.events.pop()))
    assert any("events" in text for text in wrong(lambda room, _: room.events.reverse()))
    assert any("never heard" in text for text in wrong(lambda room, _: room.outside.update({9: {}})))
    assert any("at version 2" in text for text in wrong(lambda room, _: room.results.append((2, 2, 1))))
    assert any("expected the state" in text for text in wrong(lambda _, state: state.update(h=5)))
    assert any("failed" in text for text in wrong(lambda room, _: room.failed.add(3)))
    assert any("was answered" in text for text in wrong(lambda room, _: room.results.append((3, 1, [0, 1]))))
    assert any(
        "not asked" in text for text in wrong(lambda room, _: room.asked.pop(3) and room.results.clear())
    )


@pytest.mark.timeout(300)
def test_restarts_fail_no_trigger_and_lose_no_call(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = run("benchmarks.restarts", "--quick", "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    replacing, restarting = json.loads(figures.read_text())["tables"]
    assert [row[0] for row in replacing["rows"]] == ["undisturbed", "replacing"]
    assert replacing["rows"][1][4] >= 2
    assert restarting["rows"][0][4] == restarting["rows"][0][6] == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["python", "typescript"])
def test_client_survives_faults_and_kills_of_the_gateway(client: str, tmp_path: Path) -> None:
    if client == "typescript":
        built_client()
    figures = tmp_path / "figures.json"
    options = ("--client", client, "--faults", "60", "--kill-every", "30", "--seed", "3")
    done = run("benchmarks.client_faults", *options, "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(figures.read_text())
    assert (told["faults"], told["violations"]) == (60, [])
    assert len(told["kinds"]) >= 6
    assert told["kinds"]["kill"] == 2
    assert told["answered"] >= 60


@pytest.mark.timeout(300)
def test_figures_of_the_clients_are_taken(tmp_path: Path) -> None:
    built_client()
    figures = tmp_path / "figures.json"
    done = run("benchmarks.client_figures", "--quick", "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    applying, holding, reconnecting = json.loads(figures.read_text())["tables"]
    for table in (applying, holding, reconnecting):
        assert [row[0] for row in table["rows"]] == ["Python", "Node"]
        assert all(figure > 0 for row in table["rows"] for figure in row[1:4])
    assert [row[-1] for row in reconnecting["rows"]] == [0, 0]
