"""The command ``panels-gateway``: serves, unless the first argument is one of ``panels_gateway.commands``.

Processes
    Two: the gateway, and the folding process that it starts and watches, which makes of the log what can be
    read at random (``panels_gateway.journal``). Workers are other processes (``panels-worker``) that connect
    to ``--workers-endpoint``; the gateway starts none of them and runs no handler. A lock in the data
    directory keeps a second gateway from taking over its endpoint.

Threads
    One does everything: sockets of clients by uvicorn, frames of workers by the broker, both on one uvloop.
    ZeroMQ has an I/O thread of its own. Nothing blocks the loop; what could take long (compiling, running) is
    a worker's.

Heartbeat
    Workers beat every half second and count as lost after four missed beats (``panels_shared.liveness``).
    WebSocket clients are pinged every ``--ping-interval-s`` and cut when no pong comes within
    ``--ping-timeout-s``. ``/health`` answers 200
    once a job can be run.

Timeouts
    A request's head and a WebSocket's handshake ``--header-timeout-s``; a WebSocket message, a request's body
    and the taking of its answer ``--body-timeout-s``; an idle keep-alive connection 5 s; a job its tool's
    ``timeoutMs`` in the worker and that plus a grace here; a closing handshake 5 s.

Shutdown
    SIGTERM and SIGINT set a flag; a second one hurries. Then, in this order and within
    ``--shutdown-grace-s``: stop accepting sockets; refuse new triggers; answer those that no worker can run;
    wait for the answers to the others, and answer those UNAVAILABLE that are left; close WebSockets with
    1012; let HTTP answers finish; stop the broker; close the journal; exit 0.
    SIGHUP reads the key files and the configuration again (``reloading``). Exit codes: 78 for a configuration
    that cannot work, 69 when an address or the data directory is in use, 65 for a data directory that cannot
    be read, 74 when the disk fails, 1 for a defect.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec
import uvloop

from panels_gateway import folders
from panels_gateway.access.keys import load_keyring
from panels_gateway.access.tokens import TokenRules, TokenVerifier
from panels_gateway.activation import inherited_listener
from panels_gateway.app import (
    GatewayApp,
    breaker_limits,
    create_app,
    definition_limits,
    quota_limits,
    state_limits,
)
from panels_gateway.bus.admission import Admission
from panels_gateway.bus.broker import Broker, BrokerError
from panels_gateway.bus.curve import load_curve_keys
from panels_gateway.bus.keyfile import load_bus_key
from panels_gateway.commands.exits import EXIT_IO, UnavailableError, end
from panels_gateway.configuration.config import AuthConfig, GatewayConfig, load
from panels_gateway.dispatch.compile_queue import CompileLimits
from panels_gateway.dispatch.dispatcher import Dispatcher, DispatchLimits
from panels_gateway.extensions import config as extensions
from panels_gateway.extensions.client import ExtensionClient
from panels_gateway.extensions.errors import ExtensionConfigError
from panels_gateway.journal.journal import Journal, JournalError
from panels_gateway.journal.opening import load_seal_key, open_journal
from panels_gateway.kernel.kernel import Kernel, KernelLimits
from panels_gateway.kernel.residents import ResidentLimits
from panels_gateway.kernel.suspensions import SuspensionLimits
from panels_gateway.notifier import Notifier
from panels_gateway.observe.counters import BrokerCounters
from panels_gateway.observe.logs import configure_logging
from panels_gateway.observe.stages import Stages
from panels_gateway.observe.tracing import Tracing
from panels_gateway.panels.answers import AnswerLimits
from panels_gateway.reloading import Reloader
from panels_gateway.server import BACKLOG, AdminServer, GatewayServer, admin_config, server_config
from panels_shared.endpoint import CurveKeys
from panels_shared.errors import ConfigError
from panels_shared.notices import READY, STOPPING, Notices

if TYPE_CHECKING:
    from panels_gateway.observe.otel import OtelExport

_log = logging.getLogger("panels.gateway")

#: How long a thread may have the interpreter while another wants it, in seconds.
SWITCH_INTERVAL_S: Final = 0.001


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the gateway until it is told to stop, or the command that is named; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # what is written holds everybody's state: the record is its owner's alone, and so is a backup, even an
    # unfinished one
    os.umask(0o077)
    if arguments and not arguments[0].startswith("-"):
        from panels_gateway.commands.dispatch import run

        return run(arguments, os.environ, directory=Path.cwd())
    try:
        notifier = Notifier(Notices.take(os.environ, pid=os.getpid()))
        read = partial(load, arguments, dict(os.environ), directory=Path.cwd())
        config = read()
        configure_logging(config.log_level, config.log_format)
        for warning in config.warnings:
            _log.warning("%s", warning)
        verifier, curve = _make_verifier(config.auth), load_curve_keys(config.workers)
        inherited = inherited_listener(os.environ, pid=os.getpid())
        if inherited is not None:
            # what follows from the address (own hosts and origins, warnings) has to follow from the real one
            listen = replace(config.listen, host=inherited.getsockname()[0])
            config = replace(config, listen=listen)
            _log.info("the service manager hands over a socket; --host and --port do not count")
        listen = config.listen
        with (
            _locked(config.data_dir),
            inherited or _listening(listen.host, listen.port) as listener,
            _listening(*listen.admin, option="admin-listen")
            if listen.admin
            else contextlib.nullcontext() as admin,
        ):
            # a thread that reads the store must not have the interpreter for 5 ms, the default, while the
            # loop has something to do
            sys.setswitchinterval(SWITCH_INTERVAL_S)
            uvloop.run(_serve(config, verifier, curve, listener, admin, notifier, read))
    except (ConfigError, UnavailableError, JournalError) as exc:
        return end(exc)
    return 0


async def _serve(
    config: GatewayConfig,
    verifier: TokenVerifier | None,
    curve: CurveKeys | None,
    listener: socket.socket,
    admin: socket.socket | None,
    notifier: Notifier,
    read_again: Callable[[], GatewayConfig],
) -> None:
    journal = await open_journal(config.data_dir, config.record, _tell_folding)
    try:
        await _serve_from(journal, config, verifier, curve, listener, admin, notifier, read_again)
    finally:
        await journal.close()
    _log.info("stopped")


async def _serve_from(
    journal: Journal,
    config: GatewayConfig,
    verifier: TokenVerifier | None,
    curve: CurveKeys | None,
    listener: socket.socket,
    admin: socket.socket | None,
    notifier: Notifier,
    read_again: Callable[[], GatewayConfig],
) -> None:
    dispatcher = Dispatcher(
        DispatchLimits(
            queue_per_panel=config.queue.per_panel,
            queue_total=config.queue.total,
            queue_bytes=config.queue.total_bytes,
            queue_timeout_s=config.queue.timeout_s,
            compile=CompileLimits(
                seconds=config.queue.compile_seconds, window_s=config.queue.compile_window_s
            ),
        )
    )
    kernel = Kernel(
        dispatcher,
        journal,
        KernelLimits(
            panels=config.panels.count,
            backlog_bytes=config.record.backlog_bytes,
            sending_bytes=config.client.sending_bytes,
            residents=ResidentLimits(
                bytes=config.record.resident_bytes,
                state=state_limits(config.panels),
                answers=AnswerLimits(keys=config.record.answer_keys, ttl_ms=config.record.answer_ttl_ms),
            ),
            suspensions=SuspensionLimits(
                per_panel=config.waiting.per_panel,
                total=config.waiting.total,
                bytes_per_panel=config.waiting.bytes_per_panel,
                total_bytes=config.waiting.total_bytes,
                lifetime_ms=config.waiting.lifetime_ms,
            ),
            quotas=quota_limits(config.quotas),
            breakers=breaker_limits(config.breakers),
        ),
        stages=Stages(config.stage_sampling),
        seal_key=None if config.record.durability == "none" else load_seal_key(config.data_dir),
    )
    export = _make_export(config)
    if export is not None:
        assert config.trace_ratio is not None
        kernel.trace(Tracing(export, ratio=config.trace_ratio, random_bits=random.getrandbits))
    await kernel.revoking.restore()
    where = config.waiting.folders
    panel_folders = [] if where is None else folders.read(where, definition_limits(config.panels))
    admission = Admission(load_bus_key(config.workers), BrokerCounters())
    broker = Broker(config.workers.endpoint, dispatcher, kernel, admission=admission, curve=curve)
    kernel.turn.request_seal = broker.request_flush
    kernel.on_failure = _die
    host, port = listener.getsockname()[:2]
    app = create_app(
        kernel,
        config,
        verifier,
        bus=broker.counters,
        port=port,
        pools=admission.pools,
        reports=broker.reports,
    )
    server = GatewayServer(
        server_config(app, config.listen, app.refusals.count),
        kernel,
        grace_s=config.listen.shutdown_grace_s,
        on_started=lambda: notifier.say(READY),
    )
    loop = asyncio.get_running_loop()

    reloader = Reloader(config, read_again, app, verifier)

    def stop() -> None:
        notifier.say(STOPPING)
        server.stop()

    def reload() -> None:
        with notifier.reloading(time.monotonic()):
            reloader.reload()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await broker.start()
    except BrokerError as exc:
        raise UnavailableError(f"workers-endpoint: {exc}") from None
    # what start-up made lives as long as the process: the collector need not look at it again
    gc.collect()
    gc.freeze()
    shown = f"[{host}]" if ":" in host else host
    _log.info("listening on http://%s:%d; workers connect to %s", shown, port, config.workers.endpoint)
    if admin is not None:
        _log.info("serving /metrics and /health at %s port %d", *admin.getsockname()[:2])
    if verifier is None:
        _log.warning("authentication is off: whoever reaches this address may do everything")
        if not config.listen.is_local:
            _log.warning(
                "authentication is off and %s is not an address of this machine alone: others can reach it; "
                "listen on 127.0.0.1, or give a key",
                config.listen.host,
            )
    try:
        async with _extensions(config, kernel), _administering(app, config, admin), notifier.watched():
            found = asyncio.create_task(kernel.suspensions.find_all())
            loading = asyncio.create_task(folders.load(panel_folders, kernel))
            await server.serve(sockets=[listener])
            found.cancel()
            loading.cancel()
    finally:
        await broker.stop()
        if export is not None:
            await asyncio.to_thread(export.close)


def _make_export(config: GatewayConfig) -> OtelExport | None:
    """What takes spans away; None where nothing is traced."""
    if config.trace_ratio is None:
        return None
    try:
        from panels_gateway.observe.otel import OtelExport
    except ImportError as exc:
        raise ConfigError(f"traces: expected OpenTelemetry, got {exc}; install panels-kernel[otel]") from None
    return OtelExport(time.monotonic)


def _administering(
    app: GatewayApp, config: GatewayConfig, listener: socket.socket | None
) -> contextlib.AbstractAsyncContextManager[None]:
    """The port of administrators, where there is one: it answers until the clients' port has closed."""
    if listener is None:
        return contextlib.nullcontext()
    return AdminServer(admin_config(app.admin, config.listen)).serving(listener)


