"""A report: tables for a terminal, with machine, versions and command, and the same as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

#: The distributions whose versions move figures.
DISTRIBUTIONS: Final = (
    "panels-kernel", "wasmtime", "uvicorn", "uvloop", "pyzmq", "msgspec", "msgpack", "quickjs-rs",
)  # fmt: skip


@dataclass(slots=True)
class Table:
    """Rows of cells under ``columns``. A cell is text or a number; None is shown as a dash."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    #: What a reader has to know to read it rightly.
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        """Adds a row, one cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} cells, got {len(cells)}")
        self.rows.append(cells)

    def shown(self) -> list[list[str]]:
        """The columns' names and all rows, as text."""
        return [list(self.columns), *([_shown(cell) for cell in row] for row in self.rows)]

    def text(self) -> str:
        """The table for a terminal: the first column to the left, the others to the right."""
        shown = self.shown()
        widths = [max(len(row[at]) for row in shown) for at in range(len(self.columns))]
        lines = [self.title, ""]
        for number, row in enumerate(shown):
            cells = [
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
            if number == 0:
                lines.append("  " + "  ".join("-" * width for width in widths))
        return "\n".join([*lines, "", *(f"  {note}" for note in self.notes), *([""] if self.notes else [])])

    def markdown(self) -> str:
        """The table for a document."""
        head, *rows = self.shown()
        lines = [_piped(head), "|" + "---|" * len(head), *map(_piped, rows)]
        return "\n".join(lines)


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"
    return str(cell)


def machine() -> dict[str, str]:
    """What a figure was measured on: the CPU's model, how many may be used, the kernel."""
    return {
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def versions(more: dict[str, str] | None = None) -> dict[str, str]:
    """Name → version, of Python and ``DISTRIBUTIONS``; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | (more or {})


@dataclass(slots=True)
class Report:
    """Tables and what they were made with."""

    command: str
    tables: list[Table] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    machine: dict[str, str] = field(default_factory=machine)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d", time.gmtime()))

    def head(self) -> str:
        """The line of the machine and the line of the versions."""
        place = f"{self.machine['cpu']}, {self.machine['cores']} cores, {self.machine['kernel']}"
        return f"{place}\n{', '.join(f'{name} {version}' for name, version in self.versions.items())}"

    def publish(self, path: Path | None) -> None:
        """Prints everything, and writes it to ``path`` as JSON, if there is one."""
        print(f"\n{self.head()}\n{self.command}, {self.date}\n")
        for table in self.tables:
            print(table.text())
        if path is not None:
            path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The command line that every benchmark has: ``--quick`` and ``--json FILE``."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    made.add_argument("--quick", action="store_true", help="shorter rounds: figures are less certain")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return made


def command(module: str) -> str:
    """How this run was called, as a reader would call it."""
    return " ".join(["python", "-m", module, *sys.argv[1:]])
