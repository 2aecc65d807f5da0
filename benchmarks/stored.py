"""Data directories with many panels at rest, written into the store directly: quicker than a gateway could
make them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks import handlers
from panels_gateway.journal import schema
from panels_gateway.journal.directory import DataDirectory
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.records import Batch, Created, Record
from panels_gateway.panels import stored
from panels_gateway.panels.definition_body import DefinitionLimits, parse

#: Panels that are folded in one transaction.
_GROUP = 5_000


def store(folder: Path, count: int, state_bytes: int) -> None:
    """Makes ``folder`` the data directory of ``count`` counters ``panel-1`` …, each with about
    ``state_bytes`` of state.
    """
    definition = parse(json.dumps(handlers.WASM("panel")).encode(), DefinitionLimits(), default_id="panel")
    sources = stored.sources(definition)
    digests = tuple(source.digest for source in sources)
    encoded = stored.encode(definition)
    state = {"count": b"0", "text": b'"' + b"x" * (state_bytes - 20) + b'"'}
    database = folder / schema.DATABASE
    schema.prepare(database)
    folding = Folding(database)
    now_ms = time.time_ns() // 1_000_000
    for first in range(1, count + 1, _GROUP):
        records: list[Record] = [*sources] if first == 1 else []
        records += [
            Created(number, f"panel-{number}", "e", now_ms, encoded, state, 0, digests)
            for number in range(first, min(first + _GROUP, count + 1))
        ]
        folding.fold([Batch(folding.position + 1, 1, records)], now_ms=now_ms)
        folding.checkpoint()
    position = folding.position
    folding.close()
    reader = schema.open_reader(database)
    store_id = bytes.fromhex(reader.execute("SELECT store_id FROM meta").get)
    reader.close()
    directory = DataDirectory(folder)
    directory.adopt("process", store=store_id, position=position)
    directory.release()
