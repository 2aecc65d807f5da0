"""What a pool is told by its command line, environment and TOML file.

``OPTIONS`` describes every option once; ``panels_shared.options`` says which of the ways to set one wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from panels_shared.buskey import BUS_KEY_HINT
from panels_shared.endpoint import MAX_KEY_FILE_BYTES, CurveKeys, is_tcp, parse_endpoint, parse_one_key
from panels_shared.errors import ConfigError
from panels_shared.keyfiles import exposure
from panels_shared.limits import MIB
from panels_shared.loglines import LOG_FORMATS
from panels_shared.messages import MAX_LABELS
from panels_shared.names import NAME_RULE, is_name
from panels_shared.options import GIB, MAX_CONFIG_FILE_BYTES, Option, OptionTable, Values
from panels_worker.settings import CONFINEMENT_MODES, Bounds, PoolConfig
from panels_worker.versions import versions

MAX_PROCESSES: Final = 256
_BOUNDS: Final = Bounds()
_CPUS_PATTERN: Final = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")

POOL: Final = "The pool"
SANDBOXES: Final = "Sandboxes"
RETIREMENT: Final = "When a sandbox is replaced"

OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        name="gateway", group=POOL, kind="text",
        shown_default="`.panels/workers.sock` in the working directory",
        help="Where the gateway waits for workers: ipc:///path or tcp://host:port. tcp "
             "needs both CURVE key files and bus-key-file.",
    ),
    Option(
        name="bus-key-file", group=POOL, kind="path",
        help="File with the gateway's bus key: one line of 64 hexadecimal digits, for its owner alone. "
             "Without it, beside the socket of an ipc:// gateway (NAME.key). tcp needs it.",
    ),
    Option(
        name="processes", group=POOL, kind="integer", default="auto", choices=("auto",),
        shown_default="one for each CPU", minimum=1, maximum=MAX_PROCESSES,
        help="Sandbox processes to keep running; auto: one for each CPU that the pool may use.",
    ),
    Option(
        name="cpu-affinity", group=POOL, kind="list", shown_default="all that the pool was given",
        help="CPUs that the pool and its processes may use, as numbers and ranges: 0-3,6.",
    ),
    Option(
        name="labels", group=POOL, kind="list",
        help="Dedicates this pool to the panels whose definition names one of these labels as its "
             "pool. Without labels it serves the panels that name none.",
    ),
    Option(
        name="cache-dir", group=POOL, kind="path", shown_default="`panels` in the user's cache",
        help="Directory in which compiled handlers are kept.",
    ),
    Option(
        name="curve-secret-key-file", group=POOL, kind="path",
        help="File with this pool's CURVE secret key: one line of 40 characters (Z85).",
    ),
    Option(
        name="curve-server-key-file", group=POOL, kind="path",
        help="File with the gateway's CURVE public key: one line of 40 characters (Z85).",
    ),
    Option(
        name="log-level", group=POOL, kind="levels", default="info",
        help="What is logged, to stderr: debug, info, warning or error, and behind it the levels of single "
             "loggers, "
             "like info,panels.worker.pool=debug.",
    ),
    Option(
        name="log-format", group=POOL, kind="text", default="auto", choices=LOG_FORMATS,
        help="How lines are written: json for programs, text for people; auto writes text to a terminal and "
             "JSON "
             "elsewhere.",
    ),
    Option(
        name="confinement", group=SANDBOXES, kind="text", default="auto", choices=tuple(CONFINEMENT_MODES),
        guards=True,
        help="How each sandbox locks itself in (rlimits, user, Landlock, seccomp): auto uses what this "
             "system has and logs what is missing, strict refuses to run if something is missing, off is for "
             "debugging.",
    ),
    Option(
        name="user", group=SANDBOXES, kind="text", default="nobody",
        help="Whom sandboxes run as if root starts the pool: a name or a number.",
    ),
    Option(
        name="nice", group=SANDBOXES, kind="integer", default=0, maximum=19,
        help="By how much sandboxes give way to other processes: added to the pool's own niceness.",
    ),
    Option(
        name="spin-us", group=SANDBOXES, kind="integer", default=500, maximum=10_000,
        help="How long a sandbox looks for its next job before it sleeps, in microseconds, while jobs come "
             "in quick succession; with 0 it sleeps at once.",
    ),
    Option(
        name="verify-replay", group=SANDBOXES, kind="flag", default=False,
        help="For development: runs every job twice, drops what the second run does, and warns if the "
             "two differ. Handlers take twice as long.",
    ),
    Option(
        name="replica-bytes", group=SANDBOXES, kind="bytes", default=256 * MIB, minimum=MIB,
        maximum=1024 * GIB,
        help="How much panel state a sandbox keeps in all.",
    ),
    Option(
        name="max-programs", group=SANDBOXES, kind="integer", default=256, minimum=1, maximum=100_000,
        help="How many loaded handlers a sandbox keeps.",
    ),
    Option(
        name="data-bytes", group=SANDBOXES, kind="bytes", default=GIB, minimum=128 * MIB, maximum=1024 * GIB,
        help="How much memory a sandbox may write to; above it, the sandbox fails.",
    ),
    Option(
        name="max-rss-bytes", group=RETIREMENT, kind="bytes", default=_BOUNDS.max_rss_bytes, minimum=64 * MIB,
        maximum=1024 * GIB, help="Resident memory above which a sandbox is replaced.",
    ),
    Option(
        name="max-jobs", group=RETIREMENT, kind="integer", default=_BOUNDS.max_jobs, minimum=1,
        maximum=10**15,
        help="How many jobs a sandbox runs before it is replaced, or up to a fifth fewer.",
    ),
    Option(
        name="max-age-s", group=RETIREMENT, kind="integer", default=int(_BOUNDS.max_age_s),
        maximum=365 * 86_400,
        help="How old a sandbox becomes before it is replaced, in seconds, or up to a fifth younger; 0 for "
             "any age.",
    ),
    Option(
        name="max-job-s", group=RETIREMENT, kind="integer", default=int(_BOUNDS.max_busy_s), minimum=1,
        maximum=86_400,
        help="How long one job may run before its sandbox is killed, in seconds. It must be "
             "more than the gateway's max-timeout-ms.",
    ),
    Option(
        name="grace-s", group=RETIREMENT, kind="integer", default=int(_BOUNDS.grace_s), minimum=1,
        maximum=3_600,
        help="How long a sandbox may take to finish when it is asked to stop, in seconds.",
    ),
)  # fmt: skip

TABLE: Final = OptionTable(
    program="panels-worker",
    version=versions()["panels"],
    usage="panels-worker [check-config] [OPTION ...]",
    description="Runs the handlers of panels in sandboxed processes, for one panels-gateway.\n"
    "It may be started before or after the gateway, and survives its restarts.\n\n"
    "With check-config as its first argument it reads its configuration, says what is\nwrong, and ends.",
    options=OPTIONS,
    # one environment and one file may serve both programs
    prefix="PANELS_WORKER_",
    config_variable="PANELS_WORKER_CONFIG",
    section="worker",
    # options of the gateway, which are called as ours are
    foreign_variables=frozenset(
        ["PANELS_BUS_KEY_FILE", "PANELS_CURVE_SECRET_KEY_FILE", "PANELS_LOG_FORMAT", "PANELS_LOG_LEVEL"]
    ),
)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> PoolConfig:
    """The configuration that ``argv`` (without the program's name), ``environ`` and the file ask for.

    Raises ``ConfigError``; prints and raises ``SystemExit`` for ``--help`` and ``--version``.
    """
    values = TABLE.read(argv, environ, directory=Path.cwd(), read_file=_read_file)
    warnings = TABLE.unknown(environ)
    endpoint = values.maybe("gateway", str)
    gateway = (
        default_endpoint()
        if endpoint is None
        else parse_endpoint(endpoint, option="gateway", directory=str(Path.cwd()))
    )
    cpus = _cpus(values.maybe("cpu_affinity", tuple) or ())
    processes = values.get("processes", object)
    return PoolConfig(
        gateway=gateway,
        processes=processes if isinstance(processes, int) else default_processes(cpus),
        cpus=cpus,
        nice=values.get("nice", int),
        labels=_labels(values.maybe("labels", tuple) or ()),
        cache_dir=(values.maybe("cache_dir", Path) or default_cache_dir(environ)).absolute(),
        curve=_curve(values, gateway, warnings),
        bus_key_file=_bus_key_file(values, gateway),
        confinement=CONFINEMENT_MODES[values.get("confinement", str)],
        user=values.get("user", str),
        spin_us=values.get("spin_us", int),
        replica_bytes=values.get("replica_bytes", int),
        max_programs=values.get("max_programs", int),
        data_bytes=values.get("data_bytes", int),
        bounds=Bounds(
            max_rss_bytes=values.get("max_rss_bytes", int),
            max_jobs=values.get("max_jobs", int),
            max_age_s=values.get("max_age_s", int),
            max_busy_s=values.get("max_job_s", int),
            grace_s=values.get("grace_s", int),
        ),
        log_level=values.get("log_level", str),
        verify_replay=values.get("verify_replay", bool),
        log_format=values.get("log_format", str),
        warnings=tuple(warnings),
    )


def _labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    for label in labels:
        if not is_name(label):
            raise ConfigError(f"labels: expected {NAME_RULE} in each, got {label[:80]!r}")
    if len(labels) > MAX_LABELS:
        raise ConfigError(f"labels: expected at most {MAX_LABELS}, got {len(labels)}")
    return labels


def default_endpoint() -> str:
    """Where a gateway started in the same directory waits."""
    return parse_endpoint("ipc://.panels/workers.sock", option="gateway", directory=str(Path.cwd()))


def default_processes(cpus: tuple[int, ...] = ()) -> int:
    """As many as there are CPUs for this process, or in ``cpus``."""
    return min(MAX_PROCESSES, len(cpus or os.sched_getaffinity(0)))


def _cpus(items: tuple[str, ...]) -> tuple[int, ...]:
    """The CPUs that ``items`` name, in order. Raises ``ConfigError``."""
    found: set[int] = set()
    for item in items:
        match = _CPUS_PATTERN.fullmatch(item)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"cpu-affinity: expected numbers and ranges like 0-3,6, got {item[:80]!r}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if missing := found - os.sched_getaffinity(0):
        raise ConfigError(
            f"cpu-affinity: expected CPUs that this process may use, got {min(missing)}; "
            "nproc says how many there are, taskset -p which"
        )
    return tuple(sorted(found))


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """The user's cache, or a directory here for a user who has no home."""
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base) / "panels"
    if home := environ.get("HOME"):
        return Path(home) / ".cache" / "panels"
    return Path(".panels/cache")


