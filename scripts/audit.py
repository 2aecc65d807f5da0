"""Asks the public database of advisories about every package that panels locks, by ``pip-audit``.

The exit code is 1 if an advisory names a locked version, and 2 if the locks cannot be audited at all. Where
the database cannot be reached, or knows none of the packages, that is said in one line ("not run: …") and the
exit code is 0: a check that needs the network must not stop somebody who has none.

Arguments go to ``pip-audit``, such as ``-s osv`` for another database.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

ROOT: Final = Path(__file__).resolve().parents[1]
LOCKS: Final = (ROOT / "constraints.txt", ROOT / "deploy" / "requirements.txt")
#: Advisories that do not concern panels, by id, with the reason in a sentence. Whoever locks the package anew
#: reviews them.
ACCEPTED: Final[Mapping[str, str]] = {}
#: How long the whole audit may take, in seconds: one small request for each package.
TIMEOUT_S: Final = 180
#: How pip-audit's last line begins or what it holds when the database did not answer, or not sensibly.
_UNREACHABLE: Final = (
    "requests.exceptions.",
    "pip_audit._service.interface.",
    "urllib3.exceptions.",
    "your network may be blocking",
)


class Advisory(msgspec.Struct, frozen=True):
    """One advisory on a version, as pip-audit reports it."""

    id: str
    fix_versions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Dependency(msgspec.Struct, frozen=True):
    """A locked package. ``skip_reason`` says why the database had nothing to say about it."""

    name: str
    version: str = ""
    vulns: tuple[Advisory, ...] = ()
    skip_reason: str = ""


class Report(msgspec.Struct, frozen=True):
    """What ``pip-audit --format json`` writes."""

    dependencies: tuple[Dependency, ...]


class Verdict(NamedTuple):
    """An exit code, and the lines to print."""

    code: int
    lines: Sequence[str]


def main(arguments: Sequence[str]) -> int:
    """Audits the locks; the exit code."""
    verdict = audit(LOCKS, arguments)
    for line in verdict.lines:
        print(line, file=sys.stderr if verdict.code else sys.stdout)
    return verdict.code


def audit(locks: Iterable[Path], arguments: Sequence[str] = ()) -> Verdict:
    """What the database says of the packages in ``locks``."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format=json"]
    command += ["--progress-spinner=off", *(f"--requirement={lock}" for lock in locks), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return not_run(f"the database of advisories took more than {TIMEOUT_S} s")
    return judge(done.stdout, done.stderr)


def judge(output: str, errors: str) -> Verdict:
    """What follows from pip-audit's ``output``, a report unless it failed, and from its ``errors``."""
    try:
        report = msgspec.json.decode(output, type=Report)
    except msgspec.DecodeError:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        if any(mark in last for mark in _UNREACHABLE):
            return not_run(f"the database of advisories cannot be reached: {shortened(last)}")
        return Verdict(2, [f"audit: expected a report of pip-audit, got: {shortened(last)}"])
    unknown = [found.name for found in report.dependencies if found.skip_reason]
    audited = len(report.dependencies) - len(unknown)
    advisories = [
        f"audit: {found.name} {found.version}: {', '.join((one.id, *one.aliases))}; {remedy(one)}"
        for found in report.dependencies
        for one in found.vulns
        if not ACCEPTED.keys() & {one.id, *one.aliases}
    ]
    if advisories:
        return Verdict(1, [*advisories, "audit: lock the fixed versions with: scripts/lock"])
    if not audited:
        return not_run(f"the database of advisories knows none of {len(unknown)} packages")
    left = f"; it does not know {', '.join(unknown)}" if unknown else ""
    return Verdict(0, [f"audit: the database has no advisory for {audited} packages{left}"])


def remedy(advisory: Advisory) -> str:
    """What to do about ``advisory``."""
    versions = advisory.fix_versions
    return f"fixed in {', '.join(versions)}" if versions else "there is no fixed version yet"


def not_run(why: str) -> Verdict:
    """The audit could not be made, which is no fault of the code."""
    return Verdict(0, [f"audit: not run: {why}"])


def shortened(text: str) -> str:
    """``text`` in at most 200 characters."""
    return text if len(text) <= 200 else text[:199] + "…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
