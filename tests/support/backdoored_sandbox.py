"""A sandbox process that was taken over: the real start-up, the real confinement, and then the attacker's
Python instead of jobs. A pool starts it in place of the real one, see ``backdoor``.

    python -I backdoored_sandbox.py ATTACK.py     (its configuration comes on standard input, as always)

ATTACK.py is a module that is run before this process is confined, so that it can import what it needs. It has
the function ``attack(captive)``, which is called once the process is confined and welcomed; what it prints
goes to the pool's log. When it returns, the process goes on as a sandbox, unless it returns an ``Exit``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from panels_shared.messages import ToGateway, ToWorker
from panels_shared.wire import decode_to_worker, encode
from panels_worker.bus import link
from panels_worker.sandbox import process
from panels_worker.sandbox.loop import Loop
from panels_worker.sandbox.process import SandboxProcess
from panels_worker.settings import SandboxConfig
from panels_worker.status import Exit

#: How the pool's log shows what an attack prints; ``backdoor`` looks for it.
MARK = "backdoor: "
ENDED = "the attack has ended"


@dataclass
class Captive:
    """What the attacker holds: all of the process.

    ``jobs`` and ``beats`` are its two sockets, ``config`` all that the pool told it (the ticket and the key
    of artifacts included).
    """

    process: SandboxProcess
    config: SandboxConfig
    jobs: zmq.Socket[bytes]
    beats: zmq.Socket[bytes]

    def say(self, socket: zmq.Socket[bytes], *messages: ToGateway) -> None:
        """Sends messages in one frame; without a connection it raises ``zmq.Again``."""
        socket.send(encode(messages), zmq.NOBLOCK)

    def hear(self, socket: zmq.Socket[bytes], seconds: float) -> list[ToWorker]:
        """All that comes within ``seconds``."""
        heard: list[ToWorker] = []
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if socket.poll(int(left_s * 1_000) + 1):
                heard += decode_to_worker(socket.recv())
        return heard

    def attempt(self, what: str, act: Callable[[], object]) -> None:
        """Prints what became of ``act``: its result, or the error that it raised."""
        try:
            outcome = repr(act())
        except Exception as exc:
            outcome = f"{type(exc).__name__} {getattr(exc, 'errno', None)}"
        tell(f"{what}: {outcome}")


def tell(text: object) -> None:
    """Prints a line that ends up in the pool's log."""
    os.write(2, f"WARNING {MARK}{str(text)[:2_000]}\n".encode())


def main(attack_file: Path) -> None:
    """Runs the sandbox with ``attack_file`` in it."""
    script: dict[str, Any] = {"print": tell}
    exec(compile(attack_file.read_bytes(), attack_file.name, "exec"), script)
    sockets: list[zmq.Socket[bytes]] = []
    captives: list[tuple[SandboxProcess, SandboxConfig]] = []
    connect, boot, serve = link.connect, process.boot, Loop.serve

    def connect_and_keep(*arguments: Any) -> zmq.Socket[bytes]:
        sockets.append(connect(*arguments))
        return sockets[-1]

    def boot_and_keep(config: SandboxConfig, report_fd: int) -> SandboxProcess:
        captives.append((boot(config, report_fd), config))
        return captives[0][0]

    def attack_and_serve(loop: Loop) -> Exit:
        booted, config = captives[0]
        loop._converse(time.monotonic())
        # the second thread leaves its socket alone from now on: sockets belong to one thread
        booted.shared.beating = False
        time.sleep(0.2)
        jobs, beats = sockets
        try:
            end = script["attack"](Captive(booted, config, jobs, beats))
        except Exception as exc:
            tell(f"the attack raised {type(exc).__name__}: {exc}")
            end = None
        tell(ENDED)
        return end if isinstance(end, Exit) else serve(loop)

    for owner, name, replacement in (
        (link, "connect", connect_and_keep),
        (process, "boot", boot_and_keep),
        (Loop, "serve", attack_and_serve),
    ):
        setattr(owner, name, replacement)
    process.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
