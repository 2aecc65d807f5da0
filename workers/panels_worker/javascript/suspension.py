"""Scripts that wait: an instance of the guest as an image, and an instance made from one.

The whole heap of the guest lies in its linear memory and its stack is empty between calls, so that the pages
that differ from the handler's snapshot are the suspended handler. What lies on the unused stack, and in the
buffer for what crosses, is of no use to anybody and left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError
from panels_shared.messages import Answered
from panels_worker.guest.calls import Calls
from panels_worker.guest.effects import InvalidValue, LimitReached
from panels_worker.guest.image import WASM_PAGE_BYTES, Identity, Image, ImageError, Kind, OversizeError, pack
from panels_worker.guest.pages import PAGE_BYTES, Baseline, difference
from panels_worker.guest.traps import InstantiationError
from panels_worker.javascript.assets import GuestChangedError
from panels_worker.javascript.engines import engine_digest
from panels_worker.javascript.guest import BUFFER_BYTES, GuestRun, JavaScriptGuest
from panels_worker.javascript.snapshot import Snapshot

_STACK_POINTER = b"__stack_pointer"


class _Refusal(msgspec.Struct):
    """The value of an answer that is not ok."""

    code: str
    message: str


def identity_of(guest: JavaScriptGuest, handler: bytes) -> Identity:
    """What images of the handler with this digest fit to."""
    build = hashlib.sha256(b"panels script v1\0" + engine_digest(guest.build) + guest.fresh)
    return Identity(Kind.SCRIPT, build.digest(), handler)


def baseline_of(guest: JavaScriptGuest, snapshot: Snapshot) -> Baseline:
    """The memory that every job of a handler begins with."""
    return Baseline(snapshot.size, guest.fresh, snapshot.runs)


def capture(run: GuestRun, calls: Calls, identity: Identity, baseline: Baseline) -> bytes:
    """The image of an instance that no call is running in. Raises ``LimitReached`` for one that is too
    large.
    """
    run.free_spent()
    run.write(run.buffer, baseline.read(run.buffer, BUFFER_BYTES))
    size = run.store.memory_bytes(run.memory)
    top = _stack_top(run)
    spans = (0, PAGE_BYTES), (top, size)
    runs = difference(run.read, spans, baseline)
    try:
        return pack(Image(calls.made, tuple(calls.open), size, (top,), runs), identity, baseline)
    except OversizeError as error:
        raise LimitReached(str(error)) from None


def revive(run: GuestRun, image: Image) -> None:
    """Makes an instance, which the handler's snapshot is in, what it was when it was suspended.

    Raises ``ImageError``, and ``InstantiationError`` where it does not fit into its memory.
    """
    if image.globals != (_stack_top(run),):
        raise ImageError("the image of the suspended handler has something on its stack")
    missing = image.memory_bytes - run.store.memory_bytes(run.memory)
    if missing > 0 and not run.store.grow_memory(run.memory, missing // WASM_PAGE_BYTES):
        raise InstantiationError
    for at, data in image.runs:
        run.write(at, data)


def encode_answers(answers: Sequence[Answered], calls: Calls) -> bytes:
    """The answers to open calls as the prelude takes them; those calls are open no longer.

    Raises ``InvalidValue``.
    """
    rows: list[bytes] = []
    for answer in answers:
        if not calls.answer(answer.call):
            continue
        try:
            if answer.ok:
                jsonvalue.validate(answer.value)
            else:
                msgspec.json.decode(answer.value, type=_Refusal)
        except (InvalidJsonError, msgspec.DecodeError, UnicodeError):
            raise InvalidValue(f"expected an answer of valid JSON to call {answer.call}") from None
        rows.append(b"[%d,%b,%b]" % (answer.call, b"true" if answer.ok else b"false", answer.value))
    return b"[%b]" % b",".join(rows)


def _stack_top(run: GuestRun) -> int:
    top = run.store.get_global_bits(run.export(_STACK_POINTER))
    if top % PAGE_BYTES:
        raise GuestChangedError("expected a guest whose stack begins at a page")
    return top
