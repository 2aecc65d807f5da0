"""Images: what they hold, and that nothing else is taken for one."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.limits import MAX_IMAGE_BYTES, MAX_OPEN_CALLS
from panels_worker.guest import image as images
from panels_worker.guest.image import MAX_GLOBALS, Identity, Image, ImageError, Kind, pack, unpack
from panels_worker.guest.pages import PAGE_BYTES, Baseline

MEMORY = 4 * images.WASM_PAGE_BYTES
IDENTITY = Identity(Kind.SCRIPT, b"b" * 32, b"h" * 32)
BASELINE = Baseline(2 * images.WASM_PAGE_BYTES, b"abc" * 30_000, ())
PAGE = bytes(range(256)) * (PAGE_BYTES // 256)
EXAMPLE = Image(7, (3, 5), 2 * images.WASM_PAGE_BYTES, (1_048_576,), ((0, PAGE), (3 * PAGE_BYTES, PAGE * 2)))
PACKED = pack(EXAMPLE, IDENTITY, BASELINE)
HEADER = images._HEADER.size


def opened(data: bytes, memory_bytes: int = MEMORY) -> Image:
    return unpack(data, IDENTITY, BASELINE, memory_bytes=memory_bytes)


def forged(body: bytes, *, compressed: bool = True) -> bytes:
    """A body behind a header that fits to it, as somebody makes it who knows everything."""
    text = zlib.compress(body) if compressed else body
    return images._header(IDENTITY, BASELINE, text) + text


def body_of(
    *,
    made: int = 1,
    size: int = 2,
    opens: tuple[int, ...] = (),
    kept: tuple[int, ...] = (),
    table: tuple[tuple[int, int], ...] = (),
    pages: bytes | None = None,
) -> bytes:
    flat = [number for row in table for number in row]
    return b"".join(
        (
            images._BODY.pack(made, size, len(opens), len(kept), len(table)),
            struct.pack(f"<{len(opens) + len(kept)}Q", *opens, *kept),
            struct.pack(f"<{len(flat)}I", *flat),
            bytes(PAGE_BYTES * sum(count for _, count in table)) if pages is None else pages,
        )
    )


@st.composite
def some_images(draw: st.DrawFn) -> Image:
    size = draw(st.integers(2, 4))
    runs: list[tuple[int, bytes]] = []
    at = 0
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.integers(1, 8))
        count = draw(st.integers(1, 3))
        if at + count > size * 16:
            break
        runs.append(
            (at * PAGE_BYTES, draw(st.binary(min_size=1, max_size=50)).ljust(count * PAGE_BYTES, b"\0"))
        )
        at += count
    made = draw(st.integers(0, 2**53))
    opens = sorted(draw(st.sets(st.integers(1, made), max_size=9))) if made else []
    kept = draw(st.lists(st.integers(0, 2**64 - 1), max_size=MAX_GLOBALS))
    return Image(made, tuple(opens), size * images.WASM_PAGE_BYTES, tuple(kept), tuple(runs))


@given(some_images())
def test_unpack_undoes_pack(image: Image) -> None:
    assert opened(pack(image, IDENTITY, BASELINE)) == image


def test_every_flipped_bit_is_found() -> None:
    for at in range(len(PACKED)):
        for bit in range(8):
            damaged = bytearray(PACKED)
            damaged[at] ^= 1 << bit
            with pytest.raises(ImageError):
                opened(bytes(damaged))


def test_every_cut_is_found() -> None:
    for length in range(len(PACKED)):
        with pytest.raises(ImageError):
            opened(PACKED[:length])
    with pytest.raises(ImageError):
        opened(PACKED + b"\0")


@pytest.mark.parametrize(
    ("identity", "baseline", "words"),
    [
        (Identity(Kind.SCRIPT, b"B" * 32, b"h" * 32), BASELINE, "another build"),
        (Identity(Kind.MODULE, b"b" * 32, b"h" * 32), BASELINE, "another build"),
        (Identity(Kind.SCRIPT, b"b" * 32, b"H" * 32), BASELINE, "another handler"),
        (IDENTITY, Baseline(BASELINE.size, b"", [(0, PAGE)]), "another handler"),
        (IDENTITY, Baseline(images.WASM_PAGE_BYTES, b"abc" * 30_000, ()), "another handler"),
    ],
)
def test_image_of_something_else_is_refused_with_a_sentence(
    identity: Identity, baseline: Baseline, words: str
) -> None:
    with pytest.raises(ImageError, match=words):
        unpack(PACKED, identity, baseline, memory_bytes=MEMORY)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        body_of()[:-1],
        body_of() + b"\0",
        body_of(table=((0, 1),))[:-1],
        body_of(table=((0, 1),), pages=b""),
        body_of(table=((32, 1),)),
        body_of(table=((31, 2),)),
        body_of(table=((0xFFFF_FFFF, 1),)),
        body_of(table=((0, 0xFFFF_FFFF),), pages=b""),
        body_of(table=((0, 0),)),
        body_of(table=((4, 1), (4, 1))),
        body_of(table=((4, 1), (2, 1))),
        body_of(table=((4, 2), (6, 1))),
        body_of(size=0),
        body_of(size=1),
        body_of(opens=(0,)),
        body_of(opens=(2,)),
        body_of(made=5, opens=(3, 3)),
        body_of(made=5, opens=(4, 3)),
        body_of(made=2**60, opens=tuple(range(1, MAX_OPEN_CALLS + 2))),
        body_of(kept=(0,) * (MAX_GLOBALS + 1)),
        images._BODY.pack(1, 2, 0xFFFF, 0xFFFF, 0xFFFF_FFFF),
    ],
)
def test_forged_body_is_refused(body: bytes) -> None:
    with pytest.raises(ImageError):
        opened(forged(body))


def test_body_that_is_not_compressed_is_refused() -> None:
    for text in (b"x", body_of(), zlib.compress(body_of()) + b"more", zlib.compress(body_of())[:-1]):
        with pytest.raises(ImageError):
            opened(forged(text, compressed=False))


def test_body_that_unpacks_to_more_than_memory_is_not_unpacked() -> None:
    with pytest.raises(ImageError, match="at most"):
        opened(forged(bytes(64 * MEMORY)))


def test_image_above_its_bound_is_not_looked_at() -> None:
    with pytest.raises(ImageError, match="something else"):
        opened(PACKED + bytes(MAX_IMAGE_BYTES))


def test_image_that_would_be_too_large_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pack(EXAMPLE, IDENTITY, BASELINE)
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(PACKED))
    assert pack(EXAMPLE, IDENTITY, BASELINE) == PACKED
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", len(PACKED) - 1)
    with pytest.raises(images.OversizeError, match="at most"):
        pack(EXAMPLE, IDENTITY, BASELINE)


@given(st.binary(max_size=200), st.booleans())
def test_bytes_never_raise_anything_else(data: bytes, fits: bool) -> None:
    with pytest.raises(ImageError):
        opened(forged(data) if fits else data)
