"""Batches to append, and strategies that make them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from panels_gateway.journal.records import (
    Batch,
    Changed,
    Created,
    Defined,
    Deleted,
    Fired,
    Key,
    Parked,
    Ran,
    Record,
    Returned,
    Source,
    Unparked,
)
from panels_shared.outcome import Completed, ExtensionCall, Failed, Reason, Suspended, Usage

DIGEST = b"\x11" * 32
SOURCE = Source(DIGEST, "javascript", "run", b"export function run() {}")


def created(panel: int = 1, panel_id: str = "a", *, seq: int = 0, **state: bytes) -> Created:
    """A panel whose one handler is ``SOURCE``."""
    return Created(
        panel, panel_id, f"e{panel}", 1_000 + panel, b'{"tools":[]}', state, seq=seq, digests=(DIGEST,)
    )


def ran(panel: int, seq: int, mutations: bytes = b"[]", *, key: Key | None = None, at_ms: int = 2_000) -> Ran:
    """A trigger that completed."""
    return Ran(
        panel=panel,
        seq=seq,
        at_ms=at_ms,
        tool="t",
        digest=DIGEST,
        args=b"{}",
        scope=b"null",
        now_ms=1.5,
        seed=7,
        outcome=Completed(Usage(1, 2, 3, 4, 5, True), mutations=mutations),
        queue_us=10,
        total_us=20,
        key=key,
    )


def parked(
    panel: int,
    suspension: int,
    *calls: int,
    image: bytes = b"image",
    steps: int = 1,
    key: Key | None = None,
    deadline_ms: int = 9_000,
) -> Parked:
    """A handler that waits for these calls."""
    return Parked(
        panel=panel,
        suspension=suspension,
        at_ms=3_000,
        deadline_ms=deadline_ms,
        tool="t",
        digest=DIGEST,
        args=b"{}",
        scope=b"{}",
        calls=tuple(ExtensionCall(call, "human", "ask", b"[]") for call in calls),
        image=image,
        seal=b"s" * 16,
        steps=steps,
        key=key,
        made_ms=tuple(3_000 + call for call in calls),
    )


def returned(panel: int, suspension: int, call: int, value: bytes = b"1") -> Returned:
    """The answer to one of them."""
    return Returned(panel, suspension, call, True, value)


def put(key: str, value: str) -> bytes:
    """Mutations that set one key."""
    return f'[{{"op":"set","key":"{key}","value":{value}}}]'.encode()


def drop(key: str) -> bytes:
    """Mutations that delete one key."""
    return f'[{{"op":"delete","key":"{key}"}}]'.encode()


def batch(position: int, *records: Record, fence: int = 1) -> Batch:
    return Batch(position, fence, list(records))


def run_of(count: int, *, first: int = 1, fence: int = 1, size: int = 20) -> list[Batch]:
    """Batches of one trigger each, with arguments of about ``size`` bytes that differ."""
    return [
        batch(first + n, Changed(1, first + n, n, "replace", "s", put("k", f'"{n:0{size}}"')), fence=fence)
        for n in range(count)
    ]


_keys = st.none() | st.builds(
    Key, subject=st.text(max_size=4), key=st.text(max_size=8), fingerprint=st.binary(min_size=16, max_size=16)
)
_outcomes = (
    st.builds(
        Completed,
        usage=st.just(Usage()),
        return_value=st.binary(max_size=64),
        mutations=st.binary(max_size=64),
    )
    | st.builds(
        Suspended,
        usage=st.just(Usage()),
        calls=st.just(()),
        image=st.just(b""),
        mutations=st.binary(max_size=64),
    )
    | st.builds(Failed, usage=st.just(Usage()), reason=st.sampled_from(Reason), message=st.text(max_size=20))
)
_numbers = st.integers(0, 2**40)
_records: st.SearchStrategy[Record] = st.one_of(
    st.builds(
        Source,
        digest=st.binary(min_size=32, max_size=32),
        language=st.text(max_size=4),
        entry=st.text(max_size=4),
        source=st.binary(max_size=200),
    ),
    st.builds(
        Created,
        panel=_numbers,
        id=st.text(max_size=8),
        epoch=st.text(max_size=8),
        at_ms=_numbers,
        definition=st.binary(max_size=64),
        state=st.dictionaries(st.text(max_size=4), st.binary(max_size=16), max_size=3),
        seq=_numbers,
    ),
    st.builds(Defined, panel=_numbers, at_ms=_numbers, definition=st.binary(max_size=64)),
    st.builds(Deleted, panel=_numbers, at_ms=_numbers),
    st.builds(
        Ran,
        panel=_numbers,
        seq=_numbers,
        at_ms=_numbers,
        tool=st.text(max_size=8),
        digest=st.binary(min_size=32, max_size=32),
        args=st.binary(max_size=64),
        scope=st.binary(max_size=16),
        now_ms=st.floats(allow_nan=False),
        seed=st.integers(0, 2**64 - 1),
        outcome=_outcomes,
        queue_us=_numbers,
        total_us=_numbers,
        key=_keys,
    ),
    st.builds(
        Changed,
        panel=_numbers,
        seq=_numbers,
        at_ms=_numbers,
        cause=st.text(max_size=8),
        subject=st.text(max_size=8),
        mutations=st.binary(max_size=64),
    ),
    st.builds(
        Parked,
        panel=_numbers,
        suspension=_numbers,
        at_ms=_numbers,
        deadline_ms=_numbers,
        tool=st.text(max_size=8),
        digest=st.binary(min_size=32, max_size=32),
        args=st.binary(max_size=64),
        scope=st.binary(max_size=16),
        calls=st.lists(
            st.builds(
                ExtensionCall, st.integers(1, 2**53 - 1), st.just("e"), st.just("m"), st.binary(max_size=9)
            ),
            max_size=3,
        ).map(tuple),
        image=st.binary(max_size=200),
        seal=st.binary(max_size=16),
        steps=_numbers,
        depth=_numbers,
        request_id=st.none() | st.text(max_size=8),
        key=_keys,
        made_ms=st.lists(_numbers, max_size=3).map(tuple),
    ),
    st.builds(Unparked, panel=_numbers, suspension=_numbers),
    st.builds(
        Returned,
        panel=_numbers,
        suspension=_numbers,
        call=_numbers,
        ok=st.booleans(),
        value=st.binary(max_size=64),
    ),
    st.builds(Fired, panel=_numbers, tool=st.text(max_size=8), due_ms=_numbers),
)


def runs(*, max_size: int = 5) -> st.SearchStrategy[list[Batch]]:
    """Runs of batches without a gap, from position 1, under fence 1."""

    def number(lists: Sequence[list[Record]]) -> list[Batch]:
        return [batch(position, *records) for position, records in enumerate(lists, 1)]

    return st.lists(st.lists(_records, max_size=3), min_size=1, max_size=max_size).map(number)
