"""Data directories as gateways leave them, and commands run on them in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from panels_gateway.commands.dispatch import run
from panels_gateway.journal.fold import Retention
from panels_gateway.journal.journal import StoredPanel
from panels_gateway.journal.local import LocalJournal, LocalOptions, open_local
from panels_gateway.journal.records import Created, Record, Source
from panels_shared.handlers import handler_digest
from panels_shared.limits import DEFAULT_LIMITS
from tests.gateway.journal.batches import put, ran
from tests.gateway.journal.contract import Driver
from tests.gateway.journal.test_local import IDLE

#: The times in the tests' records are of 1970.
KEEP: Final = Retention(commits=1 << 40, age_ms=1 << 60, answer_ttl_ms=1 << 60)
#: Nothing is folded: all stays in the log.
UNFOLDED: Final = LocalOptions(rotate_s=3_600.0, command=IDLE, retention=KEEP)
FOLDED: Final = LocalOptions(rotate_s=0.0, retention=KEEP)

TEXT: Final = b"return 1"
SOURCE: Final = Source(handler_digest("javascript", "run", TEXT), "javascript", "run", TEXT)


def definition() -> bytes:
    """A definition with one tool, as the journal has it."""
    tool = {
        "name": "t",
        "digest": SOURCE.digest.hex(),
        "trigger": {"type": "manual"},
        "capabilities": [],
        "limits": asdict(DEFAULT_LIMITS),
    }
    return json.dumps({"kind": "k", "tools": [tool]}).encode()


def panel(number: int, panel_id: str, **state: bytes) -> Created:
    """A panel that can be served."""
    return Created(number, panel_id, f"e{number}", 1_000, definition(), state, digests=(SOURCE.digest,))


def commits(number: int, count: int) -> list[Record]:
    """As many commits of the panel ``number``, each of which puts its version under n."""
    return [
        msgspec.structs.replace(ran(number, seq, put("n", str(seq))), digest=SOURCE.digest)
        for seq in range(1, count + 1)
    ]


def fill(directory: Path, *records: Record, options: LocalOptions = FOLDED, crash: bool = False) -> None:
    """Appends each record as a batch of its own; with ``crash`` the directory is left as by a gateway that
    was killed.
    """

    async def run_() -> None:
        journal = await open_local(directory, durability="process", options=options)
        driver = Driver(journal)
        for record in records:
            driver.append(record)
        await driver.durable()
        if options is FOLDED:
            await journal._fold()
        if crash:
            await abandon(journal)
        else:
            await journal.close()

    asyncio.run(run_())


async def abandon(journal: LocalJournal) -> None:
    """Leaves the directory as a gateway does that is killed."""
    await journal._folding.stop()
    journal._store.close()
    journal._directory.release()


def load(directory: Path, panel_id: str) -> StoredPanel | None:
    """The panel as the next gateway would serve it, which must not forget anything."""

    async def run_() -> StoredPanel | None:
        journal = await open_local(directory, durability="process", options=FOLDED)
        try:
            return await journal.load(panel_id)
        finally:
            await journal.close()

    return asyncio.run(run_())


def command(directory: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> int:
    """The exit code of ``panels-gateway`` with these arguments, on the data directory ``directory``."""
    name, *rest = map(str, arguments)
    return run([name, f"--data-dir={directory}", *rest], environment or {}, directory=Path("/nowhere"))


def read_json(path: Path) -> Any:
    """What a file holds."""
    return json.loads(path.read_text())
