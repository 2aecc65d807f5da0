"""A unit file of systemd's, and the system calls that it lets through."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self

#: Where systemd's own programs are found by tests that need them; None on a system without it.
SYSTEMD_ANALYZE: Final = shutil.which("systemd-analyze")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit file says: the values of each setting of a section, in order, by (section, setting)."""

    settings: Mapping[tuple[str, str], Sequence[str]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The unit of a file. Raises ``ValueError`` for a line that says nothing."""
        found: dict[tuple[str, str], list[str]] = {}
        section = ""
        for line in _lines(path.read_text()):
            if line.startswith("["):
                section = line.strip("[]")
                continue
            name, equals, value = line.partition("=")
            if not equals or not section:
                raise ValueError(f"{path}: expected a setting in a section, got {line!r}")
            found.setdefault((section, name.strip()), []).append(value.strip())
        return cls(found)

    def all(self, name: str, section: str = "Service") -> list[str]:
        """The words of all values of a setting that is a list; an empty value forgets those before it."""
        words: list[str] = []
        for value in self.settings.get((section, name), ()):
            words = [*words, *value.split()] if value else []
        return words

    def one(self, name: str, section: str = "Service") -> str | None:
        """The value of a setting that has one: the last that is given."""
        values = self.settings.get((section, name), ())
        return values[-1] if values else None

    def on(self, name: str) -> bool:
        """Whether a switch of the service is on."""
        return self.one(name) in ("yes", "true", "on", "1")

    def system_calls(self) -> set[str]:
        """The names of the calls that ``SystemCallFilter=`` lets through, whose first list is of those that
        are allowed; needs systemd-analyze.
        """
        allowed: set[str] = set()
        for value in self.settings[("Service", "SystemCallFilter")]:
            removes = value.startswith("~")
            for name in value.removeprefix("~").split():
                calls = _members(name) if name.startswith("@") else {name}
                allowed = allowed - calls if removes else allowed | calls
        return allowed | _members("@default")


def _lines(text: str) -> Iterator[str]:
    """The lines that count, with those put together that end with a backslash."""
    whole = ""
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith(("#", ";")):
            continue
        if bare.endswith("\\"):
            whole += bare[:-1].rstrip() + " "
            continue
        yield whole + bare
        whole = ""


@cache
def _groups() -> Mapping[str, frozenset[str]]:
    """The names that each group of system calls lists, by the name of the group."""
    assert SYSTEMD_ANALYZE is not None
    listed = subprocess.run([SYSTEMD_ANALYZE, "syscall-filter"], capture_output=True, text=True, check=True)
    groups: dict[str, set[str]] = {}
    group = ""
    for line in listed.stdout.splitlines():
        word = line.split("#")[0].strip()
        if not word:
            continue
        if not line.startswith(" "):
            group = word
            groups[group] = set()
        else:
            groups[group].add(word)
    return {name: frozenset(members) for name, members in groups.items()}


def _members(group: str) -> set[str]:
    """The system calls of a group, those of groups in it included. Raises ``KeyError`` for an unknown one."""
    found: set[str] = set()
    for name in _groups()[group]:
        found |= _members(name) if name.startswith("@") else {name}
    return found
