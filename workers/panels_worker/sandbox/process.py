"""A sandbox process: runs the jobs of one routing id until it is drained, killed, or no longer useful.

Processes
    Started by the pool by command line, with an empty environment. Its configuration comes on standard input;
    reports (``status``) go out on standard output, log lines on standard error, both pipes that the pool
    reads. It dies with the pool (PR_SET_PDEATHSIG).
Threads
    The first reads, runs and sends (``loop``). The second keeps time (``ticker``). ZeroMQ has two of its own.
Confinement
    In two steps (``confinement``): what must come before threads exist, and, once both sockets are connected
    and before anything is read from the gateway, the rest. Then it says Hello, with what it is confined by.
    From then on it can open no connection; when the gateway goes, it ends and its successor waits.
Identity
    The pool gives it a routing id and a ticket for it, which is all that it can prove (``buskey``). It has no
    bus key. The ticket stays in its memory, because Hello is said again after a silence; it admits nobody but
    the socket that is connected under that routing id.
Heartbeat
    From the ticker's own socket, so that a long job does not silence it. Job deadlines are the gateway's
    business.
Timeouts
    A guest ends by fuel or by the engine's epoch. The pool kills a process that hangs beyond both.
Shutdown
    SIGTERM or the gateway's Drain: say Goodbye, finish what was sent, say so, exit 0. Any other exit code is
    in ``status.Exit``. Nothing needs to be saved: the gateway runs what was not answered again elsewhere.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import zmq

from panels_shared.buskey import beat_id
from panels_shared.loglines import LineEncoder
from panels_shared.messages import MAX_LAYERS, MAX_REASON_CHARS, Hello
from panels_worker.artifacts import ArtifactStore
from panels_worker.bus import link
from panels_worker.bus.peer import Peer
from panels_worker.confinement.confinement import Confinement, ConfinementError
from panels_worker.guest.capi import epoch_of
from panels_worker.javascript.engines import carried, engine_digest
from panels_worker.sandbox.loader import ArtifactLoader
from panels_worker.sandbox.loop import Loop
from panels_worker.sandbox.replica import Replicas
from panels_worker.sandbox.reruns import RerunLoader
from panels_worker.sandbox.sandbox import Sandbox
from panels_worker.sandbox.spin import Spin
from panels_worker.sandbox.ticker import Shared, Ticker
from panels_worker.settings import SandboxConfig
from panels_worker.status import Exit, State
from panels_worker.title import open_title
from panels_worker.versions import versions

logger = logging.getLogger("panels.worker.sandbox")

#: The most bytes of a configuration.
MAX_CONFIG_BYTES: Final = 65_536
#: How long the second socket may take to connect after the first one has, in seconds.
CONNECT_S: Final = 3.0


@dataclass(slots=True)
class SandboxProcess:
    """The parts of a process that has booted."""

    confinement: Confinement
    context: zmq.Context[zmq.Socket[bytes]]
    socket: zmq.Socket[bytes]
    watch: zmq.Socket[bytes]
    loop: Loop
    ticker: Ticker
    shared: Shared


def main() -> NoReturn:
    """Reads its configuration from standard input and runs until it is no longer useful."""
    report_fd = os.dup(1)
    os.dup2(2, 1)  # nothing that is printed may end up among the reports
    os.set_blocking(report_fd, False)
    config = msgspec.msgpack.decode(sys.stdin.buffer.read(MAX_CONFIG_BYTES), type=SandboxConfig)
    _configure_logging(config)
    code = Exit.BOOT
    try:
        process = boot(config, report_fd)
        code = Exit.DEFECT
        code = run(process)
    except ConfinementError as exc:
        logger.error("%s", exc)
        code = Exit.BOOT
    except Exception:
        logger.exception("the sandbox failed")
    sys.stderr.flush()
    # no finalizers run: they would make system calls that are denied by now, and there is nothing to save
    os._exit(code)


def _configure_logging(config: SandboxConfig) -> None:
    """Logs to the pool, which has the format and the levels of single loggers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineEncoder())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.partition(",")[0].upper())


def boot(config: SandboxConfig, report_fd: int) -> SandboxProcess:
    """Makes everything, and starts the ticker; reports go to ``report_fd``.

    Raises ``ConfinementError`` where confinement is to be strict and cannot be.
    """
    confinement = Confinement(config)
    confinement.follow_parent()
    os.nice(config.nice)
    comm_fd = open_title()
    # from here on the store is what this process stands in: it may not be allowed to walk there later
    os.chdir(config.cache_dir)
    loader = ArtifactLoader(ArtifactStore.open(Path("."), config.artifact_key))
    for build in carried():
        engine_digest(build)  # it is remembered; what it is made of cannot be read later
    made_of = versions()  # which are read from files
    statm_fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    confinement.before_threads()

    sandbox = Sandbox(
        RerunLoader(loader) if config.verify_replay else loader,
        replicas=Replicas(max_bytes=config.replica_bytes),
        max_programs=config.max_programs,
    )
    shared = Shared()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
    socket = link.connect(context, config.endpoint, config.worker, config.curve)
    watch = link.watch(socket)

    def hello() -> Hello:
        return Hello(
            role="sandbox",
            pool=config.pool,
            pid=os.getpid(),
            versions=made_of,
            credential=config.ticket,
            active=tuple(confinement.active[:MAX_LAYERS]),
            missing=tuple(layer[:MAX_REASON_CHARS] for layer in confinement.missing[:MAX_LAYERS]),
        )

    ticker = Ticker(
        tick=epoch_of(loader.engine),
        connect=lambda: link.connect(context, config.endpoint, beat_id(config.worker), config.curve),
        worker=config.worker,
        sandbox=sandbox,
        shared=shared,
        report_fd=report_fd,
        statm_fd=statm_fd,
        comm_fd=comm_fd,
    )
    loop = Loop(
        socket,
        watch=watch,
        peer=Peer(hello, now_s=time.monotonic()),
        sandbox=sandbox,
        spin=Spin(config.spin_us),
        shared=shared,
        wakeup_fd=_signals_wake(),
        can_reconnect=True,
    )

    def terminate(*_: object) -> None:
        loop.terminating = True

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ticker.start()
    return SandboxProcess(confinement, context, socket, watch, loop, ticker, shared)


def run(process: SandboxProcess) -> Exit:
    """Waits for the gateway, confines itself, serves; returns why it ended. Raises ``ConfinementError``."""
    loop, shared = process.loop, process.shared
    code = loop.connect()
    if code is None and not _connected(shared):
        logger.warning("no second connection to the gateway within %g s", CONNECT_S)
        return Exit.LOST
    if code is None:
        loop.can_reconnect = not process.confinement.before_guests()
        if process.confinement.missing:
            logger.warning("confinement is not complete: %s", process.confinement.summary())
        code = loop.join()
    if code is None:
        logger.info("ready; confined by %s", process.confinement.summary())
        # what is alive now stays alive, so no collection needs to look at it again
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        shared.state = State.READY
        code = loop.serve()
    logger.info("leaving: %s", code.name)
    process.ticker.close()
    link.close(process.socket, process.context, process.watch)
    return code


def _signals_wake() -> int:
    """A descriptor that becomes readable with every signal."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd


def _connected(shared: Shared) -> bool:
    """Whether the ticker's socket has its connection, which it cannot make any more when confined."""
    until_s = time.monotonic() + CONNECT_S
    while not shared.connected and time.monotonic() < until_s:
        time.sleep(0.005)
    return shared.connected


if __name__ == "__main__":
    main()
