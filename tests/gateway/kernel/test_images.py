"""A state is encoded once for all who want it, is what it was, and all together stay within their bound."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.kernel import images as module
from panels_gateway.kernel.images import PART_BYTES, Image, Images, encoded
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.panel import state_json
from panels_shared.errors import Code, RequestError
from tests.support.gateway import Gateway
from tests.support.server import until

pytestmark = pytest.mark.anyio


def text(image: Image) -> bytes:
    return b"".join(image.parts)


async def large(gateway: Gateway, panel_id: str = "p") -> Resident:
    return await gateway.add(panel_id, state={"n": 0, "text": "x" * 3 * PART_BYTES})


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 3 * PART_BYTES), max_size=5))
def test_parts_make_the_state(sizes: dict[str, int]) -> None:
    state = {key: b'"' + b"x" * size + b'"' for key, size in sizes.items()}
    parts = asyncio.run(encoded(state))
    assert b"".join(parts) == state_json(state)
    assert all(len(part) <= 2 * PART_BYTES + 64 for part in parts)


async def test_state_is_encoded_in_steps_and_is_what_it_was_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_AT_ONCE", 2)
    state = dict.fromkeys("abcde", b"1")
    task = asyncio.create_task(encoded(state))
    await asyncio.sleep(0)
    assert not task.done()
    state["a"] = state["f"] = b"2"
    assert json.loads(b"".join(await task)) == dict.fromkeys("abcde", 1)


async def test_all_who_ask_at_one_version_share_one_image() -> None:
    gateway = Gateway()
    images, resident = gateway.kernel.images, await large(gateway)
    found = await asyncio.gather(*(images.of(resident, "a") for _ in range(5)))
    assert len(set(map(id, found))) == 1
    image = found[0]
    assert (image.seq, image.holders, text(image)) == (0, 5, resident.panel.state_json())
    assert images.used_bytes == image.size
    for _ in range(5):
        image.release()
    assert images.used_bytes == image.size
    again = await images.of(resident, "a")
    assert again is image
    await gateway.put(resident, n=1)
    newer = await images.of(resident, "a")
    assert newer is not image
    assert json.loads(text(newer))["n"] == 1
    assert images.used_bytes == image.size + newer.size
    image.release()
    assert images.used_bytes == newer.size
    newer.release()


async def test_image_that_is_behind_serves_those_who_are_sent_the_rest() -> None:
    gateway = Gateway()
    gateway.journal.hold = True
    images, resident = gateway.kernel.images, await large(gateway)
    image = await images.of(resident, "a")
    gateway.submit(resident, {"set": {"n": 1}})
    await gateway.settle()
    assert resident.panel.seq == 1
    assert await images.of(resident, "a", behind=True) is image
    assert await images.of(resident, "a") is not image


async def test_image_that_nobody_holds_goes_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    gateway = Gateway()
    images, resident = gateway.kernel.images, await large(gateway)
    image = await images.of(resident, "a")
    image.release()
    await until(lambda: not images.used_bytes)
    assert resident.image is None


async def test_no_more_is_kept_than_the_bound() -> None:
    gateway = Gateway()
    first, second = await large(gateway, "a"), await large(gateway, "b")
    images = Images(4 * PART_BYTES)
    image = await images.of(first, "a")
    with pytest.raises(RequestError) as caught:
        await images.of(second, "b")
    assert caught.value.code is Code.OVERLOADED
    assert second.imaging is None
    with pytest.raises(RequestError):
        images.answer(b"x" * 2 * PART_BYTES, "b")
    with pytest.raises(RequestError):
        await images.once(0, second.panel.state, "b")
    image.release()
    # what nobody holds makes room at once
    other = await images.of(second, "b")
    assert first.image is None
    assert images.used_bytes == other.size
    other.release()
    answer = images.answer(b"x" * 2 * PART_BYTES, "b")
    assert (text(answer), images.used_bytes) == (b"x" * 2 * PART_BYTES, 2 * PART_BYTES)
    answer.release()
    earlier = await images.once(7, second.panel.state, "b")
    assert (earlier.seq, text(earlier)) == (7, second.panel.state_json())
    earlier.release()
    assert images.used_bytes == 0


async def test_one_who_gives_up_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_AT_ONCE", 1)
    gateway = Gateway()
    images, resident = gateway.kernel.images, await large(gateway)
    asking = [asyncio.create_task(images.of(resident, "a")) for _ in range(2)]
    await asyncio.sleep(0)
    asking[0].cancel()
    image = await asking[1]
    assert (image.holders, images.used_bytes) == (1, image.size)
    once = asyncio.create_task(images.once(0, resident.panel.state, "b"))
    await asyncio.sleep(0)
    once.cancel()
    await asyncio.wait([once])
    assert images.used_bytes == image.size
    image.release()


def test_one_subject_leaves_as_much_free_as_it_keeps() -> None:
    images = Images(600)
    held = [images.answer(b"x" * 100, "greedy") for _ in range(3)]
    with pytest.raises(RequestError):
        images.answer(b"x" * 100, "greedy")
    # whoever keeps nothing yet finds room, though there is none for a second
    other = images.answer(b"x" * 250, "polite")
    with pytest.raises(RequestError):
        images.answer(b"x" * 50, "polite")
    for image in (*held, other):
        image.release()
    assert images.used_bytes == 0
    images.answer(b"x" * 300, "greedy").release()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.booleans()), max_size=40))
def test_what_is_kept_is_what_each_subject_keeps(steps: list[tuple[str, int, bool]]) -> None:
    images = Images(200)
    held: list[tuple[str, Image]] = []
    for payer, size, lets_go in steps:
        if lets_go and held:
            held.pop(0)[1].release()
            continue
        theirs = sum(image.size for by, image in held if by == payer)
        free = 200 - sum(image.size for _, image in held) - size
        try:
            held.append((payer, images.answer(b"x" * size, payer)))
        except RequestError:
            assert free < 0 or theirs + size > free > -1
        else:
            assert free >= 0
            assert not theirs or theirs + size <= free
        assert images.used_bytes == sum(image.size for _, image in held)
