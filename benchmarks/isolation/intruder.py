"""What a sandbox process does that was taken over: tries each of ``SNIPPETS``, in order.

``captive`` gives the text of this file, and what stands in place of its constants, to
``tests.support.backdoor``. A line of JSON says what is tried (``[name]``), and another what came of it
(``[name, outcome, milliseconds]``), so that it shows in which snippet a process was killed.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import zmq

from panels_shared import messages, outcome, wire

if TYPE_CHECKING:
    from tests.support.backdoored_sandbox import Captive

#: (name, source), and an artifact's file within the cache.
SNIPPETS: list[tuple[str, str]] = []
ARTIFACT: str = ""

#: How much of what a snippet got is told.
_TOLD_CHARS: Final = 300
#: How long a job is waited for, what follows on an attack, and between two heartbeats, in seconds.
_JOB_S: Final = 20.0
_ANSWER_S: Final = 1.5
_BEAT_S: Final = 0.1
#: Messages that give nothing: the process is known, is to end, or has lost the panel that was made for it.
_WORTHLESS: Final = (messages.Welcome, messages.Drain, messages.Forget)
# what a process that was confined may no longer load
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: object) -> int:
    """A system call without the wrappers that would get in its way. Raises ``OSError``."""
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Bus:
    """The process's two connections, as snippets use them."""

    def __init__(self, captive: Captive) -> None:
        self._captive = captive

    def given(self) -> list[str]:
        """The kinds of messages that come within a while, on either connection; [] for nothing of worth."""
        heard = [
            each
            for socket in (self._captive.jobs, self._captive.beats)
            for each in self._captive.hear(socket, _ANSWER_S)
        ]
        return sorted({type(each).__name__ for each in heard if not isinstance(each, _WORTHLESS)})

    def say(self, socket: zmq.Socket[bytes], *said: messages.ToGateway) -> list[str]:
        """Says it, and hears what is given for it; then says Hello once more, as it did at first."""
        captive = self._captive
        captive.say(socket, *said)
        given = self.given()
        config = captive.config
        captive.say(captive.jobs, messages.Hello("sandbox", config.pool, os.getpid(), {}, config.ticket))
        return given + self.given()

    def send(self, frame: bytes) -> list[str]:
        """Sends bytes where jobs come from, and hears what is given for them."""
        self._captive.jobs.send(frame)
        return self.given()

    def job(self) -> messages.Job:
        """The first job that this process is given, which has to beat until then as others do."""
        captive, until_s = self._captive, time.monotonic() + _JOB_S
        while time.monotonic() < until_s:
            captive.say(captive.beats, messages.Heartbeat(captive.config.worker, 1))
            for message in captive.hear(captive.jobs, _BEAT_S):
                if isinstance(message, messages.Job):
                    return message
        raise RuntimeError("no job came")


def completed(job: int, count: int) -> messages.Result:
    """A result that makes the panel's count ``count``."""
    mutations = json.dumps([{"op": "set", "key": "count", "value": count}]).encode()
    return messages.Result(job, outcome.Completed(outcome.Usage(), b"%d" % count, mutations))


def attack(captive: Captive) -> None:
    """Called once the process is confined and welcomed."""
    endpoint = captive.config.endpoint.removeprefix("ipc://")
    scope: dict[str, object] = {
        "os": os, "socket": socket, "mmap": mmap, "resource": resource, "threading": threading,
        "ctypes": ctypes, "time": time, "zmq": zmq, "m": messages, "wire": wire, "syscall": syscall,
        "parent": os.getppid(), "nothing": lambda: None, "artifact": ARTIFACT, "bus_key": endpoint + ".key",
        "captive": captive, "config": captive.config, "bus": Bus(captive), "completed": completed,
    }  # fmt: skip
    for name, source in SNIPPETS:
        began_s = time.monotonic()
        _tell([name])
        found = {**scope, "got": None}
        try:
            exec(source, found)
            text = str(found["got"])
        except BaseException as exc:  # noqa: BLE001 - whatever comes is what is told
            text = f"{type(exc).__name__}: {exc}"
        _tell([name, text[:_TOLD_CHARS], (time.monotonic() - began_s) * 1e3])


def _tell(what: list[object], tell: Callable[[str], object] = print) -> None:
    tell(json.dumps(what))
