"""Commits and states as messages of the State Protocol, and as server-sent events. Pure.

A commit becomes one message for each key that it changed, and one for each event:

    {"type":"state","key":KEY,"value":VALUE,"headers":{"operation":"update","txid":SEQ,"timestamp":TIME}}
    {"type":"state","key":KEY,"headers":{"operation":"delete",…}}
    {"type":"event","key":"SEQ.NUMBER","value":{"name","payload","timestamp"},"headers":{"operation":"insert",…}}

A state becomes one insert for each key, between ``snapshot-start`` and ``snapshot-end``. A commit does not
record whether a key that it sets was there before, so that its operation is ``update`` either way: who
applies the messages does the same for both. All messages of a commit have its version as their ``txid``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.events import Event
from panels_gateway.broadcast.topics import Topics

_encode = msgspec.json.Encoder().encode


def commit_messages(
    topics: Topics,
    seq: int,
    at_ms: int,
    mutations_json: bytes,
    events: Sequence[Event],
    subject: str | None = None,
) -> Iterator[bytes]:
    """What readers of ``subject`` with these topics are sent of one commit, which was made at ``at_ms`` (Unix
    time in milliseconds): its mutations, then those of its ``events`` that are for them.
    """
    common = b',"txid":"%d","timestamp":"%b"}}' % (seq, _time(at_ms))
    if mutations_json != b"[]":
        for mutation in messages.decode_mutations(mutations_json):
            if not topics.want_key(mutation.key):
                continue
            if isinstance(mutation.value, msgspec.Raw):
                yield b'{"type":"state","key":%b,"value":%b,"headers":{"operation":"update"%b' % (
                    _encode(mutation.key),
                    bytes(mutation.value),
                    common,
                )
            else:
                yield b'{"type":"state","key":%b,"headers":{"operation":"delete"%b' % (
                    _encode(mutation.key),
                    common,
                )
    for number, (name, fragment, to) in enumerate(events):
        if (to is None or to == subject) and topics.want_event(name):
            yield b'{"type":"event","key":"%d.%d","value":%b,"headers":{"operation":"insert"%b' % (
                seq,
                number,
                fragment,
                common,
            )


def snapshot_messages(topics: Topics, seq: int, state: dict[str, bytes], offset: str) -> Iterator[bytes]:
    """What readers with these topics are sent of a whole state, that of version ``seq`` at ``offset``."""
    yield _control("snapshot-start", offset)
    for key, value in state.items():
        if topics.want_key(key):
            yield b'{"type":"state","key":%b,"value":%b,"headers":{"operation":"insert","txid":"%d"}}' % (
                _encode(key),
                value,
                seq,
            )
    yield _control("snapshot-end", offset)


def _control(control: str, offset: str) -> bytes:
    return _encode({"headers": {"control": control, "offset": offset}})


def _time(at_ms: int) -> bytes:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3].encode() + b"Z"


# -- server-sent events --------------------------------------------------------------------------------


DATA_HEAD = b"event: data\ndata: "
DATA_TAIL = b"\n\n"


def one_line(part: bytes | memoryview) -> bytes | memoryview:
    """A part of JSON without line breaks, which can only stand between its tokens."""
    text = bytes(part)
    if b"\n" in text or b"\r" in text:
        return text.replace(b"\n", b" ").replace(b"\r", b" ")
    return part


def control_event(offset: str, cursor: str, *, up_to_date: bool) -> bytes:
    """The event that says how far its reader is."""
    said: dict[str, object] = {"streamNextOffset": offset, "streamCursor": cursor}
    if up_to_date:
        said["upToDate"] = True
    return b"event: control\ndata: %b\n\n" % _encode(said)