def _curve(values: Values, gateway: str, warnings: list[str]) -> CurveKeys | None:
    secret_file = values.maybe("curve_secret_key_file", Path)
    server_file = values.maybe("curve_server_key_file", Path)
    if not is_tcp(gateway):
        if secret_file or server_file:
            raise ConfigError(
                "curve-secret-key-file: expected a tcp:// gateway with CURVE keys, got another; leave them "
                "out"
            )
        return None
    if secret_file is None or server_file is None:
        raise ConfigError(
            "gateway: expected CURVE keys for tcp, got none; give --curve-secret-key-file "
            "and --curve-server-key-file"
        )
    import zmq

    secret = _key("curve-secret-key-file", secret_file, warnings)
    server = _key("curve-server-key-file", server_file)
    return CurveKeys(public=zmq.curve_public(secret), secret=secret, peers=frozenset([server]))


def _bus_key_file(values: Values, gateway: str) -> Path | None:
    path = values.maybe("bus_key_file", Path)
    if path is None and is_tcp(gateway):
        raise ConfigError(
            "bus-key-file: expected a file with the gateway's bus key, got none; give the same one to the "
            f"gateway and to this pool; {BUS_KEY_HINT}"
        )
    return None if path is None else path.absolute()


def _key(option: str, path: Path, warnings: list[str] | None = None) -> bytes:
    """The key in a file. Where there are ``warnings`` it is a secret, and they are told of one that is
    exposed.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"{option}: expected a file to read, got: {exc.strerror} ({path})") from None
    if len(content) > MAX_KEY_FILE_BYTES:
        raise ConfigError(f"{option}: expected at most {MAX_KEY_FILE_BYTES} bytes in {path}, got more")
    if warnings is not None and (warning := exposure(mode, option=option, path=str(path))) is not None:
        warnings.append(warning)
    return parse_one_key(content, option=option, path=str(path))


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_CONFIG_FILE_BYTES + 1)


if __name__ == "__main__":
    import sys

    sys.stdout.write(TABLE.annotated() if sys.argv[1:] == ["toml"] else TABLE.reference())
