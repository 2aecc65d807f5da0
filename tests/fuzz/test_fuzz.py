"""Every target for a moment, every input that ever failed, and a proof that the harness finds what is
wrong."""

from __future__ import annotations

import functools
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz.fuzzer import Finding, Fuzzer, execute, minimise, regression_path, regressions, save, warm
from tests.fuzz.mutation import JSON, MAX_INPUT_BYTES, MSGPACK, Codec, Mutator, NotOpenError
from tests.fuzz.shrinking import shrink
from tests.fuzz.target import Cost, Target, Violation, refused, require_json
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SEED = 20_261_126


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What targets log about thousands of inputs is not kept."""
    with caplog.at_level(logging.ERROR):
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_target_finds_nothing(name: str) -> None:
    target = TARGETS[name]()
    try:
        fuzzer = Fuzzer(target, SEED)
        for _ in range(target.quick):
            finding = fuzzer.step()
            if finding is not None:
                smallest = minimise(target, finding)
                pytest.fail(f"{smallest.kind}\n{smallest.data[:2_000]!r}\n{smallest.text}")
        assert len(fuzzer.outcomes) > 1, "a target whose inputs all end alike shows little"
    finally:
        target.close()


@pytest.mark.parametrize(
    ("name", "path"),
    [pytest.param(name, path, id=f"{name}/{path.name}") for name in TARGETS for path in regressions(name)],
)
def test_input_that_failed_once_does_not_fail_again(name: str, path: Path) -> None:
    data = path.read_bytes()
    assert path == regression_path(name, data), "an input is named after its content"
    target = TARGETS[name]()
    try:
        warm(target)
        outcome = execute(target, data)
        assert isinstance(outcome, str), outcome.text
    finally:
        target.close()


def test_every_folder_of_regressions_belongs_to_a_target() -> None:
    folders = {path.parent.name for path in (ROOT / "tests" / "fuzz" / "regressions").glob("*/*")}
    assert folders <= set(TARGETS)


# -- the harness -------------------------------------------------------------------------------------


class Planted(Target):
    """A decoder with a fault: a list that holds a long text in a map raises what it should not."""

    name = "planted"
    codec: ClassVar[Codec | None] = MSGPACK

    def seeds(self) -> list[bytes]:
        return [MSGPACK.encode([1, {"name": "abc"}, ["more", 2.5, None]] * 3)]

    def run(self, data: bytes) -> str:
        try:
            value = MSGPACK.decode(data)
        except NotOpenError as exc:
            return refused(exc)
        if isinstance(value, list):
            for each in value:
                if isinstance(each, dict) and any(isinstance(v, str) and len(v) > 64 for v in each.values()):
                    raise IndexError("planted")
        return type(value).__name__


def _search(target: Target, most: int = 20_000) -> Finding:
    fuzzer = Fuzzer(target, SEED)
    for _ in range(most):
        finding = fuzzer.step()
        if finding is not None:
            return finding
    raise AssertionError(f"nothing was found in {most} inputs")


def test_planted_fault_is_found_and_made_small() -> None:
    finding = _search(Planted())
    assert finding.kind.startswith("IndexError at test_fuzz.py:")
    smallest = minimise(Planted(), finding)
    assert smallest.kind == finding.kind
    # a list, a map, a key and a text of 65 characters with its head
    assert len(smallest.data) < 80 < len(finding.data)
    assert isinstance(execute(Planted(), smallest.data), Finding)


def test_same_seed_finds_the_same_input() -> None:
    assert _search(Planted()) == _search(Planted())


class Greedy(Planted):
    """A decoder that makes far more of its input than it may."""

    cost = Cost(per_byte=16, constant=1_000)

    def run(self, data: bytes) -> str:
        return str(len([bytes(64) for _ in data]) > 40)


def test_decoder_that_takes_too_much_memory_is_found() -> None:
    assert _search(Greedy()).kind == "Violation: memory within its bound"


class Picky(Target):
    """A fault behind two sentences: it is reached when inputs with new outcomes are kept, and not at
    random."""

    name = "picky"
    doors = b"fuz"

    def seeds(self) -> list[bytes]:
        return [b"..."]

    def run(self, data: bytes) -> str:
        opened = 0
        while opened < len(self.doors) and data[opened : opened + 1] == self.doors[opened : opened + 1]:
            opened += 1
        if opened == len(self.doors):
            raise KeyError("planted")
        return "door " * opened


def test_inputs_with_new_outcomes_lead_on() -> None:
    assert _search(Picky(), 400_000).data.startswith(Picky.doors)


def test_interruption_is_no_finding() -> None:
    class Interrupted(Planted):
        def run(self, data: bytes) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(Interrupted(), b"")


def test_inputs_that_failed_are_kept_by_their_content(tmp_path: Path) -> None:
    path = save("planted", b"input", folder=tmp_path)
    assert path == save("planted", b"input", folder=tmp_path)
    assert regressions("planted", folder=tmp_path) == [path]
    assert path.read_bytes() == b"input"
    assert regressions("other", folder=tmp_path) == []


def test_shrink_stops_after_its_tries() -> None:
    asked: list[bytes] = []

    def fails(data: bytes) -> bool:
        asked.append(data)
        return b"x" in data

    assert shrink(b"..x.." * 3, fails) == b"x"
    asked.clear()
    shrink(bytes(1_000) + b"x", fails, tries=7)
    assert len(asked) <= 7


@pytest.mark.parametrize("codec", [None, JSON, MSGPACK])
def test_mutator_is_bounded_and_says_the_same_twice(codec: Codec | None) -> None:
    seed = (codec or JSON).encode({"a": [1, 2.5, "x", None, True, {"b": "c"}]})

    def make() -> list[bytes]:
        mutator = Mutator(random.Random(SEED), codec=codec, tokens=(b"token",))
        data, made = seed, []
        for _ in range(500):
            data = mutator.mutate(data if len(data) < 2_000 else seed, seed)
            made.append(data)
        return made

    made = make()
    assert made == make()
    assert all(len(data) <= MAX_INPUT_BYTES for data in made)
    assert len(set(made)) > 400


def test_mutated_values_keep_being_values() -> None:
    mutator = Mutator(random.Random(SEED), codec=MSGPACK)
    kinds: set[str] = set()
    value: Any = [1, {"a": "b"}, b'{"json":1}', 2.5, None, [True]]
    for _ in range(2_000):
        changed = mutator.mutate_value(value, value)
        kinds.add(type(changed).__name__)
        if isinstance(changed, list):
            kinds |= {type(child).__name__ for child in changed}
    assert kinds >= {"list", "dict", "int", "float", "str", "bytes", "NoneType", "bool"}


@pytest.mark.parametrize(
    "text",
    [b"NaN", b"1e999", b'"\\ud800"', b"[" * 65 + b"]" * 65, b"1" * 400, b"{", b"\xff", b'{"\\udc00":1}'],
)
def test_what_is_outside_of_the_bounds_of_json_is_a_violation(text: bytes) -> None:
    with pytest.raises(Violation):
        require_json(text)


@pytest.mark.parametrize(
    "text", [b"[" * 64 + b"]" * 64, b"1" * 308, b'{"a":{"b":[null,"\xc3\xa9"]}}', b"-1e-999"]
)
def test_what_is_within_them_is_not(text: bytes) -> None:
    require_json(text)


# -- the command -------------------------------------------------------------------------------------


def _fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=50
    )


def test_command_runs_for_its_time_and_says_how_far_it_is() -> None:
    done = _fuzz("strict-json", "wire-to-worker", "--minutes", "0.01", "--seed", "7", "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz: seed 7, 2 targets, 2 processes" in done.stdout
    assert "nothing was found" in done.stdout
    assert "executions" in done.stdout


def test_command_runs_one_input_again(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b'{"a":1,"a":2}')
    done = _fuzz("strict-json", "--input", str(path))
    assert (done.returncode, done.stdout) == (
        0,
        "strict-json: StrictJsonError: an object with the same key twice\n",
    )


def test_command_names_the_targets_there_are() -> None:
    done = _fuzz("nonsense")
    assert done.returncode == 2
    assert "expected one of json, frame" in done.stderr


def _child(code: str, last: Path) -> command.Child:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    return command.Child(process, last, 0.0)


def test_finding_of_a_child_is_told_and_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "save", functools.partial(save, folder=tmp_path))
    assert command.report(Fuzzer(Planted(), SEED), _search(Planted())) == 0
    line = capsys.readouterr().out
    child = _child(f"print({line.strip()!r})", tmp_path / "last")
    assert command.hear(child) == 1
    child.process.wait()
    assert child.process.stdout is not None
    child.process.stdout.close()
    said = capsys.readouterr().out
    (path,) = regressions("planted", folder=tmp_path)
    assert len(path.read_bytes()) < 80
    assert "IndexError at test_fuzz.py" in said
    assert f"again: scripts/fuzz planted --input {path}" in said


def test_child_that_dies_leaves_the_input_that_it_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "save", functools.partial(save, folder=tmp_path))
    (tmp_path / "last").write_bytes(b"planted\nthe\ninput")
    child = _child("import os; os.abort()", tmp_path / "last")
    assert command.hear(child) == 1
    assert child.process.stdout is not None
    child.process.stdout.close()
    (path,) = regressions("planted", folder=tmp_path)
    assert path.read_bytes() == b"the\ninput"
    assert "planted: ends its process: SIGABRT" in capsys.readouterr().out
