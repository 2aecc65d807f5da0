"""What real programs tell the service manager that started them."""

from __future__ import annotations

import signal
import socket
import threading
from queue import Queue
from typing import Self

from tests.support.system import System


class Manager:
    """A socket that is always read, as a service manager does: few datagrams wait before they are refused."""

    def __init__(self, address: str) -> None:
        self._notices: Queue[bytes] = Queue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        while notice := self._socket.recv(256):
            self._notices.put(notice)

    def heard(self, wanted: bytes) -> None:
        """Returns once ``wanted`` has come; signs of life and the like may come before."""
        while not self._notices.get(timeout=40).startswith(wanted):
            pass


def test_programs_tell_the_service_manager_how_they_are() -> None:
    with System() as system, Manager(address := str(system.folder / "notify")) as manager:
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        gateway = system.start_gateway(environment=environment)
        manager.heard(b"READY=1")
        manager.heard(b"WATCHDOG=1")
        gateway.signal(signal.SIGHUP)
        manager.heard(b"RELOADING=1")
        manager.heard(b"READY=1")
        gateway.signal(signal.SIGTERM)
        manager.heard(b"STOPPING=1")
        assert gateway.wait() == 0

        pool = system.start_pool(processes=1, environment=environment)
        manager.heard(b"READY=1")
        manager.heard(b"WATCHDOG=1")
        system.start_gateway()
        manager.heard(b"STATUS=pool 1/1 up")
        manager.heard(b"WATCHDOG=1")
        pool.signal(signal.SIGTERM)
        manager.heard(b"STOPPING=1")
        assert pool.wait() == 0
        assert not system.defects()
