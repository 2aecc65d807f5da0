"""The gateway's configuration: what was asked for, as value objects that hold only what is valid.

Precedence: flag, then environment, then the file of ``--config`` (TOML), then default. ``options`` has the table of all
of them. Whatever is wrong is one ``ConfigError``, which ``__main__`` prints as one line before it exits with 78.
"""

from __future__ import annotations

import argparse
import difflib
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from panels_gateway.broadcast.outbox import OutboxLimits
from panels_gateway.clients.connection import ClientLimits
from panels_gateway.configuration.errors import ConfigError
from panels_gateway.configuration.options import BY_KEY, OPTIONS, Value
from panels_gateway.panels.definition import DefinitionLimits
from panels_gateway.panels.panel import StateLimits
from panels_gateway.rate import RateLimit
from panels_shared import __version__
from panels_shared.limits import MIB, Limits

#: BSD's EX_CONFIG: a supervisor should not start this again before somebody changed something.
EXIT_CONFIG: Final = 78

MAX_CONFIG_FILE_BYTES: Final = MIB
#: What fits into sun_path, with room for what ZeroMQ adds.
MAX_IPC_PATH_BYTES: Final = 100

_ORIGIN_PATTERN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_TCP_PATTERN: Final = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """Where clients come in. ``allowed_origins`` None: only the gateway's own; ``("*",)``: any. Times in seconds."""

    host: str
    port: int
    public_url: str | None
    allowed_origins: tuple[str, ...] | None
    header_timeout_s: float
    body_timeout_s: float
    shutdown_grace_s: float
    max_connections: int
    max_connections_per_subject: int
    max_frame_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """Where workers come in. The key files are both set or both None, and set for tcp."""

    endpoint: str
    curve_secret_key_file: Path | None
    curve_worker_keys_file: Path | None


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
    conceal_panels: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Triggers that may wait: for one panel, in all, and the bytes of their arguments in all."""

    per_panel: int
    total: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All of it."""

    listen: ListenConfig
    workers: WorkersConfig
    auth: AuthConfig
    data_dir: Path
    log_level: str
    stage_sampling: int
    max_panels: int
    client: ClientLimits
    state: StateLimits
    definition: DefinitionLimits
    queue: QueueLimits


def load(arguments: Sequence[str], environment: Mapping[str, str], *, directory: Path) -> GatewayConfig:
    """The configuration that the command line, the environment and the file give.

    ``directory`` is what relative paths of the first two are relative to; those in the file are relative to the file.
    Raises ``ConfigError``; ``SystemExit`` after --help and --version.
    """
    flags = vars(_parser().parse_args(arguments))
    file = flags.pop("config") or environment.get("PANELS_CONFIG")
    values: dict[str, Value] = {option.key: option.default for option in OPTIONS}
    if file:
        values |= _read_file(directory / Path(file).expanduser())
    for option in OPTIONS:
        if option.variable in environment:
            raw = environment[option.variable]
            values[option.key] = option.parse(raw, source=option.variable, base=directory)
    for key, raw in flags.items():
        if raw is not None:
            option = BY_KEY[key]
            values[key] = option.parse(raw, source=f"--{option.name}", base=directory)
    return _build(_Values(values), directory)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see panels-gateway --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="panels-gateway",
        description="Serves panels to WebSocket and HTTP clients and has workers run their handlers.",
        epilog="Each option is also a variable (--max-panels: PANELS_MAX_PANELS) and a key of the TOML file (max-panels).",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"panels-gateway {__version__}")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with any of the options below. Also PANELS_CONFIG."
    )
    groups = {
        name: parser.add_argument_group(name) for name in dict.fromkeys(option.group for option in OPTIONS)
    }
    for option in OPTIONS:
        default = "" if option.default in (None, False) else f" Default: {option.default}."
        # a flag may be given as --no-auth=false too, to overrule the file
        groups[option.group].add_argument(
            f"--{option.name}",
            dest=option.key,
            nargs="?" if option.kind == "flag" else None,
            const="true" if option.kind == "flag" else None,
            metavar="true|false" if option.kind == "flag" else option.kind.upper(),
            help=(option.help + default).replace("%", "%%"),
        )
    return parser


