"""Titles of processes, as the kernel shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from panels_worker.title import set_title, write_title

SHOW = """
from panels_worker.title import {names}
{steps}
print(open("/proc/self/comm").read(), end="")
"""


def comm_after(names: str, steps: str) -> str:
    """The title of a process that has done ``steps``; not of this one, which others look at."""
    program = SHOW.format(names=names, steps=steps)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_title_is_what_the_kernel_shows() -> None:
    assert comm_after("set_title", "set_title('pool 2/2 up')") == "pool 2/2 up\n"


def test_title_is_cut_and_not_refused_when_it_is_long() -> None:
    assert comm_after("set_title", "set_title('sandbox leaving!')") == "sandbox leaving\n"


def test_title_can_be_written_when_nothing_can_be_opened_any_more() -> None:
    steps = "fd = open_title(); write_title(fd, 'one'); write_title(fd, 'two')"
    assert comm_after("open_title, write_title", steps) == "two\n"


def test_title_of_this_process_can_be_changed_and_changed_back() -> None:
    comm = Path("/proc/self/comm")
    before = comm.read_text().strip()
    try:
        set_title("pool 1/2 up")
        assert comm.read_text() == "pool 1/2 up\n"
    finally:
        set_title(before)


def test_title_does_without_a_system_that_has_none() -> None:
    write_title(-1, "nothing")
