"""docs/tutorial.md, followed to the letter, but for the port and the installation that the tests run in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.guests import ROOT
from tests.integration.test_up import DEADLINE_S, Place
from tests.support.system import eventually

pytestmark = pytest.mark.timeout(300)

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()


def part(name: str) -> list[tuple[str, str]]:
    """The commands between two marks, each with the output that the document shows."""
    text = TUTORIAL[TUTORIAL.index(f"<!-- {name} -->") : TUTORIAL.index(f"<!-- end of {name} -->")]
    lines = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ")]
    commands: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), ""))
        else:
            command, output = commands[-1]
            commands[-1] = (command, f"{output}{line}\n")
    return commands


def same(text: str) -> str:
    """``text`` with every digest and every link to a page alike."""
    text = re.sub(r"http://127\.0\.0\.1:\d+/[\w-]{16}/#", "PAGE/#", text)
    return re.sub(r"\b[0-9a-f]{12}\b", "DIGEST", text)


def test_tutorial_can_be_followed_to_the_letter(tmp_path: Path) -> None:
    for path in ("scripts/install", ".venv/bin/activate"):
        assert f"    {'source ' if 'activate' in path else ''}{path}\n" in TUTORIAL
    assert os.access(ROOT / "scripts" / "install", os.X_OK)
    place = Place(tmp_path, made=False)
    place.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def follow(name: str) -> None:
        for command, output in part(name):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=place.folder,
                env=place.environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                stdin=subprocess.DEVNULL,
            )
            assert same(done.stdout + done.stderr) == same(output), command

    (init, made), (up, shown) = part("first terminal")
    assert same(place.run(*init.split()[1:]).stdout) == same(made)
    assert up == "panels up"
    with place.up():
        eventually(lambda: same(shown) in same(place.log.read_text()), within_s=DEADLINE_S, what=shown)
        follow("call")
        follow("change")
        changes = "tally changes\n  ~ add  DIGEST → DIGEST\n"
        assert changes in same(re.sub(r"^    ", "", TUTORIAL, flags=re.MULTILINE))
        eventually(lambda: changes in same(place.log.read_text()), within_s=DEADLINE_S, what=changes)
        follow("changed")
        follow("fail")
        failed = TUTORIAL[TUTORIAL.index("    ✗ tally/add.js:3:38") :].split("\n\n")[0]
        place.shows(re.sub(r"^    ", "", failed, flags=re.MULTILINE))
        follow("break")
        mistake = TUTORIAL[TUTORIAL.index("    ✗ tally/add.js:8:1") :].split("\n\n")[0]
        place.shows(re.sub(r"^    ", "", mistake, flags=re.MULTILINE))
        follow("broken")
        place.shows("tally is as the folder says")
