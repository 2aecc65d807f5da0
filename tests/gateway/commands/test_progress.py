"""How far a command is: on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from panels_gateway.commands.progress import Progress, bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [
        (0, 10, "copying [..............................]   0 %"),
        (5, 10, "copying [###############...............]  50 %"),
        (12, 10, "copying [##############################] 100 %"),
        (0, 0, "copying [##############################] 100 %"),
    ],
)
def test_bar_shows_the_share(done: int, total: int, expected: str) -> None:
    assert bar("copying", done, total) == expected


def test_terminal_gets_one_line_that_ends_even_after_an_error() -> None:
    stream = Terminal()

    def fail() -> None:
        with Progress("copying", stream) as progress:
            progress(1, 2)
            progress(1, 2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stream.getvalue() == f"\r{bar('copying', 1, 2)}\n"


def test_other_streams_get_a_line_every_tenth() -> None:
    stream = io.StringIO()
    with Progress("copying", stream) as progress:
        for done in range(1, 101):
            progress(done, 100)
    assert stream.getvalue().splitlines() == [f"copying: {tenth * 10} %" for tenth in range(11)]
