"""The events of a commit, and who hears them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Event = tuple[str, bytes, str | None]
"""An event of a commit: its name, its JSON object, and the one subject that hears it, None for everyone."""


class EmittedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as a worker reports it, of which only the name is decoded, and whom it is for."""

    name: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: float = 0.0
    to: str | None = None


_decoder: msgspec.json.Decoder[EmittedEvent] = msgspec.json.Decoder(EmittedEvent)


def decode_event(fragment: bytes) -> EmittedEvent:
    """The event in a worker's JSON object.

    Raises ``msgspec.DecodeError``, ``UnicodeError``, ``RecursionError``.
    """
    return _decoder.decode(fragment)


def heard_by(subject: str | None, events: Iterable[Event]) -> list[Event]:
    """Those of ``events`` that are for everyone, or for ``subject``."""
    return [event for event in events if event[2] is None or event[2] == subject]
