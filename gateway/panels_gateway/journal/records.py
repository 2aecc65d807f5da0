"""What the journal keeps: the records of a batch, and the batch itself.

A batch is everything that one turn of the gateway's loop brought. It is appended whole or not at all, and its
position is one more than that of the batch before it. Records of a batch are in the order in which they
happened, and a record holds what is needed to make the panel what it was, and to run the trigger again bit
for bit.

JSON inside records is UTF-8 and was validated before it came here; it is never decoded to be stored. Times
``at_ms`` are milliseconds since 1970 by the gateway's wall clock, which may jump: nothing depends on their
order.

Records are trees of values, so the collector need not look at them (``gc=False``), however many wait to be
folded.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from panels_shared.outcome import Completed, ExtensionCall, Failed, Suspended

#: The version of this layout; a reader refuses what is newer.
FORMAT_VERSION = 1


class Source(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A handler's source, once for all panels that use it. It stands before the first record that names its
    digest.

    A store drops a source when no panel's definition and no commit in its history names it any more. So a
    writer says it again with a definition that names it, unless it knows of a panel in being whose definition
    does; twice is harmless.
    """

    digest: bytes
    language: str
    entry: str
    source: bytes


class Created(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A panel was made. ``panel`` is its number, from 1, never used again; ``id`` may be, once the panel is
    deleted.

    ``epoch`` names this panel's history: another panel of the same id has another. ``definition`` is JSON in
    which handlers are named by digest; ``digests`` has each of them, so that a store need not know what a
    definition looks like. The state is that of ``seq``, which is 0 except for a panel that was forked or
    imported.
    """

    panel: int
    id: str
    epoch: str
    at_ms: int
    definition: bytes
    state: dict[str, bytes]
    seq: int = 0
    digests: tuple[bytes, ...] = ()


class Defined(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """A panel was given another definition. A new state, if there was one, is a ``Changed`` behind this.

    ``digests`` has every handler that ``definition`` names.
    """

    panel: int
    at_ms: int
    definition: bytes
    digests: tuple[bytes, ...] = ()


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """A panel is gone, with its state, its history and its answers."""

    panel: int
    at_ms: int


class Key(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The idempotency key that a trigger came under: ``subject`` is whose ("" for anonymous), ``fingerprint``
    the first 16 bytes of a SHA-256 over tool and args, so that the same key for something else is noticed."""

    subject: str
    key: str
    fingerprint: bytes


class Exchange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What call ``call`` of a handler exchanged with another host, or that this was refused.

    The fields are those of ``extensions.messages.LedgerEntry``: ``host`` with its port as the handler spelt
    it, ``address`` that was connected to ("" for none), bytes of HTTP, ``secrets`` by name.
    """

    call: int
    host: str
    address: str
    bytes_sent: int
    bytes_received: int
    ms: int
    secrets: tuple[str, ...]
    verdict: str


class Ran(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """A trigger ran to its end, and this is how.

    ``seq`` is the version that its effects made, 0 for a trigger without effects; those without effects are
    recorded only for the sake of their ``key``. One that suspended is recorded for its effects, with an empty
    image. ``args`` and ``scope`` are JSON, ``now_ms`` and ``seed`` were the job's clock and randomness,
    ``digest`` names the handler. ``queue_us`` and ``total_us`` belong to the answer that was given.
    ``exchanges`` are those with other hosts since the trigger's last record. ``step`` is how often the
    handler had waited before: with 0 the record has all that is needed to run the trigger again.
    """

    panel: int
    seq: int
    at_ms: int
    tool: str
    digest: bytes
    args: bytes
    scope: bytes
    now_ms: float
    seed: int
    outcome: Completed | Failed | Suspended
    queue_us: int
    total_us: int
    key: Key | None = None
    exchanges: tuple[Exchange, ...] = ()
    step: int = 0


class Changed(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """A panel's state was changed by something other than a trigger, as version ``seq``.

    ``cause`` is a word (``replace``, ``revert``), ``subject`` who asked ("" for nobody known), ``mutations``
    a JSON array as in ``Completed``.
    """

    panel: int
    seq: int
    at_ms: int
    cause: str
    subject: str
    mutations: bytes


class Parked(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """A handler waits: for the answers to ``calls``, from the step that it has reached, as suspension
    ``suspension``.

    The latest record of a suspension is the one that holds. ``image`` is what a worker resumes the handler
    from, and ``seal`` authenticates it. ``args``, ``scope`` and ``request_id`` are those of the trigger,
    ``key`` the idempotency key that it came under, ``steps`` how many segments have committed. It ends at
    ``deadline_ms`` by the wall clock; ``made_ms`` says when each of the calls was made.
    """

    panel: int
    suspension: int
    at_ms: int
    deadline_ms: int
    tool: str
    digest: bytes
    args: bytes
    scope: bytes
    calls: tuple[ExtensionCall, ...]
    image: bytes
    seal: bytes
    steps: int
    depth: int = 0
    request_id: str | None = None
    key: Key | None = None
    made_ms: tuple[int, ...] = ()
    exchanges: tuple[Exchange, ...] = ()


class Unparked(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """A suspension is over: its handler ended, failed, or was cancelled."""

    panel: int
    suspension: int


class Returned(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """A call of a suspended handler was answered, and is not made again. ``value`` as in
    ``messages.Answered``.
    """

    panel: int
    suspension: int
    call: int
    ok: bool
    value: bytes
    exchanges: tuple[Exchange, ...] = ()


#: ``due_ms`` of a tool that was removed, or is triggered otherwise now.
NEVER = -1


class Fired(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """A tool that runs by itself was run for the due time ``due_ms``, or begins to be due after it; with
    ``NEVER`` it does not run at times any more.
    """

    panel: int
    tool: str
    due_ms: int


class Revoked(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Tokens are refused from now on, until ``expires_ms``: that of ``token_id``, or those of ``subject``,
    and of these only the ones issued before ``before_ms`` unless that is None.

    It belongs to no panel. ``name`` is made of ``token_id`` or ``subject``; the latest record of a name
    holds.
    """

    name: str
    at_ms: int
    expires_ms: int
    token_id: str | None = None
    subject: str | None = None
    before_ms: int | None = None


class Unrevoked(msgspec.Struct, frozen=True, array_like=True, tag=12, gc=False):
    """The tokens of the revocation ``name`` are good again."""

    name: str


Record = (
    Source
    | Created
    | Defined
    | Deleted
    | Ran
    | Changed
    | Parked
    | Unparked
    | Returned
    | Fired
    | Revoked
    | Unrevoked
)


def replace_image(parked: Parked, image: bytes) -> Parked:
    """The same suspension with another image; b"" where the image is kept apart."""
    return msgspec.structs.replace(parked, image=image)


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One turn: its ``position`` (1 for the first of all), the writer's ``fence``, and the records.

    Each process that opens a journal for writing takes a fence higher than any before it. A store refuses a
    batch whose position is not the next one, or whose fence is not the highest that it has seen: two writers
    can never both append.
    """

    position: int
    fence: int
    records: list[Record]


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Batch] = msgspec.msgpack.Decoder(Batch)
_T = TypeVar("_T")


def encode(batch: Batch) -> bytes:
    """The batch as MessagePack."""
    return _encoder.encode(batch)


def decode(data: bytes) -> Batch:
    """The batch in ``data``. Raises ``msgspec.DecodeError`` for anything else."""
    return decode_as(_decoder, data)


def decode_as(decoder: msgspec.msgpack.Decoder[_T], data: bytes | msgspec.Raw) -> _T:
    """What ``decoder`` reads in ``data``. Raises ``msgspec.DecodeError``, and no other error of msgspec's."""
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as exc:
        raise msgspec.DecodeError(
            f"expected text in UTF-8 and little nesting: {type(exc).__name__}"
        ) from None
