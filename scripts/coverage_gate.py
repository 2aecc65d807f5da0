"""Compares the coverage of every module with its floors in ``tests/coverage_floors.toml``.

One run of the unit tests gives two figures for each module, told apart by coverage's contexts: what all unit
tests execute of it, and what its own tests do. Its own are ``test_<module>.py`` and ``test_<module>_*.py``
anywhere in its room's folder of tests. A line that runs at import counts for both. Integration and security
tests start whole systems and are not counted.

Property tests try a few examples, and the same ones each time, so that the gate is quick and its figures can
be compared. ``--update`` writes today's figures, less a margin, as the floors.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
FLOORS: Final = ROOT / "tests" / "coverage_floors.toml"
DATA: Final = ROOT / "build" / "coverage"
#: Package folder, and the folder of its unit tests.
PACKAGES: Final = {
    "cli/panels_cli": "tests/cli",
    "gateway/panels_gateway": "tests/gateway",
    "shared/panels_shared": "tests/shared",
    "workers/panels_worker": "tests/workers",
    "clients/python/panels_client": "tests/clients/python",
}
#: Tests that prove by mass what others prove by example: slow under a tracer, and reaching nothing new.
LEFT_OUT: Final[tuple[str, ...]] = ()
#: Examples of a property test, and steps of a state machine.
EXAMPLES: Final = 8
STEPS: Final = 30
#: How far ``--update`` sets a floor below what was measured, in per cent: processes and clocks vary a little.
MARGIN: Final = 3


class Reach(NamedTuple):
    """Per cent of a module's statements: that all unit tests execute, and that its own do."""

    everything: int
    own: int


#: What a module has to reach that has no entry of its own, as a new one.
DEFAULT: Final = Reach(90, 80)


def main(arguments: Sequence[str]) -> int:
    """Runs the unit tests and compares, or writes the floors; the exit code."""
    code = run_tests()
    if code:
        print("coverage: the unit tests failed, so there is nothing to compare", file=sys.stderr)
        return code
    figures = dict(measure(ROOT, PACKAGES, DATA))
    if "--update" in arguments:
        FLOORS.write_text(written(figures))
        return 0
    problems = list(shortfalls(figures, read_floors(FLOORS.read_text())))
    for problem in problems:
        print(f"coverage: {problem}", file=sys.stderr)
    print(f"coverage: {len(figures)} modules measured, {len(problems)} problems")
    return 1 if problems else 0


def run_tests() -> int:
    """Runs all unit tests under coverage, into ``DATA``; pytest's exit code."""
    DATA.parent.mkdir(exist_ok=True)
    for stale in DATA.parent.glob(f"{DATA.name}*"):
        stale.unlink()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "coverage_gate", "-n", "2", "--dist", "loadfile"]
    command += ["-m", "not slow", *PACKAGES.values(), *(f"--deselect={name}" for name in LEFT_OUT)]
    command += [*(f"--cov={folder}" for folder in PACKAGES), "--cov-context=test", "--cov-report="]
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "COVERAGE_FILE": str(DATA), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def pytest_collection_modifyitems(items: Iterable[Any]) -> None:
    """pytest's hook, since the run loads this file as a plugin: makes property tests few and repeatable."""
    from hypothesis import settings

    settings.register_profile(
        "coverage", max_examples=EXAMPLES, derandomize=True, database=None, deadline=None
    )
    settings.load_profile("coverage")
    for item in items:
        function: Any = getattr(item, "function", None)
        given = getattr(function, "_hypothesis_internal_use_settings", None)
        if given is not None:
            function._hypothesis_internal_use_settings = _few(given)
        machine: Any = getattr(item, "cls", None)
        if isinstance(getattr(machine, "settings", None), settings):
            machine.settings = _few(machine.settings)


def _few(given: Any) -> Any:
    from hypothesis import settings

    return settings(
        given,
        max_examples=min(EXAMPLES, given.max_examples),
        stateful_step_count=min(STEPS, given.stateful_step_count),
        derandomize=True,
        database=None,
        deadline=None,
    )


def measure(root: Path, packages: Mapping[str, str], data_file: Path) -> Iterator[tuple[str, Reach]]:
    """Each module of ``packages`` that has statements, and what was reached of it by ``data_file``."""
    import coverage

    measured = coverage.Coverage(data_file=str(data_file))
    measured.load()
    data = measured.get_data()
    for folder, tests in packages.items():
        for path in sorted((root / folder).rglob("*.py")):
            _, statements, _, missing, _ = measured.analysis2(str(path))
            if not statements:
                continue
            is_own = own_tests(path.relative_to(root / folder), tests)
            contexts = data.contexts_by_lineno(str(path))
            own = sum(
                any(not context or is_own.match(context) for context in contexts.get(line, ()))
                for line in statements
            )
            reached = len(statements) - len(missing)
            yield (
                str(path.relative_to(root)),
                Reach(100 * reached // len(statements), 100 * own // len(statements)),
            )


def own_tests(module: Path, tests: str) -> re.Pattern[str]:
    """What matches the contexts of a module's own tests: node ids, like ``tests/x/y/test_z.py::test_a|run``.

    ``module`` is its path inside its package, ``tests`` the folder of the package's tests.
    """
    room = module.parts[0] if len(module.parts) > 1 else None
    folder = f"{tests}/{room}" if room else tests
    name = module.stem.strip("_")
    return re.compile(rf"{re.escape(folder)}/(?:[^:]*/)?test_{re.escape(name)}(?:_[^/:]*)?\.py::")


def read_floors(text: str) -> dict[str, Reach]:
    """The floors in ``text``, by module."""
    return {name: Reach(entry["all"], entry["own"]) for name, entry in tomllib.loads(text).items()}


def written(figures: Mapping[str, Reach]) -> str:
    """The file of floors for ``figures``."""
    lines = [
        "# The least that each module must reach: per cent of its statements that all unit tests and its own",
        "# execute. scripts/coverage compares, and --update writes this file. Floors rise and never fall.",
    ]
    for name, reach in sorted(figures.items()):
        everything, own = (max(0, figure - MARGIN) for figure in reach)
        lines.append(f'"{name}" = {{ all = {everything}, own = {own} }}')
    return "\n".join(lines) + "\n"


def shortfalls(figures: Mapping[str, Reach], floors: Mapping[str, Reach]) -> Iterator[str]:
    """A sentence for each module below a floor, and for each floor of a module that is gone."""
    for name, reach in figures.items():
        for what, got, least in zip(
            ("all unit tests", "its own tests"), reach, floors.get(name, DEFAULT), strict=True
        ):
            if got < least:
                yield f"{name}: expected at least {least} % by {what}, got {got} %"
    for name in sorted(floors.keys() - figures.keys()):
        yield f"{name}: expected a module, got none; take its floor out of {FLOORS.name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
