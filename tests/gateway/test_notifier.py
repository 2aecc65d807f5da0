"""Notices over a real socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from panels_gateway.notifier import Notifier
from panels_shared.notices import READY, WATCHDOG, Notices


def bound(path: Path | str) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(path))
    manager.settimeout(10)
    return manager


def test_notifier_says_when_it_reloads_and_has_reloaded(tmp_path: Path) -> None:
    with bound(tmp_path / "n") as manager:
        with Notifier(Notices(str(tmp_path / "n"))).reloading(1.0):
            assert manager.recv(100) == b"RELOADING=1\nMONOTONIC_USEC=1000000"
        assert manager.recv(100) == READY


def test_notifier_gives_signs_of_life_from_the_loop_while_it_is_watched(tmp_path: Path) -> None:
    async def watched(notifier: Notifier, manager: socket.socket) -> None:
        async with notifier.watched():
            for _ in range(3):
                assert await asyncio.get_running_loop().sock_recv(manager, 100) == WATCHDOG

    with bound(tmp_path / "n") as manager:
        manager.setblocking(False)
        asyncio.run(watched(Notifier(Notices(str(tmp_path / "n"), interval_s=0.01)), manager))


def test_notifier_does_without_a_manager(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    Notifier(Notices()).say(READY)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        Notifier(Notices(str(tmp_path / "missing"))).say(READY)
    assert "could not be told b'READY=1'" in caplog.text
