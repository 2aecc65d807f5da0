"""The coverage gate itself: a module that falls fails it, and its own tests are told from others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    """scripts/coverage_gate.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("coverage_gate", ROOT / "scripts" / "coverage_gate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_module_that_falls_below_either_floor_is_named(gate: ModuleType) -> None:
    floors = {"a.py": gate.Reach(90, 70)}
    assert list(gate.shortfalls({"a.py": gate.Reach(90, 70)}, floors)) == []
    assert list(gate.shortfalls({"a.py": gate.Reach(89, 70)}, floors)) == [
        "a.py: expected at least 90 % by all unit tests, got 89 %"
    ]
    assert list(gate.shortfalls({"a.py": gate.Reach(90, 69)}, floors)) == [
        "a.py: expected at least 70 % by its own tests, got 69 %"
    ]


def test_new_module_has_to_reach_the_default(gate: ModuleType) -> None:
    assert list(gate.shortfalls({"new.py": gate.DEFAULT}, {})) == []
    assert len(list(gate.shortfalls({"new.py": gate.Reach(0, 0)}, {}))) == 2


def test_floor_of_a_module_that_is_gone_is_named(gate: ModuleType) -> None:
    (problem,) = gate.shortfalls({}, {"gone.py": gate.Reach(1, 1)})
    assert problem.startswith("gone.py: expected a module")


def test_floors_are_read_as_they_were_written(gate: ModuleType) -> None:
    floors = gate.read_floors(gate.written({"b.py": gate.Reach(100, 80), "a.py": gate.Reach(1, 0)}))
    assert floors == {"a.py": gate.Reach(0, 0), "b.py": gate.Reach(97, 77)}


def test_floors_are_those_of_modules_that_there_are(gate: ModuleType) -> None:
    floors = gate.read_floors(gate.FLOORS.read_text())
    assert [name for name in floors if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("module", "context", "own"),
    [
        ("room/hub.py", "tests/gateway/room/test_hub.py::test_a|run", True),
        ("room/hub.py", "tests/gateway/room/test_hub_machine.py::TestHub::runTest|run", True),
        ("room/inner/hub.py", "tests/gateway/room/test_hub.py::test_a|run", True),
        ("room/hub.py", "tests/gateway/room/test_hubris.py::test_a|run", False),
        ("room/hub.py", "tests/gateway/other/test_hub.py::test_a|run", False),
        ("room/hub.py", "tests/gateway/room/test_outbox.py::test_hub|run", False),
        ("__main__.py", "tests/gateway/test_main.py::test_a[x/y]|setup", True),
    ],
)
def test_own_tests_are_told_by_their_file(gate: ModuleType, module: str, context: str, own: bool) -> None:
    assert (gate.own_tests(Path(module), "tests/gateway").match(context) is not None) is own


def test_measure_tells_own_tests_from_others(gate: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    (package / "room").mkdir(parents=True)
    path = package / "room" / "hub.py"
    path.write_text(
        "def mine():\n    return 1\n\n\ndef others():\n    return 2\n\n\ndef nobody():\n    return 3\n"
    )
    data_file = tmp_path / "data"
    measured = coverage.Coverage(data_file=str(data_file), include=[str(path)])
    tracer = sys.gettrace()
    measured.start()
    spec = importlib.util.spec_from_file_location("hub_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    measured.switch_context("tests/pkg/room/test_hub.py::test_mine|run")
    module.mine()
    measured.switch_context("tests/pkg/room/test_outbox.py::test_other|run")
    module.others()
    measured.stop()
    measured.save()
    sys.settrace(tracer)

    figures = dict(gate.measure(tmp_path, {"pkg": "tests/pkg"}, data_file))

    # three definitions and one body of six statements are its own; one more body is not
    assert figures == {"pkg/room/hub.py": gate.Reach(83, 66)}
