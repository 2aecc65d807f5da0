"""The Autobahn test suite's fuzzing client against the echo application.

The suite is a program for Python 2 (``pip install autobahntestsuite``, or its container): ``--wstest`` says
how it is called.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.suites import echo
from tests.suites.verdicts import Verdicts, parser, refuse

AGENT = "panels"
TIMEOUT_S = 3_600
REASONS = {
    "6.4.*": "text that is not UTF-8 is refused when its frame is whole, and not within it (NON-STRICT)",
    "7.1.5": "a Close in the middle of a fragmented message is answered with 1002, and not with its own code",
    "9.3.[1-4]": "a message of more than 256 fragments ends the connection",
    "9.4.[1-4]": "a message of more than 256 fragments ends the connection",
    "12.*": "compression is not offered",
    "13.*": "compression is not offered",
}
_GOOD = ("OK", "INFORMATIONAL")


def judge(index: Mapping[str, Mapping[str, Any]]) -> Verdicts:
    """What the suite's ``index.json`` says of every case of one agent."""
    verdicts = Verdicts("autobahn", REASONS)
    for case, found in index.items():
        behaviour, close = found["behavior"], found["behaviorClose"]
        verdicts.add(
            case,
            met=behaviour in _GOOD and close in _GOOD,
            group="informational" if behaviour == "INFORMATIONAL" else "passed",
            got=f"{behaviour}, close {close}",
        )
    return verdicts


def run(command: Sequence[str], cases: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Runs the suite's client and returns its verdicts by case. Raises ``OSError`` and
    ``subprocess.CalledProcessError``.
    """
    with tempfile.TemporaryDirectory(prefix="panels-autobahn-") as folder, echo.serving() as port:
        spec = Path(folder) / "spec.json"
        server = {"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}
        spec.write_text(
            json.dumps(
                {
                    "outdir": f"{folder}/reports",
                    "servers": [server],
                    "cases": list(cases),
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        subprocess.run(
            [*command, "-m", "fuzzingclient", "-s", str(spec)],
            stdout=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=True,
        )
        found: dict[str, Any] = json.loads((Path(folder) / "reports" / "index.json").read_text())
    return dict(found[AGENT])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite."""
    made = parser("autobahn", __doc__)
    made.add_argument("--wstest", default="wstest", help="how the suite is called (wstest)")
    made.add_argument("--cases", default="*", help="patterns of cases, separated by commas (*)")
    options = made.parse_args(arguments)
    try:
        index = run(shlex.split(options.wstest), options.cases.split(","))
    except (OSError, subprocess.SubprocessError) as exc:
        return refuse(f"expected --wstest to name the suite's program, got: {exc}")
    return judge(index).conclude(document=options.document, whole=options.cases == "*")


if __name__ == "__main__":
    sys.exit(main())
