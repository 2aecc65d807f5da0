"""The example package passes its own test, with nothing but its folder on the path."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from panels_gateway.extensions.registry import ENTRY_POINTS

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "extension"


def test_example_passes_its_own_test() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE), "tests"],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )

    assert run.returncode == 0, run.stdout + run.stderr


def test_example_is_found_by_the_entry_point_group() -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]

    assert project["entry-points"][ENTRY_POINTS] == {"weather": "panels_weather.weather:Weather"}
