"""The gateway's configuration: what was asked for, as value objects that hold only what is valid.

``options`` has the table of all options and ``panels_shared.options`` their precedence. Whatever is wrong is
one ``ConfigError``, which ``__main__`` prints as one line before it exits with 78.

This is the gateway's lowest room. It knows none of the others: ``app`` turns these values into their limits.
"""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from panels_gateway.configuration.options import TABLE
from panels_shared.buskey import BUS_KEY_HINT
from panels_shared.endpoint import is_tcp, listens_everywhere, parse_endpoint
from panels_shared.errors import ConfigError
from panels_shared.limits import Limits
from panels_shared.options import MAX_CONFIG_FILE_BYTES, Values
from panels_shared.rate import RateLimit

#: BSD's EX_CONFIG: a supervisor should not start this again before somebody changed something.
EXIT_CONFIG: Final = 78

#: Claims that handlers are shown, and the characters of their names; security limits.
MAX_SCOPE_CLAIMS: Final = 16
MAX_CLAIM_CHARS: Final = 64
#: What handlers find in their scope anyway.
OWN_SCOPE: Final = ("sub", "panelId", "requestId", "clientId", "presence")

_HOST_PATTERN: Final = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253}")
_ORIGIN_PATTERN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """Where clients come in. ``allowed_origins`` None: only the gateway's own; ``("*",)``: any. ``admin`` is
    the address and port that /metrics has for itself, None for none. Times in seconds.

    ``allowed_hosts`` None: any with authentication, the gateway's own without.
    """

    host: str
    port: int
    admin: tuple[str, int] | None
    public_url: str | None
    allowed_hosts: tuple[str, ...] | None
    allowed_origins: tuple[str, ...] | None
    header_timeout_s: float
    body_timeout_s: float
    ping_interval_s: float
    ping_timeout_s: float
    shutdown_grace_s: float
    max_connections: int
    max_connections_per_subject: int
    max_connections_per_address: int
    trusted_proxies: tuple[str, ...]
    upgrade_rate: RateLimit
    auth_failure_rate: RateLimit
    max_frame_bytes: int

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach ``host``."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """Where workers come in. The CURVE key files are both set or both None, and set for tcp.

    ``bus_key_file`` is set for tcp; None means the file beside the socket.
    """

    endpoint: str
    curve_secret_key_file: Path | None
    curve_worker_keys_file: Path | None
    bus_key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """How clients are known. Unless ``enabled`` everybody may do everything."""

    enabled: bool
    secret_file: Path | None
    jwks_file: Path | None
    algorithms: tuple[str, ...]
    audience: str | None
    issuer: str | None
    max_lifetime_s: float
    scope_claims: tuple[str, ...]
    conceal_panels: bool
    token_warning_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Bounds of one WebSocket: unanswered triggers, those of them in the panel's queue, their rate and that
    of other messages, and what may wait to be sent before PATCHes are merged (soft) and before it is closed
    (hard); and what large states and answers of all clients may take together.
    """

    in_flight: int
    admitted: int
    rate: RateLimit
    messages: RateLimit
    send_soft_bytes: int
    send_hard_bytes: int
    sending_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelsConfig:
    """Bounds of panels: how many, their definitions and their state. ``maxima`` is how far a tool may raise
    its limits.
    """

    count: int
    body_bytes: int
    tools: int
    state_bytes: int
    state_keys: int
    maxima: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Triggers that may wait: for one panel, in all, the bytes of their arguments in all, and how long, in
    seconds. ``compile_seconds`` of CPU are each subject's in ``compile_window_s``.
    """

    per_panel: int
    total: int
    total_bytes: int
    timeout_s: float
    compile_seconds: float
    compile_window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotasConfig:
    """Fuel and milliseconds of execution in a window, for each subject, panel and tool; 0 sets no quota."""

    window_s: float
    subject_fuel: int
    subject_ms: int
    panel_fuel: int
    panel_ms: int
    tool_fuel: int
    tool_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """After how many failures in a row a tool is suspended (0: never), and for how long, in seconds."""

    failures: int
    backoff_s: float
    max_backoff_s: float


Durability = Literal["process", "power", "none"]
_DURABILITIES: Final[Mapping[str, Durability]] = {"process": "process", "power": "power", "none": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordConfig:
    """What is kept of panels, for how long, and how safely. Times in milliseconds; ``resident_bytes`` of
    state in memory, ``backlog_bytes`` of the log that may wait to be folded."""

    durability: Durability
    history_commits: int
    history_bytes: int
    history_ttl_ms: int
    answer_ttl_ms: int
    answer_keys: int
    resident_bytes: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingConfig:
    """What handlers may call (None: no more than the kernel itself offers), how many may wait, with how many
    bytes, and for how long; and where the panel folders are that are loaded at start, None for none.
    """

    extensions: Path | None
    folders: Path | None
    per_panel: int
    total: int
    bytes_per_panel: int
    total_bytes: int
    lifetime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All of it. ``warnings`` are sentences for the log, which is not set up before this has been read."""

    listen: ListenConfig
    workers: WorkersConfig
    auth: AuthConfig
    data_dir: Path
    log_level: str
    log_format: str
    access_log: bool
    stage_sampling: int
    #: of triggers without a traceparent, how many are traced; None: nothing is
    trace_ratio: float | None
    client: ClientConfig
    panels: PanelsConfig
    waiting: WaitingConfig
    record: RecordConfig
    queue: QueueConfig
    quotas: QuotasConfig
    breakers: BreakerConfig
    warnings: tuple[str, ...] = ()
    #: What it was made of, to compare it with another; None where it was made by hand.
    values: Values | None = None