@contextlib.asynccontextmanager
async def _extensions(config: GatewayConfig, kernel: Kernel) -> AsyncGenerator[None, None]:
    """The extension process, where one is configured. Calls of handlers that waited when the last gateway
    ended are made behind this."""
    path = config.waiting.extensions
    if path is None:
        yield
        return
    try:
        loaded = extensions.load(path)
        hidden = [*loaded.hidden, *map(str, _secret_paths(config))]
        loaded = msgspec.structs.replace(loaded, hidden=hidden)
        client = ExtensionClient(loaded, kernel.calls.extension_returned)
        await client.start()
    except ExtensionConfigError as exc:
        raise ConfigError(f"extensions: {exc}") from None
    kernel.calls.client = client
    try:
        yield
    finally:
        await client.stop()


def _secret_paths(config: GatewayConfig) -> list[Path]:
    """What the extension process must never read: the data directory, and every file with a key in it."""
    files = (
        config.auth.secret_file,
        config.auth.jwks_file,
        config.workers.bus_key_file,
        config.workers.curve_secret_key_file,
        config.workers.curve_worker_keys_file,
        config.waiting.extensions,
    )
    return [path.resolve() for path in (config.data_dir, *files) if path is not None]


def _tell_folding(done: int, total: int) -> None:
    _log.info("reading the log: %d of %d batches", done, total)


