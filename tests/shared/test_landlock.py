"""Landlock, in threads of their own: what is given up is given up for good."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from panels_shared import landlock

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or landlock.version() == 0, reason="needs Linux with Landlock"
)


def restricted(
    look: Callable[[], object], beneath: Sequence[tuple[Path, int]], *, ports: Sequence[int] | None = None
) -> object:
    """What ``look`` returns in a thread that was left ``beneath``, or the type of its error."""

    def run() -> object:
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs, which binds this thread alone
        opened = [(os.open(path, os.O_PATH), rights) for path, rights in beneath]
        try:
            assert landlock.restrict(opened, connect_ports=ports) == landlock.version()
        finally:
            for descriptor, _ in opened:
                os.close(descriptor)
        try:
            return look()
        except OSError as exc:
            return type(exc)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run).result()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


def test_thread_is_left_what_is_named_and_nothing_beside_it(folder: Path) -> None:
    inside, rights = folder / "open", landlock.READ_FILE | landlock.READ_DIR
    rules = [(inside, rights)]
    assert restricted((inside / "file").read_text, rules) == "open"
    assert restricted(lambda: os.listdir(inside), rules) == ["file"]
    assert restricted(lambda: (inside / "file").write_text("x"), rules) is PermissionError
    assert restricted((folder / "closed" / "file").read_text, rules) is PermissionError
    assert restricted(lambda: os.listdir(folder), rules) is PermissionError
    assert (folder / "closed" / "file").read_text() == "closed"  # other threads keep what they had


def test_thread_may_write_where_it_is_said(folder: Path) -> None:
    inside = folder / "open"
    rules = [(inside, landlock.WRITE_FOLDER | landlock.READ_FILE)]

    def write() -> bool:
        (inside / "new").mkdir()
        (inside / "file").rename(inside / "new" / "file")
        (inside / "new" / "file").write_text("")
        return True

    assert restricted(write, rules) is True
    assert (inside / "new" / "file").read_text() == ""


def test_file_alone_can_be_left(folder: Path) -> None:
    file = folder / "open" / "file"
    assert restricted(file.read_text, [(file, landlock.READ_FILE)]) == "open"
    with pytest.raises(OSError, match="Invalid argument"):
        restricted(file.read_text, [(file, landlock.READ_DIR)])


@pytest.mark.skipif(landlock.version() < 4, reason="needs Landlock that limits TCP")
def test_thread_is_left_the_ports_that_are_named_and_all_without_names() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        def connect() -> bool:
            with socket.socket() as client:  # a look-up would need files
                client.connect(("127.0.0.1", port))
                return True

        assert restricted(connect, (), ports=(port,)) is True
        assert restricted(connect, (), ports=None) is True
        assert restricted(connect, (), ports=(port ^ 1,)) is PermissionError
        assert restricted(connect, (), ports=()) is PermissionError


def test_thread_without_no_new_privs_is_refused() -> None:
    def run() -> None:
        libc = ctypes.CDLL(None)
        if os.geteuid() == 0:  # whom the kernel would let through
            header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            libc.capset(header, nothing)
        landlock.restrict((), connect_ports=None)

    with ThreadPoolExecutor(1) as threads, pytest.raises(PermissionError):
        threads.submit(run).result()