def load(arguments: Sequence[str], environment: Mapping[str, str], *, directory: Path) -> GatewayConfig:
    """The configuration that the command line, the environment and the file give.

    ``directory`` is what relative paths of the first two are relative to; those in the file are relative to
    the file.
    Raises ``ConfigError``; ``SystemExit`` after --help and --version.
    """
    values = TABLE.read(arguments, environment, directory=directory, read_file=_read_file)
    return _build(values, directory, tuple(TABLE.unknown(environment)))


def load_data_dir(
    config: str | None, data_dir: str | None, environment: Mapping[str, str], *, directory: Path
) -> Path:
    """The data directory of a gateway with that ``--config`` and ``--data-dir``, environment and working
    directory.

    Raises ``ConfigError``.
    """
    given = (("config", config), ("data-dir", data_dir))
    flags = [f"--{name}={value}" for name, value in given if value is not None]
    values = TABLE.read(flags, environment, directory=directory, read_file=_read_file)
    return _data_dir(directory / values.get("data_dir", Path))


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_CONFIG_FILE_BYTES + 1)


def _build(values: Values, directory: Path, warnings: tuple[str, ...]) -> GatewayConfig:
    data_dir = _data_dir(directory / values.get("data_dir", Path))
    return GatewayConfig(
        listen=_listen(values),
        workers=_workers(values, data_dir),
        auth=_auth(values),
        data_dir=data_dir,
        log_level=values.get("log_level", str),
        log_format=values.get("log_format", str),
        access_log=values.get("access_log", bool),
        stage_sampling=values.get("stage_sampling", int),
        trace_ratio=values.get("trace_ratio", float) if values.get("traces", bool) else None,
        client=_client(values),
        panels=PanelsConfig(
            count=values.get("max_panels", int),
            body_bytes=values.get("max_body_bytes", int),
            tools=values.get("max_tools", int),
            state_bytes=values.get("max_state_bytes", int),
            state_keys=values.get("max_state_keys", int),
            maxima=_maxima(values),
        ),
        waiting=WaitingConfig(
            extensions=values.maybe("extensions", Path),
            folders=values.maybe("panels", Path),
            per_panel=values.get("max_suspensions_per_panel", int),
            total=values.get("max_suspensions", int),
            bytes_per_panel=values.get("max_suspension_bytes_per_panel", int),
            total_bytes=values.get("max_suspension_bytes", int),
            lifetime_ms=int(values.get("suspension_ttl", float) * 1_000),
        ),
        record=RecordConfig(
            durability=_DURABILITIES[values.get("durability", str)],
            history_commits=values.get("history_commits", int),
            history_bytes=values.get("history_bytes", int),
            history_ttl_ms=int(values.get("history_ttl", float) * 1_000),
            answer_ttl_ms=int(values.get("idempotency_ttl", float) * 1_000),
            answer_keys=values.get("idempotency_keys", int),
            resident_bytes=values.get("max_resident_bytes", int),
            backlog_bytes=values.get("max_backlog_bytes", int),
        ),
        queue=QueueConfig(
            per_panel=values.get("max_queue_per_panel", int),
            total=values.get("max_queue", int),
            total_bytes=values.get("max_queue_bytes", int),
            timeout_s=values.get("queue_timeout_s", float),
            compile_seconds=values.get("compile_seconds", float),
            compile_window_s=values.get("compile_window_s", float),
        ),
        quotas=QuotasConfig(
            window_s=values.get("quota_window_s", float),
            subject_fuel=values.get("quota_fuel_per_subject", int),
            subject_ms=values.get("quota_ms_per_subject", int),
            panel_fuel=values.get("quota_fuel_per_panel", int),
            panel_ms=values.get("quota_ms_per_panel", int),
            tool_fuel=values.get("quota_fuel_per_tool", int),
            tool_ms=values.get("quota_ms_per_tool", int),
        ),
        breakers=_breakers(values),
        warnings=warnings,
        values=values,
    )


