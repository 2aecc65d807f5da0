"""How runs of commits, answers and checksums are stored in rows.

A chunk is a run of consecutive commits of one panel: ``records`` is a MessagePack array of them, ``undo`` a
MessagePack map from each key that they changed to its value before the first of them, nil for none. Applying
``undo`` to the state after a chunk gives the state before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import msgspec

from panels_gateway.journal.journal import CorruptError
from panels_gateway.journal.records import Changed, Parked, Ran, Returned, Revoked, Source, decode_as
from panels_shared.outcome import Completed, Failed

Commit = Ran | Changed


class Mutation(msgspec.Struct, frozen=True, gc=False):
    """One change of one key, as ``Completed.mutations`` has it."""

    op: Literal["set", "delete"]
    key: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``history``, checked."""

    first_seq: int
    last_seq: int
    records: bytes
    undo: Mapping[str, bytes | None]


_encoder = msgspec.msgpack.Encoder()
_record_decoder: msgspec.msgpack.Decoder[Commit] = msgspec.msgpack.Decoder(Commit)
_run_decoder: msgspec.msgpack.Decoder[list[Commit]] = msgspec.msgpack.Decoder(list[Commit])
_parts_decoder: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
_undo_decoder: msgspec.msgpack.Decoder[dict[str, bytes | None]] = msgspec.msgpack.Decoder(
    dict[str, bytes | None]
)
_mutations_decoder: msgspec.json.Decoder[list[list[Mutation]]] = msgspec.json.Decoder(list[list[Mutation]])


def encode_commits(commits: Sequence[Commit]) -> bytes:
    """``records`` of a chunk."""
    return _encoder.encode(commits)


def encode_undo(undo: Mapping[str, bytes | None]) -> bytes:
    """``undo`` of a chunk."""
    return _encoder.encode(undo)


_waiting_decoder: msgspec.msgpack.Decoder[Parked | Returned] = msgspec.msgpack.Decoder(Parked | Returned)


class _Deadline(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """The beginning of ``Parked``, as far as its deadline."""

    panel: int
    suspension: int
    at_ms: int
    deadline_ms: int


_deadline_decoder: msgspec.msgpack.Decoder[_Deadline] = msgspec.msgpack.Decoder(_Deadline)


def encode_waiting(record: Parked | Returned) -> bytes:
    """A record of a suspension as MessagePack."""
    return _encoder.encode(record)


def decode_waiting(data: bytes) -> Parked | Returned:
    """Raises ``msgspec.DecodeError``."""
    return decode_as(_waiting_decoder, data)


_revoked_decoder: msgspec.msgpack.Decoder[Revoked] = msgspec.msgpack.Decoder(Revoked)


def encode_revoked(record: Revoked) -> bytes:
    """A record of a revocation as MessagePack."""
    return _encoder.encode(record)


def decode_revoked(data: bytes) -> Revoked:
    """Raises ``msgspec.DecodeError``."""
    return decode_as(_revoked_decoder, data)


def decode_deadline(data: bytes) -> int:
    """When a suspension ends, of the record of its ``Parked``. Raises ``msgspec.DecodeError``."""
    return decode_as(_deadline_decoder, data).deadline_ms


def encode_record(record: Commit) -> bytes:
    """One record as MessagePack."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> Commit:
    """Raises ``msgspec.DecodeError``."""
    return decode_as(_record_decoder, data)


def decode_commits(data: bytes) -> list[Commit]:
    """Raises ``msgspec.DecodeError``."""
    return decode_as(_run_decoder, data)


def sized_commits(data: bytes, *, skip: int) -> Iterator[tuple[Commit, int]]:
    """The commits of a chunk after the first ``skip``, each with its size in bytes, decoded lazily.

    Raises ``msgspec.DecodeError``.
    """
    for part in decode_as(_parts_decoder, data)[skip:]:
        yield decode_as(_record_decoder, part), len(memoryview(part))


def mutations_of(commits: Sequence[Commit]) -> list[list[Mutation]]:
    """The mutations of each commit. Raises ``CorruptError`` if they are not a list of mutations."""
    # one call for all: a call for each would cost more than the decoding
    texts = [
        commit.outcome.mutations
        if type(commit) is Ran and type(commit.outcome) is Completed
        else _text(commit)
        for commit in commits
    ]
    try:
        found = _mutations_decoder.decode(b"[" + b",".join(texts) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptError(
            f"expected mutations in commits {commits[0].seq} and on, got other: {exc}"
        ) from exc
    if len(found) != len(commits):
        raise CorruptError(f"expected mutations in commits {commits[0].seq} and on, got none in one of them")
    return found


def value_of(mutation: Mutation) -> bytes | None:
    """The value that ``mutation`` leaves under its key, None if it deletes the key."""
    value = mutation.value
    return bytes(value) if mutation.op == "set" and value is not msgspec.UNSET else None


def last_changes(commits: Sequence[Commit]) -> dict[str, tuple[bytes | None, int]]:
    """The value under each key that ``commits`` change, and the version of its last change."""
    last: dict[str, tuple[Mutation, int]] = {}
    for commit, mutations in zip(commits, mutations_of(commits), strict=True):
        for mutation in mutations:
            last[mutation.key] = mutation, commit.seq
    return {key: (value_of(mutation), seq) for key, (mutation, seq) in last.items()}


def state_crc(key: str, value: bytes | None) -> int:
    """What a key adds to ``panels.state_sum``, 0 for a key that is not there."""
    return 0 if value is None else crc32(value, crc32(key.encode() + b"\0"))


def head_crc(panel_id: str, epoch: str, created_ms: int, definition: bytes, digests: Iterable[bytes]) -> int:
    """The checksum of a panel's head, and of which handlers its definition names."""
    return crc32(_encoder.encode((panel_id, epoch, created_ms, definition, sorted(set(digests)))))


def source_crc(source: Source) -> int:
    """The checksum of a row of ``sources``."""
    return crc32(_encoder.encode(source))


def chunk_crc(records: bytes, undo: bytes) -> int:
    """The checksum of a row of ``history``."""
    return crc32(undo, crc32(records))


def record_crc(record: bytes) -> int:
    """The checksum of a row of ``answers``."""
    return crc32(record)


def checked_row(panel: int, first: int, last: int, crc: int, undo: bytes, records: bytes) -> Row:
    """A row of ``history`` that passed its checks. Raises ``CorruptError``."""
    where = f"history of panel {panel}, versions {first} to {last}"
    if chunk_crc(records, undo) != crc:
        raise CorruptError(f"{where}: expected checksum {crc}, got {chunk_crc(records, undo)}")
    try:
        changes = decode_as(_undo_decoder, undo)
    except msgspec.MsgspecError as exc:
        raise CorruptError(f"{where}: {exc}") from exc
    return Row(first, last, records, changes)


def _text(commit: Commit) -> bytes:
    if type(commit) is Changed:
        return commit.mutations
    assert type(commit) is Ran
    outcome = commit.outcome
    if isinstance(outcome, Failed):
        raise CorruptError(f"expected a completed trigger at version {commit.seq}, got a failed one")
    return outcome.mutations
