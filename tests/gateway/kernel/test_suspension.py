"""One handler that waits: its calls, its answers, and the seal of its image."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.journal.records import replace_image
from panels_gateway.kernel.suspension import SEAL_BYTES, Suspension, is_sealed, seal
from panels_gateway.panels.trigger import Trigger
from panels_shared.messages import Answered
from tests.gateway.dispatch import builders
from tests.gateway.dispatch.builders import panel
from tests.gateway.journal.batches import parked
from tests.support.world import NoReply

KEY = b"k" * 32


def make(*calls: int) -> Suspension:
    origin = Trigger(
        panel=panel(), tool=builders.TOOL, args=b"{}", scope=b"{}", now_ms=0.0, seed=1, submitted_s=0.0, reply_to=NoReply()
    )  # fmt: skip
    return Suspension(parked(1, 0xABC, *calls), origin)


def answer(call: int) -> Answered:
    return Answered(call, True, b"1")


def open_calls(suspension: Suspension) -> list[int]:
    return [call for call in range(6) if suspension.is_open(call)]


def test_suspension_is_named_by_its_number() -> None:
    assert (make(1).number, make(1).name) == (0xABC, "000000000abc")


def test_call_is_open_until_it_is_answered() -> None:
    suspension = make(1, 2, 3)
    assert open_calls(suspension) == [1, 2, 3]
    suspension.answer(answer(3))
    suspension.answer(answer(1))
    assert open_calls(suspension) == [2]
    assert [call.call for call in suspension.still_open()] == [1, 2, 3]
    assert suspension.begin() == (answer(1), answer(3))
    assert open_calls(suspension) == [2]
    assert [call.call for call in suspension.still_open()] == [2]
    suspension.answer(answer(2))
    suspension.undo()
    assert suspension.begin() == (answer(1), answer(2), answer(3))


def test_parking_again_opens_the_calls_of_the_new_step() -> None:
    suspension = make(1, 2)
    suspension.answer(answer(1))
    suspension.begin()
    suspension.answer(answer(2))
    suspension.park(parked(1, 0xABC, 2, 3, steps=2))
    assert suspension.running == ()
    assert open_calls(suspension) == [3]
    assert suspension.made_ms == {2: 3_002, 3: 3_003}
    assert suspension.begin() == (answer(2),)


def test_nothing_of_a_suspension_that_is_over_is_open() -> None:
    suspension = make(1)
    suspension.over = True
    assert open_calls(suspension) == []


def test_image_is_dropped_only_with_the_record_that_is_stored() -> None:
    suspension = make(1)
    old = suspension.record
    suspension.park(parked(1, 0xABC, 1, steps=2))
    suspension.stored(old)
    assert suspension.record.image == b"image"
    suspension.stored(suspension.record)
    assert suspension.record.image == b""


def test_record_names_a_time_for_each_call() -> None:
    with pytest.raises(ValueError, match="zip"):
        make(1).park(msgspec.structs.replace(parked(1, 1, 1, 2), made_ms=(1,)))


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_seal_fits_one_image_only(image: bytes, other: bytes) -> None:
    record = parked(1, 7, 1)
    sealed = msgspec.structs.replace(record, seal=seal(KEY, 1, 7, record.digest, image))
    assert len(sealed.seal) == SEAL_BYTES
    assert is_sealed(KEY, sealed, image)
    assert is_sealed(KEY, sealed, other) == (image == other)


@pytest.mark.parametrize(
    "change", [{"panel": 2}, {"suspension": 8}, {"digest": b"\x12" * 32}, {"seal": b""}, {"seal": b"s" * 16}]
)
def test_seal_fits_one_handler_of_one_panel_only(change: dict[str, object]) -> None:
    record = replace_image(parked(1, 7, 1), b"")
    sealed = msgspec.structs.replace(record, seal=seal(KEY, 1, 7, record.digest, b"image"))
    assert is_sealed(KEY, sealed, b"image")
    assert not is_sealed(KEY, msgspec.structs.replace(sealed, **change), b"image")
    assert not is_sealed(b"x" * 32, sealed, b"image")
