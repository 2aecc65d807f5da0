"""How long `panels up` takes to the first answer of a handler, and from a saved handler to its answer.

Each round starts `panels up` in a folder of its own, with the console scripts that are installed, and calls
the tool over one HTTP connection. "To the first RESULT" begins before the program is started; what a client
of this program costs is in it, what typing `panels call` in a second terminal costs is not. "To the new
handler" begins when the file has been written. The reference is what the machine takes to start Python and
import the command line, `panels --version`, in the same round. Compiled handlers are cached from the second
round on.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.report import Report, Table, command, parser

PANELS: Final = str(Path(sys.executable).parent / "panels")
DEADLINE_S: Final = 60.0
TARGET_FIRST_S: Final = 2.0
TARGET_CHANGE_S: Final = 0.5


def main() -> None:
    """Measures and prints."""
    options = parser("benchmarks.development", __doc__).parse_args()
    rounds, changes = (2, 3) if options.quick else (7, 10)
    Report(command("benchmarks.development"), [development(rounds, changes)]).publish(options.json)


def development(rounds: int, changes: int) -> Table:
    """Medians and the worst of so many starts, and of so many changes in each."""
    before = os.getloadavg()[0]
    starts, firsts, seconds = [], [], []
    for number in range(rounds):
        began_s = time.perf_counter()
        subprocess.run([PANELS, "--version"], check=True, capture_output=True)
        starts.append(time.perf_counter() - began_s)
        first, changed = run(changes)
        # the first round fills the cache of compiled handlers
        if number:
            firsts.append(first)
        seconds += changed
    base = statistics.median(starts)
    made = Table(
        "panels up",
        ("", "median s", "worst s", "target s", "met", "median / panels --version"),
        notes=[
            f"{rounds} starts, the first of which is not counted, and {changes} changes in each.",
            f"The load average was {before:.1f} before the run and {os.getloadavg()[0]:.1f} at its end.",
        ],
    )
    for name, found, target in (
        ("panels --version", starts, None),
        ("panels up to the first RESULT", firsts, TARGET_FIRST_S),
        ("saved handler to the new handler's RESULT", seconds, TARGET_CHANGE_S),
    ):
        median = statistics.median(found)
        met = None if target is None else "yes" if median <= target else "no"
        made.add(name, median, max(found), target, met, median / base)
    return made


def run(changes: int) -> tuple[float, list[float]]:
    """One start: seconds to the first answer, and for each change."""
    with tempfile.TemporaryDirectory(prefix="panels-", dir="/tmp") as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PANELS_")}
        environment["PANELS_CLI_CONFIG"] = str(folder / "config.toml")
        subprocess.run(
            [PANELS, "init", "tally"], cwd=folder, env=environment, check=True, capture_output=True
        )
        handler = folder / "tally" / "add.js"
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [PANELS, "up", "--json", "--no-token"], cwd=folder, env=environment, stdout=subprocess.PIPE
        )
        try:
            url = ""
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                url = event.get("url", url)
                if event["event"] == "applied":
                    break
            with httpx.Client(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
                if returned(client) != 1:
                    raise RuntimeError("expected the first call to return 1")
                first = time.perf_counter() - began_s
                return first, [change(client, handler, number) for number in range(changes)]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=DEADLINE_S)


def change(client: httpx.Client, handler: Path, number: int) -> float:
    """Saves another handler; seconds until it answers."""
    handler.write_text(f"return {{ edition: {number} }};\n")
    began_s = time.perf_counter()
    while time.perf_counter() < began_s + DEADLINE_S:
        if returned(client) == {"edition": number}:
            return time.perf_counter() - began_s
        time.sleep(0.002)
    raise RuntimeError(f"edition {number} was not there after {DEADLINE_S:g} s")


def returned(client: httpx.Client) -> Any:
    """What the tool returns now."""
    answer = client.post("/panels/tally/trigger/add", json={"args": {}})
    answer.raise_for_status()
    return answer.json()["result"]["returnValue"]


if __name__ == "__main__":
    main()
