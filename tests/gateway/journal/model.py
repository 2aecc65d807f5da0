"""Panels, their history and their answers in plain Python, and batches that make them so: what
the store is compared with.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from panels_gateway.journal.records import Batch, Changed, Created, Defined, Deleted, Key, Ran, Record, Source
from panels_shared.handlers import handler_digest
from panels_shared.outcome import Completed, Failed, Reason, Usage

NOW_MS = 1_700_000_000_000
#: Key → JSON text, None to delete.
Changes = dict[str, str | None]


def source(number: int) -> Source:
    """One of any number of handlers."""
    text = f"export default () => {number}".encode()
    return Source(handler_digest("javascript", "", text), "javascript", "", text)


def definition(*numbers: int) -> bytes:
    """A definition that names those handlers."""
    return json.dumps({"kind": "test", "tools": [source(number).digest.hex() for number in numbers]}).encode()


def created(
    panel: int,
    panel_id: str,
    *handlers: int,
    state: dict[str, bytes] | None = None,
    seq: int = 0,
    at_ms: int = NOW_MS,
) -> Created:
    """The record of a new panel."""
    digests = tuple(source(number).digest for number in handlers)
    return Created(panel, panel_id, f"epoch-{panel}", at_ms, definition(*handlers), state or {}, seq, digests)


def defined(panel: int, *handlers: int) -> Defined:
    """The record of another definition."""
    digests = tuple(source(number).digest for number in handlers)
    return Defined(panel, NOW_MS, definition(*handlers), digests)


def mutations(changes: Changes) -> bytes:
    """As in ``Completed``."""
    parts = [
        f'{{"op":"delete","key":{json.dumps(key)}}}'
        if value is None
        else f'{{"op":"set","key":{json.dumps(key)},"value":{value}}}'
        for key, value in changes.items()
    ]
    return f"[{','.join(parts)}]".encode()


def ran(
    panel: int, seq: int, changes: Changes, *, handler: int = 0, key: Key | None = None, at_ms: int = NOW_MS
) -> Ran:
    """The record of a trigger."""
    outcome: Completed | Failed = Completed(Usage(10), b"1", mutations(changes))
    if not seq:
        outcome = Failed(Usage(1), Reason.HANDLER_ERROR, "no")
    return Ran(panel, seq, at_ms, "tool", source(handler).digest, b"{}", b"{}", 1.5, seq, outcome, 1, 2, key)


def changed(panel: int, seq: int, changes: Changes, *, at_ms: int = NOW_MS) -> Changed:
    """The record of a change that no trigger made."""
    return Changed(panel, seq, at_ms, "replace", "somebody", mutations(changes))


def batch(position: int, *records: Record, fence: int = 1) -> Batch:
    """One turn."""
    return Batch(position, fence, list(records))


@dataclass(slots=True)
class ModelPanel:
    """``states[n]`` is the state at version ``first + n``; ``commits[n]`` led from it to the next."""

    created: Created
    definition: bytes
    digests: tuple[bytes, ...]
    first: int
    states: list[dict[str, bytes]]
    commits: list[Ran | Changed] = field(default_factory=list[Ran | Changed])
    answers: dict[tuple[str, str], Ran] = field(default_factory=dict[tuple[str, str], Ran])

    @property
    def seq(self) -> int:
        return self.first + len(self.commits)

    @property
    def state(self) -> dict[str, bytes]:
        return self.states[-1]


class Model:
    """What panels there are after each record."""

    def __init__(self) -> None:
        self.panels: dict[int, ModelPanel] = {}
        self.sources: dict[bytes, Source] = {}

    def apply(self, record: Record) -> None:
        """Makes it so."""
        match record:
            case Source():
                self.sources[record.digest] = record
            case Created():
                self.panels[record.panel] = ModelPanel(
                    record, record.definition, record.digests, record.seq, [dict(record.state)]
                )
            case Defined():
                panel = self.panels[record.panel]
                panel.definition, panel.digests = record.definition, record.digests
            case Deleted():
                del self.panels[record.panel]
            case Ran() | Changed():
                panel = self.panels[record.panel]
                if record.seq:
                    panel.commits.append(record)
                    panel.states.append(_after(panel.state, record))
                if isinstance(record, Ran) and record.key is not None:
                    name = record.key.subject, record.key.key
                    panel.answers.pop(name, None)
                    panel.answers[name] = record


def _after(state: dict[str, bytes], record: Ran | Changed) -> dict[str, bytes]:
    after = dict(state)
    if isinstance(record, Ran):
        assert isinstance(record.outcome, Completed)
        text = record.outcome.mutations
    else:
        text = record.mutations
    for mutation in json.loads(text):
        if mutation["op"] == "delete":
            after.pop(mutation["key"], None)
        else:
            after[mutation["key"]] = json.dumps(mutation["value"]).encode()
    return after
