"""The pool's notices over a real socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from panels_shared.notices import READY, WATCHDOG, Notices
from panels_worker.pool.notifier import Notifier


def test_notifier_sends_what_is_said_and_signs_of_life_when_they_are_due(tmp_path: Path) -> None:
    address = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        notifier = Notifier(Notices(address, interval_s=5.0))
        notifier.say(READY)
        assert manager.recv(100) == READY
        notifier.beat(100.0)
        assert manager.recv(100) == WATCHDOG
        assert notifier.deadline_s == 105.0
        notifier.beat(104.0)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def test_notifier_does_without_a_manager(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    Notifier(Notices()).say(READY)
    assert not caplog.records
    Notifier(Notices(str(tmp_path / "missing"))).say(READY)
    assert "could not be told" in caplog.text