def _die(error: JournalError) -> None:
    """The record cannot be kept any more. Nothing that is not in it may leave, so the process ends here and
    now.
    """
    _log.critical("the journal failed, and the gateway ends: %s", error)
    logging.shutdown()
    os._exit(EXIT_IO)


def _make_verifier(auth: AuthConfig) -> TokenVerifier | None:
    if not auth.enabled:
        return None
    rules = TokenRules(
        audience=auth.audience,
        issuer=auth.issuer,
        max_lifetime_s=auth.max_lifetime_s,
        scope_claims=auth.scope_claims,
    )
    keyring = load_keyring(auth.secret_file, auth.jwks_file, auth.algorithms)
    return TokenVerifier(keyring, rules, clock=time.time)


@contextlib.contextmanager
def _locked(data_dir: Path) -> Generator[IO[str], None, None]:
    """The data directory, made if missing, for this process alone."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (data_dir / "gateway.lock").open("w")
    except OSError as exc:
        raise ConfigError(
            f"data-dir: expected a directory to write to at {data_dir}, got: {exc.strerror}"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UnavailableError(
                f"data-dir: {data_dir} is in use by another gateway; give another --data-dir"
            ) from None
        yield lock


@contextlib.contextmanager
def _listening(host: str, port: int, *, option: str = "host") -> Generator[socket.socket, None, None]:
    """A socket that listens: from here on clients wait for the server, and are not refused."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise ConfigError(
            f"{option}: expected an address of this machine, got {host!r}: {exc.strerror}"
        ) from None
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as exc:
            raise UnavailableError(
                f"cannot listen on {host} port {port}: {exc.strerror}; give another --"
                f"{'port' if option == 'host' else option}, or stop what uses it"
            ) from None
        yield listener


if __name__ == "__main__":
    sys.exit(main())
