"""Sums of bytes of images."""

from __future__ import annotations

import pytest

from panels_gateway.kernel.image_bytes import ImageBytes


def test_images_are_summed_by_panel_and_in_all() -> None:
    images = ImageBytes()
    images.change(1, 0, 10)
    images.change(1, 0, 5)
    images.change(2, 0, 7)
    assert (images.of(1), images.of(2), images.of(3), images.total) == (15, 7, 0, 22)
    images.change(1, 10, 30)
    assert (images.of(1), images.total) == (35, 42)
    images.change(1, 30, 0)
    images.change(1, 5, 0)
    images.change(2, 7, 0)
    assert (images.of(1), images.total) == (0, 0)


def test_more_than_there_was_cannot_go_away() -> None:
    images = ImageBytes()
    images.change(1, 0, 10)
    with pytest.raises(AssertionError):
        images.change(1, 11, 0)
