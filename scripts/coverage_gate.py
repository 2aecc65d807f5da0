"""Compares the coverage of every module with its floors in ``tests/coverage_floors.toml``.

One run of the unit tests, with coverage's contexts, gives both figures: what all unit tests reach of a
module, and what its own do. Its own are ``tests/<package>/<room>/test_<module>.py``. A module may fall short
of a floor by nothing, and one without an entry has to reach the default. ``--update`` writes today's figures
(rounded down) as the floors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import coverage

ROOT: Final = Path(__file__).resolve().parents[1]
FLOORS: Final = ROOT / "tests" / "coverage_floors.toml"
DATA: Final = ROOT / "build" / "coverage"
#: Package folder, and the folder of its tests. Integration and security tests start processes and are
#: not counted. The worker is not in the gate yet: its unit tests start processes too, and take
#: minutes under a tracer.
PACKAGES: Final = {
    "gateway/panels_gateway": "tests/gateway",
    "shared/panels_shared": "tests/shared",
}
#: What a module has to reach that has no entry of its own, in per cent: by all unit tests, by its own.
DEFAULT: Final = (90, 80)


def main() -> int:
    """Runs the unit tests and compares; the exit code."""
    DATA.parent.mkdir(exist_ok=True)
    for stale in DATA.parent.glob(f"{DATA.name}*"):
        stale.unlink()
    environment = {**os.environ, "COVERAGE_FILE": str(DATA)}
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *PACKAGES.values(),
         *(f"--cov={folder}" for folder in PACKAGES), "--cov-context=test", "--cov-report="],
        cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    if tests.returncode:
        return tests.returncode
    figures = dict(measure())
    if "--update" in sys.argv[1:]:
        FLOORS.write_text(written(figures))
        return 0
    floors = read_floors()
    problems = list(shortfalls(figures, floors))
    for problem in problems:
        print(f"coverage: {problem}")
    return 1 if problems else 0


def measure() -> Iterator[tuple[str, tuple[int, int]]]:
    """Each module, and the per cent of its statements that all unit tests and its own execute."""
    measured = coverage.Coverage(data_file=str(DATA))
    measured.load()
    data = measured.get_data()
    for folder, tests in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            _, statements, _, missing, _ = measured.analysis2(str(path))
            if not statements:
                continue
            inside = path.relative_to(ROOT / folder)
            own = f"{tests}/{inside.with_name(f'test_{inside.stem.strip(chr(95))}.py')}".replace(
                "/", "."
            ).removesuffix(".py")
            contexts = data.contexts_by_lineno(str(path))
            # a line that runs when the module is imported is reached by whoever imports it,
            # the tests of its own too
            reached = sum(
                any(not name or name.startswith(own_test(own)) for name in contexts.get(line, ()))
                for line in statements
            )
            everything = len(statements) - len(missing)
            name = str(path.relative_to(ROOT))
            yield name, (100 * everything // len(statements), 100 * reached // len(statements))


def own_test(module: str) -> str:
    """How pytest-cov's contexts of a test module begin: they are node ids, like
    tests/x/test_y.py::test_z|run.
    """
    return module.replace(".", "/") + ".py::"


def read_floors() -> dict[str, tuple[int, int]]:
    """The floors in the file."""
    return {name: (entry["all"], entry["own"]) for name, entry in tomllib.loads(FLOORS.read_text()).items()}


def written(figures: dict[str, tuple[int, int]]) -> str:
    """The file of floors: only modules below the default have an entry."""
    lines = [
        (
            "# Floors of modules that do not reach the default of scripts/coverage yet: per cent "
            "of statements that all unit"
        ),
        (
            "# tests and the module's own execute. They only rise; scripts/coverage "
            "--update writes what is so now."
        ),
    ]
    for name, (everything, own) in sorted(figures.items()):
        if everything < DEFAULT[0] or own < DEFAULT[1]:
            floors = min(everything, DEFAULT[0]), min(own, DEFAULT[1])
            lines.append(f'"{name}" = {{ all = {floors[0]}, own = {floors[1]} }}')
    return "\n".join(lines) + "\n"


def shortfalls(figures: dict[str, tuple[int, int]], floors: dict[str, tuple[int, int]]) -> Iterator[str]:
    """A sentence for each module below a floor, and for each floor of a module that is gone."""
    for name, reached in figures.items():
        floor = floors.get(name, DEFAULT)
        for what, got, least in zip(("all unit tests", "its own tests"), reached, floor, strict=True):
            if got < least:
                yield f"{name}: expected at least {least} % by {what}, got {got} %"
    for name in floors.keys() - figures.keys():
        yield f"{name}: expected a module, got none; take its floor out of {FLOORS.name}"


if __name__ == "__main__":
    sys.exit(main())
