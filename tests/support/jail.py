"""A process that confines itself as a sandbox does and then does what its argument says: a guest that broke
out.

``python -m tests.support.jail CACHE_DIR PYTHON main|thread``: prints what the expression is worth, or its
error. It has the threads of a real sandbox; ``thread`` evaluates in one that is older than the second
half of the confinement.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import socket
import sys
import threading

import zmq

from panels_worker.confinement.confinement import Confinement
from panels_worker.confinement.seccomp import build_filter
from panels_worker.settings import SandboxConfig


def config(cache_dir: str, *, mode: str = "strict") -> SandboxConfig:
    root = os.geteuid() == 0
    return SandboxConfig(
        endpoint="ipc:///nowhere",
        worker=b"w" * 16,
        pool=b"p" * 16,
        ticket=b"t" * 32,
        parent_pid=os.getppid(),
        cache_dir=cache_dir,
        artifact_key=b"k" * 32,
        curve=None,
        confinement="off" if mode == "off" else "auto" if mode == "auto" else "strict",
        seccomp_filter=build_filter(),
        uid=65534 if root else -1,
        gid=65534 if root else -1,
        spin_us=0,
        replica_bytes=1 << 20,
        max_programs=1,
        data_bytes=512 << 20,
        nice=0,
        log_level="info",
    )


class Libc:
    """System calls without the wrappers that would get in their way."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __call__(self, number: int, *arguments: object) -> int:
        result = int(self._libc.syscall(number, *arguments))
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result


def evaluate(expression: str, scope: dict[str, object]) -> None:
    try:
        value = eval(expression, scope)
    except BaseException as exc:
        value = f"{type(exc).__name__}: {exc}"
    os.write(1, f"{value}\n".encode())


def main() -> None:
    cache_dir, expression, where = sys.argv[1:4]
    confinement = Confinement(config(cache_dir))
    os.chdir(cache_dir)
    libc = Libc()
    scope: dict[str, object] = {
        "os": os, "socket": socket, "mmap": mmap, "resource": resource, "threading": threading,
        "syscall": libc, "parent": os.getppid(), "ctypes": ctypes, "nothing": lambda: None,
    }  # fmt: skip
    confinement.before_threads()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    context.socket(zmq.DEALER).connect("ipc:///nowhere")
    go = threading.Event()

    def evaluate_when_told() -> None:
        go.wait()
        evaluate(expression, scope)

    thread = threading.Thread(target=evaluate_when_told, daemon=True)
    thread.start()
    confinement.before_guests()
    print("confined by", confinement.summary(), flush=True)
    if where == "thread":
        go.set()
        thread.join()
    else:
        evaluate(expression, scope)
    os._exit(0)


if __name__ == "__main__":
    main()
