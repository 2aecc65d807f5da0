"""What a suite demands, what came out, and why some of it differs on purpose."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
#: Differences without an explanation that are shown.
SHOWN: Final = 40


@dataclass(slots=True)
class Verdicts:
    """Counts verdicts of one suite.

    ``reasons`` maps patterns of names (as in ``fnmatch``) to why those tests differ: a difference that no
    pattern explains is a failure, and so is a pattern that explains nothing any more.
    """

    suite: str
    reasons: Mapping[str, str]
    met: dict[str, int] = field(default_factory=dict)
    explained: dict[str, int] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)

    def add(self, name: str, *, met: bool, group: str = "all", got: str = "") -> None:
        """One test: whether what came out is what the suite demands."""
        if met:
            self.met[group] = self.met.get(group, 0) + 1
            return
        for pattern in self.reasons:
            if fnmatchcase(name, pattern):
                self.explained[pattern] = self.explained.get(pattern, 0) + 1
                return
        self.unexplained.append(f"{name}: {got}" if got else name)

    @property
    def total(self) -> int:
        """All tests."""
        return sum(self.met.values()) + sum(self.explained.values()) + len(self.unexplained)

    def markdown(self) -> str:
        """The part of the document: one line for each group, and one for each reason."""
        lines = ["| | tests |", "|---|---|"]
        lines += [f"| as demanded: {group} | {count:,} |" for group, count in self.met.items()]
        lines += [
            f"| differs: {self.reasons[pattern]} (`{pattern}`) | {count:,} |"
            for pattern, count in self.explained.items()
        ]
        lines.append(f"| differs without a reason | {len(self.unexplained):,} |")
        lines.append(f"| all | {self.total:,} |")
        return "\n".join(lines)

    def conclude(self, *, document: bool, whole: bool = True) -> int:
        """Prints the result, writes it into the document if it is to, and returns an exit code.

        ``whole``: all of the suite was run, so that a reason that explains nothing is out of date.
        """
        unused = [pattern for pattern in self.reasons if pattern not in self.explained] if whole else []
        print(f"{self.suite}: {self.total:,} tests, {sum(self.met.values()):,} as demanded")
        for pattern, count in self.explained.items():
            print(f"  {count:,} differ ({pattern}): {self.reasons[pattern]}")
        for name in self.unexplained[:SHOWN]:
            print(f"  differs: {name}")
        if len(self.unexplained) > SHOWN:
            print(f"  … and {len(self.unexplained) - SHOWN:,} more")
        for pattern in unused:
            print(f"  explains nothing any more: {pattern}")
        if document:
            write(self.suite, self.markdown())
        return 1 if self.unexplained or unused or not self.total else 0


def write(suite: str, text: str, path: Path = DOCUMENT) -> None:
    """Puts ``text`` between the suite's marks in the document. Raises ``ValueError`` without the marks."""
    begin, end = f"<!-- {suite} -->", f"<!-- end of {suite} -->"
    old = path.read_text()
    new, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}",
        lambda _: f"{begin}\n\n{text}\n\n{end}",
        old,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"expected {begin} and {end} once in {path.name}")
    path.write_text(new)


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The command line that every runner has: ``--document``."""
    made = argparse.ArgumentParser(
        prog=f"python -m tests.suites.{module}", description=(description or "").split("\n", 1)[0]
    )
    made.add_argument("--document", action="store_true", help="write the result into docs/conformance.md")
    return made


def refuse(problem: str) -> int:
    """Says what is missing; the exit code."""
    print(problem, file=sys.stderr)
    return 2