def _breakers(values: Values) -> BreakerConfig:
    backoff_s = values.get("breaker_backoff_s", float)
    max_backoff_s = values.get("breaker_max_backoff_s", float)
    if backoff_s > max_backoff_s:
        raise ConfigError(
            f"breaker-backoff-s: expected at most breaker-max-backoff-s, {max_backoff_s:g}, got "
            f"{backoff_s:g} (from {values.source('breaker_backoff_s')}); lower it or raise the other"
        )
    return BreakerConfig(
        failures=values.get("breaker_failures", int), backoff_s=backoff_s, max_backoff_s=max_backoff_s
    )


def _client(values: Values) -> ClientConfig:
    soft_bytes = values.get("send_buffer_soft_bytes", int)
    hard_bytes = values.get("send_buffer_hard_bytes", int)
    if soft_bytes > hard_bytes:
        raise ConfigError(
            f"send-buffer-soft-bytes: expected at most send-buffer-hard-bytes, {hard_bytes}, got "
            f"{soft_bytes} (from {values.source('send_buffer_soft_bytes')}); lower it or raise the other"
        )
    return ClientConfig(
        in_flight=values.get("max_in_flight", int),
        admitted=values.get("max_admitted", int),
        rate=RateLimit(per_s=values.get("trigger_rate", float), burst=values.get("trigger_burst", int)),
        messages=_rate(values.get("message_rate", float), 2.0),
        send_soft_bytes=soft_bytes,
        send_hard_bytes=hard_bytes,
        sending_bytes=values.get("max_send_bytes", int),
    )


def _data_dir(path: Path) -> Path:
    if path.exists():
        if not path.is_dir():
            raise ConfigError(f"data-dir: expected a directory at {path}, got a file")
        if path.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"data-dir: expected a directory that not everybody can write to, got {path}; chmod 700"
            )
    return path


def _listen(values: Values) -> ListenConfig:
    public_url = values.maybe("public_url", str)
    if public_url is not None and _ORIGIN_PATTERN.fullmatch(public_url) is None:
        raise ConfigError(
            f"public-url: expected a URL like https://panels.example.org, got {public_url[:80]!r}"
        )
    origins = values.maybe("allowed_origins", tuple)
    for origin in origins or ():
        if origin != "*" and _ORIGIN_PATTERN.fullmatch(origin) is None:
            raise ConfigError(
                "allowed-origins: expected origins in lower case without a path, like "
                f"https://app.example.org, or *, got {origin[:80]!r}"
            )
    hosts = values.maybe("allowed_hosts", tuple)
    for host in hosts or ():
        if host != "*" and _HOST_PATTERN.fullmatch(host) is None:
            raise ConfigError(
                "allowed-hosts: expected names or addresses in lower case without a port, like "
                f"panels.example.org or [::1], or *, got {host[:80]!r}"
            )
    return ListenConfig(
        host=values.get("host", str),
        port=values.get("port", int),
        admin=_admin(values),
        public_url=public_url,
        allowed_hosts=hosts,
        allowed_origins=origins,
        header_timeout_s=values.get("header_timeout_s", float),
        body_timeout_s=values.get("body_timeout_s", float),
        ping_interval_s=values.get("ping_interval_s", float),
        ping_timeout_s=values.get("ping_timeout_s", float),
        shutdown_grace_s=values.get("shutdown_grace_s", float),
        max_connections=values.get("max_connections", int),
        max_connections_per_subject=values.get("max_connections_per_subject", int),
        max_connections_per_address=values.get("max_connections_per_address", int),
        trusted_proxies=_trusted_proxies(values),
        upgrade_rate=_rate(values.get("upgrade_rate", float)),
        auth_failure_rate=_rate(values.get("auth_failure_rate", float)),
        max_frame_bytes=values.get("max_frame_bytes", int),
    )


