"""``panels-gateway verify``: is everything there, and as it was written?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from panels_gateway.commands.exits import EXIT_DATA
from panels_gateway.commands.parsing import Where, parse, parser
from panels_gateway.commands.progress import Progress
from panels_gateway.journal.audit import Audit, audit
from panels_gateway.journal.verify import MAX_FINDINGS

_VERIFY: Final = """\
Reads everything in the data directory, checks it, says line by line what is
wrong, and changes nothing. The gateway may be running."""


def verify(arguments: Sequence[str], where: Where) -> int:
    """The command ``verify``."""
    options = parse(parser("verify", _VERIFY), arguments)
    directory = where.journal_dir(options)
    with Progress("verifying", sys.stderr) as progress:
        found = audit(directory, progress)
    for line in report(found):
        print(line)
    return EXIT_DATA if found.findings else 0


def report(found: Audit) -> list[str]:
    """What is said about it: a line for each finding and notice, and a last one with the sum."""
    lines = [f"{finding.where}: {finding.problem}" for finding in found.findings]
    lines += [f"the next start will repair this: {notice}" for notice in found.notices]
    if found.findings:
        count = len(found.findings)
        more = " or more" if count >= MAX_FINDINGS else ""
        return [*lines, f"{count}{more} {'thing is' if count == 1 else 'things are'} wrong"]
    return [*lines, f"nothing is wrong; position {found.position}, panels: {found.panels}"]