def _read_file(path: Path) -> dict[str, Value]:
    source = str(path)
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CONFIG_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"config: expected a readable file at {path}, got: {exc.strerror}") from None
    if len(text) > MAX_CONFIG_FILE_BYTES:
        raise ConfigError(f"config: expected at most {MAX_CONFIG_FILE_BYTES} bytes in {path}, got more")
    try:
        document: dict[str, Any] = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"config: expected TOML in {path}, got: {exc}") from None
    values: dict[str, Value] = {}
    for name, raw in document.items():
        option = BY_KEY.get(name.replace("-", "_"))
        if option is None:
            near = difflib.get_close_matches(name.replace("_", "-"), [o.name for o in OPTIONS], n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see panels-gateway --help"
            raise ConfigError(f"config: expected options, got {name[:80]!r} in {path}{hint}")
        values[option.key] = option.parse(raw, source=source, base=path.parent)
    return values


class _Values:
    """The options' values, by type."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def get(self, key: str, kind: type[T]) -> T:
        """The value of an option that is always set."""
        value = self._values[key]
        assert isinstance(value, kind), key
        return value

    def maybe(self, key: str, kind: type[T]) -> T | None:
        """The value of an option, or None where it is not set."""
        return None if self._values[key] is None else self.get(key, kind)


def _build(values: _Values, directory: Path) -> GatewayConfig:
    data_dir = _data_dir(directory / values.get("data_dir", Path))
    client = ClientLimits(
        in_flight=values.get("max_in_flight", int),
        admitted=values.get("max_admitted", int),
        rate=RateLimit(per_s=values.get("trigger_rate", float), burst=values.get("trigger_burst", int)),
        outbox=OutboxLimits(
            soft_bytes=values.get("send_buffer_soft_bytes", int),
            hard_bytes=values.get("send_buffer_hard_bytes", int),
        ),
    )
    if client.outbox.soft_bytes > client.outbox.hard_bytes:
        raise ConfigError(
            f"send-buffer-soft-bytes: expected at most send-buffer-hard-bytes, {client.outbox.hard_bytes}, got "
            f"{client.outbox.soft_bytes}; lower it or raise the other"
        )
    state = StateLimits(bytes=values.get("max_state_bytes", int), keys=values.get("max_state_keys", int))
    return GatewayConfig(
        listen=_listen(values),
        workers=_workers(values, data_dir),
        auth=_auth(values),
        data_dir=data_dir,
        log_level=values.get("log_level", str),
        stage_sampling=values.get("stage_sampling", int),
        max_panels=values.get("max_panels", int),
        client=client,
        state=state,
        definition=DefinitionLimits(
            body_bytes=values.get("max_body_bytes", int),
            tools=values.get("max_tools", int),
            state_bytes=state.bytes,
            state_keys=state.keys,
            maxima=_maxima(values),
        ),
        queue=QueueLimits(
            per_panel=values.get("max_queue_per_panel", int),
            total=values.get("max_queue", int),
            total_bytes=values.get("max_queue_bytes", int),
        ),
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


def _listen(values: _Values) -> ListenConfig:
    public_url = values.maybe("public_url", str)
    if public_url is not None and _ORIGIN_PATTERN.fullmatch(public_url) is None:
        raise ConfigError(
            f"public-url: expected a URL like https://panels.example.org, got {public_url[:80]!r}"
        )
    origins = values.maybe("allowed_origins", tuple)
    for origin in origins or ():
        if origin != "*" and _ORIGIN_PATTERN.fullmatch(origin) is None:
            raise ConfigError(
                f"allowed-origins: expected origins in lower case without a path, like https://app.example.org, or *, "
                f"got {origin[:80]!r}"
            )
    return ListenConfig(
        host=values.get("host", str),
        port=values.get("port", int),
        public_url=public_url,
        allowed_origins=origins,
        header_timeout_s=values.get("header_timeout_s", float),
        body_timeout_s=values.get("body_timeout_s", float),
        shutdown_grace_s=values.get("shutdown_grace_s", float),
        max_connections=values.get("max_connections", int),
        max_connections_per_subject=values.get("max_connections_per_subject", int),
        max_frame_bytes=values.get("max_frame_bytes", int),
    )


def _workers(values: _Values, data_dir: Path) -> WorkersConfig:
    endpoint = values.maybe("workers_endpoint", str) or f"ipc://{data_dir / 'workers.sock'}"
    secret, workers = (
        values.maybe("curve_secret_key_file", Path),
        values.maybe("curve_worker_keys_file", Path),
    )
    if (secret is None) != (workers is None):
        raise ConfigError(
            "curve-secret-key-file: expected it together with curve-worker-keys-file, got only one; give both or neither"
        )
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        if not path.startswith("/"):
            raise ConfigError(
                f"workers-endpoint: expected an absolute path like ipc:///run/panels/workers, got {endpoint!r}"
            )
        if len(path.encode()) > MAX_IPC_PATH_BYTES:
            raise ConfigError(
                f"workers-endpoint: expected a path of at most {MAX_IPC_PATH_BYTES} bytes, which is what a socket's name may "
                f"have, got {len(path.encode())}; give a shorter --workers-endpoint or --data-dir"
            )
    elif (match := _TCP_PATTERN.fullmatch(endpoint)) is None or int(match[2]) > 65_535:
        raise ConfigError(
            f"workers-endpoint: expected ipc:///path or tcp://address:port, got {endpoint[:120]!r}"
        )
    elif match[1] in ("0.0.0.0", "[::]", "[::0]"):  # noqa: S104 - refused here
        raise ConfigError(f"workers-endpoint: expected the address of one interface, got {endpoint!r}")
    elif secret is None:
        raise ConfigError(
            "workers-endpoint: expected CURVE keys for tcp, got none; give --curve-secret-key-file and "
            "--curve-worker-keys-file, or an ipc:// endpoint"
        )
    return WorkersConfig(endpoint=endpoint, curve_secret_key_file=secret, curve_worker_keys_file=workers)


def _auth(values: _Values) -> AuthConfig:
    secret, jwks = values.maybe("jwt_secret_file", Path), values.maybe("jwt_jwks_file", Path)
    off = values.get("no_auth", bool)
    if not off and secret is None and jwks is None:
        raise ConfigError(
            "expected a key to verify tokens with, got none; give --jwt-secret-file FILE (make one with: openssl rand "
            "-hex 32 > FILE) or --jwt-jwks-file FILE, or --no-auth to let everybody do everything"
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
        conceal_panels=values.get("conceal_panels", bool),
    )


def _maxima(values: _Values) -> Limits:
    return Limits(
        fuel=values.get("max_fuel", int),
        deadline_ms=values.get("max_timeout_ms", int),
        memory_bytes=values.get("max_memory_bytes", int),
        host_calls=values.get("max_host_calls", int),
        output_bytes=values.get("max_output_bytes", int),
        events=values.get("max_events", int),
        log_bytes=values.get("max_log_bytes", int),
    )