def _trusted_proxies(values: Values) -> tuple[str, ...]:
    networks = values.maybe("trusted_proxies", tuple) or ()
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as exc:
            raise ConfigError(
                "trusted-proxies: expected networks like 10.0.0.0/8 or addresses like 127.0.0.1, got "
                f"{network[:80]!r}: {exc}"[:300]
            ) from None
    return networks


def _rate(per_s: float, burst_s: float = 10.0) -> RateLimit:
    """A rate whose burst is what so many seconds bring."""
    return RateLimit(per_s=per_s, burst=max(1, round(burst_s * per_s)))


def _admin(values: Values) -> tuple[str, int] | None:
    given = values.maybe("admin_listen", str)
    if given is None:
        return None
    host, _, port = given.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65_535:
        raise ConfigError(
            f"admin-listen: expected an address and a port like 127.0.0.1:9001, got {given[:80]!r}"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _workers(values: Values, data_dir: Path) -> WorkersConfig:
    option = "workers-endpoint"
    given = values.maybe("workers_endpoint", str)
    endpoint = parse_endpoint(given or f"ipc://{data_dir / 'workers.sock'}", option=option, any_port=True)
    secret = values.maybe("curve_secret_key_file", Path)
    workers = values.maybe("curve_worker_keys_file", Path)
    if (secret is None) != (workers is None):
        raise ConfigError(
            "curve-secret-key-file: expected it together with curve-worker-keys-file, got only one; give "
            "both or neither"
        )
    if listens_everywhere(endpoint):
        raise ConfigError(f"{option}: expected the address of one interface, got {endpoint!r}")
    if is_tcp(endpoint) and secret is None:
        raise ConfigError(
            f"{option}: expected CURVE keys for tcp, got none; give --curve-secret-key-file and "
            "--curve-worker-keys-file, or an ipc:// endpoint"
        )
    bus_key = values.maybe("bus_key_file", Path)
    if is_tcp(endpoint) and bus_key is None:
        raise ConfigError(
            "bus-key-file: expected a file with the key that pools prove themselves with, got none; give the "
            f"same one to the gateway and to each panels-worker; {BUS_KEY_HINT}"
        )
    return WorkersConfig(
        endpoint=endpoint,
        bus_key_file=bus_key,
        curve_secret_key_file=secret,
        curve_worker_keys_file=workers,
    )


def _auth(values: Values) -> AuthConfig:
    secret, jwks = values.maybe("jwt_secret_file", Path), values.maybe("jwt_jwks_file", Path)
    off = values.get("no_auth", bool)
    if not off and secret is None and jwks is None:
        raise ConfigError(
            "expected a key to verify tokens with, got none; give --jwt-secret-file FILE (make one with: "
            "openssl rand -hex 32 > FILE) or --jwt-jwks-file FILE, or --no-auth to let "
            "everybody do everything"
        )
    if off and not (secret is None and jwks is None):
        raise ConfigError("no-auth: expected it without a key, got both; take one of them away")
    return AuthConfig(
        enabled=not off,
        secret_file=secret,
        jwks_file=jwks,
        algorithms=values.maybe("jwt_algorithms", tuple) or (),
        audience=values.maybe("jwt_audience", str),
        issuer=values.maybe("jwt_issuer", str),
        max_lifetime_s=values.get("jwt_max_lifetime_s", float),
        scope_claims=_scope_claims(values.maybe("scope_claims", tuple) or ()),
        conceal_panels=values.get("conceal_panels", bool),
        token_warning_s=values.get("token_warning_s", float),
    )


def _scope_claims(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > MAX_SCOPE_CLAIMS:
        raise ConfigError(f"scope-claims: expected at most {MAX_SCOPE_CLAIMS} names, got {len(names)}")
    for name in names:
        if not (1 <= len(name) <= MAX_CLAIM_CHARS and name.isprintable()):
            raise ConfigError(
                f"scope-claims: expected 1 to {MAX_CLAIM_CHARS} printable characters, got {name[:80]!r}"
            )
        if name in OWN_SCOPE:
            raise ConfigError(
                f"scope-claims: expected none of {', '.join(OWN_SCOPE)}, which handlers find in $scope "
                f"anyway, got {name}; take it away"
            )
    return tuple(dict.fromkeys(names))


def _maxima(values: Values) -> Limits:
    return Limits(
        fuel=values.get("max_fuel", int),
        deadline_ms=values.get("max_timeout_ms", int),
        memory_bytes=values.get("max_memory_bytes", int),
        host_calls=values.get("max_host_calls", int),
        output_bytes=values.get("max_output_bytes", int),
        events=values.get("max_events", int),
        log_bytes=values.get("max_log_bytes", int),
    )
