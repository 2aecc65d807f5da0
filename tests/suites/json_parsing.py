"""JSONTestSuite: which texts are JSON, asked of the parser that everything from outside passes.

A name begins with y (must be accepted), n (must be refused) or i (either; such a text must be judged without
an accident).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from tests.suites.verdicts import Verdicts, parser, refuse

REASONS: dict[str, str] = {}


def accepts(text: bytes) -> bool:
    """Whether panels takes ``text`` for JSON."""
    try:
        jsonvalue.validate(text)
    except InvalidJsonError:
        return False
    return True


def judge(folder: Path) -> Verdicts:
    """All files of ``test_parsing``."""
    verdicts = Verdicts("json", REASONS)
    for path in sorted(folder.glob("*.json")):
        accepted = accepts(path.read_bytes())
        wanted = path.name[0]
        group = {"y": "must be accepted", "n": "must be refused", "i": "may be either"}[wanted]
        if wanted == "i":
            group += ", accepted" if accepted else ", refused"
        verdicts.add(
            path.name,
            met=wanted == "i" or accepted == (wanted == "y"),
            group=group,
            got="accepted" if accepted else "refused",
        )
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the suite."""
    made = parser("json_parsing", __doc__)
    made.add_argument("checkout", type=Path, help="a checkout of nst/JSONTestSuite")
    options = made.parse_args(arguments)
    folder = options.checkout / "test_parsing"
    if not folder.is_dir():
        return refuse(f"expected the folder test_parsing in {options.checkout}")
    return judge(folder).conclude(document=options.document)


if __name__ == "__main__":
    sys.exit(main())
