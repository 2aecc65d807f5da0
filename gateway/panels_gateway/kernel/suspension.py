"""One handler that waits: what it is, which of its calls are open, and what came of those that are not. Pure.

    parked ──answer──▶ parked, with an answer ──resume──▶ running ──suspends again──▶ parked
       │                                                    └──ends──▶ over
       └──cancel, deadline, deletion──▶ over

A handler that is resumed may be given several answers at once, and more may come while it runs: these wait
for the next time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from typing import Final

from panels_gateway.journal.records import Exchange, Parked, replace_image
from panels_gateway.panels.trigger import Trigger
from panels_shared.messages import Answered
from panels_shared.outcome import ExtensionCall

#: Bytes of the seal of an image, of an HMAC-SHA-256.
SEAL_BYTES: Final = 16
#: Exchanges with other hosts that a record names; later ones are in the log alone.
MAX_EXCHANGES: Final = 256


class Suspension:
    """See the module's docstring.

    - ``record``: the last step; its image is empty once the journal can give it back.
    - ``origin``: the trigger that will be answered at the end.
    - ``calls``: the open calls by number, those that have an answer already included; ``made_ms``: when each
      was made.
    - ``answers``: what came, and the handler was not given yet.
    - ``image_bytes``: the size of its image, in memory or not.
    - ``running``: the answers that it is being resumed with, () while it waits.
    """

    __slots__ = (
        "_exchanges",
        "_unrecorded",
        "answers",
        "calls",
        "image_bytes",
        "made_ms",
        "origin",
        "over",
        "record",
        "running",
        "wanted",
    )

    def __init__(self, record: Parked, origin: Trigger, *, image_bytes: int | None = None) -> None:
        self.record = record
        self.image_bytes = len(record.image) if image_bytes is None else image_bytes
        self.origin = origin
        self.calls: dict[int, ExtensionCall] = {call.call: call for call in record.calls}
        self.made_ms: dict[int, int] = _made_ms(record)
        self.answers: dict[int, Answered] = {}
        self._exchanges: dict[int, tuple[Exchange, ...]] = {}
        self._unrecorded = record.exchanges
        self.running: tuple[Answered, ...] = ()
        self.wanted = False
        self.over = False

    @property
    def number(self) -> int:
        """Its number, never used again."""
        return self.record.suspension

    @property
    def name(self) -> str:
        """How clients and extensions name it."""
        return f"{self.record.suspension:012x}"

    def is_open(self, call: int) -> bool:
        """Whether an answer to ``call`` is still wanted."""
        return (
            not self.over
            and call in self.calls
            and call not in self.answers
            and all(answered.call != call for answered in self.running)
        )

    def still_open(self) -> list[ExtensionCall]:
        """The open calls, without those whose answers the handler has been given, or is being given now."""
        given = {answered.call for answered in self.running}
        return [call for call in self.calls.values() if call.call not in given]

    def answer(self, answered: Answered, exchanges: tuple[Exchange, ...] = ()) -> None:
        """Takes the answer to an open call, and what the call exchanged with other hosts."""
        self.answers[answered.call] = answered
        if exchanges:
            self._exchanges[answered.call] = exchanges

    def take_exchanges(self, open_calls: Collection[int] = ()) -> tuple[Exchange, ...]:
        """What calls that are not open any more exchanged and no record of the trigger names yet; at most
        ``MAX_EXCHANGES``. Whoever takes them records them.
        """
        taken, self._unrecorded = self._unrecorded, ()
        for call in [call for call in self._exchanges if call not in open_calls]:
            taken += self._exchanges.pop(call)
        return taken[:MAX_EXCHANGES]

    def begin(self) -> tuple[Answered, ...]:
        """The answers that the handler is resumed with now, in the order of its calls."""
        self.running = tuple(self.answers[number] for number in sorted(self.answers))
        self.answers.clear()
        return self.running

    def undo(self) -> None:
        """It was not run after all: what it was to be given waits again."""
        for answered in self.running:
            self.answers[answered.call] = answered
        self.running = ()

    def park(self, record: Parked) -> None:
        """The handler waits again. ``record`` names all calls that are open now."""
        self.record = record
        self.image_bytes = len(record.image)
        self._unrecorded = record.exchanges
        self.running = ()
        self.calls = {call.call: call for call in record.calls}
        self.made_ms = _made_ms(record)

    def stored(self, record: Parked) -> None:
        """The journal can give ``record`` back: its image need not be kept in memory."""
        if self.record is record:
            self.record = replace_image(record, b"")


def _made_ms(record: Parked) -> dict[int, int]:
    return {call.call: ms for call, ms in zip(record.calls, record.made_ms, strict=True)}


def seal(key: bytes, panel: int, suspension: int, digest: bytes, image: bytes) -> bytes:
    """What shows that the gateway took ``image`` for this suspension of this handler, and nobody else made
    it.
    """
    text = b"%d %d " % (panel, suspension)
    return hmac.new(key, text + digest + image, hashlib.sha256).digest()[:SEAL_BYTES]


def is_sealed(key: bytes, record: Parked, image: bytes) -> bool:
    """Whether ``image`` is the one that ``record`` was sealed with."""
    made = seal(key, record.panel, record.suspension, record.digest, image)
    return hmac.compare_digest(made, record.seal)
