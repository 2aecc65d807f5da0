"""The options of ``panels-worker``, from its command line and its environment.

Every option is also a variable: ``--cache-dir`` is ``PANELS_CACHE_DIR``. The command line wins.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from panels_shared.limits import MIB
from panels_worker.settings import (
    CONFINEMENT_MODES,
    Bounds,
    ConfigError,
    ConfinementMode,
    CurveKeys,
    PoolConfig,
)
from panels_worker.versions import versions

MAX_PROCESSES: Final = 256
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
#: What fits into sockaddr_un besides the final NUL (unix(7)).
MAX_IPC_PATH_BYTES: Final = 107

_TCP: Final = re.compile(r"tcp://[^\s*]+:([0-9]{1,5})")
_Z85_KEY: Final = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> PoolConfig:
    """The configuration that ``argv`` (without the program's name) and ``environ`` ask for.

    Raises ``ConfigError``; prints and raises ``SystemExit`` for ``--help``, ``--version`` and unknown flags.
    """
    parser = _parser(environ)
    values = parser.parse_args(argv)
    return PoolConfig(
        gateway=_endpoint(values.gateway),
        processes=_number("processes", values.processes, minimum=1, maximum=MAX_PROCESSES),
        cache_dir=Path(values.cache_dir).expanduser().absolute(),
        curve=_curve(values),
        confinement=_confinement(values.confinement),
        user=values.user,
        spin_us=_number("spin-us", values.spin_us, minimum=0, maximum=10_000),
        replica_bytes=_size("replica-bytes", values.replica_bytes, minimum=MIB),
        max_programs=_number("max-programs", values.max_programs, minimum=1, maximum=100_000),
        data_bytes=_size("data-bytes", values.data_bytes, minimum=128 * MIB),
        bounds=Bounds(
            max_rss_bytes=_size("max-rss-bytes", values.max_rss_bytes, minimum=64 * MIB),
            max_jobs=_number("max-jobs", values.max_jobs, minimum=1, maximum=10**15),
            max_busy_s=_number("max-job-s", values.max_job_s, minimum=1, maximum=86_400),
            grace_s=_number("grace-s", values.grace_s, minimum=1, maximum=3_600),
        ),
        log_level=_log_level(values.log_level),
    )


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="panels-worker",
        description="Runs the handlers of panels in sandboxed processes, for one panels-gateway. "
        "It may be started before or after the gateway, and survives its restarts.",
        epilog="Each option is also a variable in the environment: --cache-dir is PANELS_CACHE_DIR.",
    )

    def option(
        name: str, default: str, text: str, *, metavar: str, choices: Sequence[str] | None = None
    ) -> None:
        variable = "PANELS_" + name.upper().replace("-", "_")
        value = environ.get(variable, "") or default
        shown = f" (default: {default})" if default else ""
        parser.add_argument(f"--{name}", default=value, metavar=metavar, choices=choices, help=text + shown)

    parser.add_argument("--version", action="version", version=f"panels-worker {versions()['panels']}")
    bounds = Bounds()
    option("gateway", default_endpoint(), "where the gateway waits for workers: ipc:///path or tcp://host:port; "
           "tcp needs CURVE keys", metavar="ENDPOINT")  # fmt: skip
    option("processes", str(default_processes()), "sandbox processes to keep running", metavar="N")
    option("cache-dir", str(default_cache_dir(environ)), "where compiled handlers are kept", metavar="DIR")
    option("confinement", "auto", "how each sandbox locks itself in (rlimits, user, Landlock, seccomp): auto uses "
           "what this system has and logs what is missing, strict refuses to run without, off is for debugging",
           metavar="|".join(CONFINEMENT_MODES))  # fmt: skip
    option(
        "user",
        "nobody",
        "whom sandboxes run as when the pool is started by root: a name or a number",
        metavar="USER",
    )
    option("spin-us", "500", "how long a sandbox looks for its next job before it sleeps, in microseconds, while jobs "
           "come in quick succession; 0 to sleep at once", metavar="US")  # fmt: skip
    option("replica-bytes", "256MiB", "panel state that a sandbox keeps, in all", metavar="SIZE")
    option("max-programs", "256", "loaded handlers that a sandbox keeps", metavar="N")
    option("data-bytes", "1024MiB", "memory that a sandbox may write to; above it, it fails", metavar="SIZE")
    option("max-rss-bytes", "768MiB", "resident memory above which a sandbox is replaced", metavar="SIZE")
    option("max-jobs", str(bounds.max_jobs), "jobs after which a sandbox is replaced", metavar="N")
    option("max-job-s", f"{bounds.max_busy_s:g}", "how long one job may run before its sandbox is killed, in seconds; "
           "above the gateway's largest time-out", metavar="S")  # fmt: skip
    option("grace-s", f"{bounds.grace_s:g}", "how long a sandbox may take to finish when it is asked to stop, in seconds",
           metavar="S")  # fmt: skip
    option(
        "curve-secret-key-file",
        "",
        "file with this pool's CURVE secret key: 40 characters (Z85)",
        metavar="FILE",
    )
    option(
        "curve-server-key-file",
        "",
        "file with the gateway's CURVE public key: 40 characters (Z85)",
        metavar="FILE",
    )
    option("log-level", "info", "what is logged, to stderr", metavar="LEVEL",
           choices=LOG_LEVELS)  # fmt: skip
    return parser


def default_endpoint() -> str:
    """Where a gateway started in the same directory waits."""
    return f"ipc://{Path('.panels/workers.sock').absolute()}"


def default_processes() -> int:
    """As many as there are CPUs for us."""
    return min(MAX_PROCESSES, len(os.sched_getaffinity(0)))


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """The user's cache, or a directory here for a user who has no home."""
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base) / "panels"
    if home := environ.get("HOME"):
        return Path(home) / ".cache" / "panels"
    return Path(".panels/cache")


def _endpoint(text: str) -> str:
    if text.startswith("ipc://"):
        path = text.removeprefix("ipc://")
        if not path or "\0" in path or len(os.fsencode(Path(path).absolute())) > MAX_IPC_PATH_BYTES:
            raise ConfigError(
                f"gateway: expected a path of 1 to {MAX_IPC_PATH_BYTES} bytes after ipc://, got {text[:160]!r}"
            )
        return f"ipc://{Path(path).absolute()}"
    match = _TCP.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= 65_535:
        raise ConfigError(f"gateway: expected ipc:///path or tcp://host:port, got {text[:160]!r}")
    return text


def _curve(values: argparse.Namespace) -> CurveKeys | None:
    secret_file, server_file = values.curve_secret_key_file, values.curve_server_key_file
    if not values.gateway.startswith("tcp://"):
        if secret_file or server_file:
            raise ConfigError(
                "curve-secret-key-file: expected a tcp:// gateway with CURVE keys, got another; leave them out"
            )
        return None
    if not secret_file or not server_file:
        raise ConfigError(
            "gateway: expected CURVE keys for tcp, got none; give --curve-secret-key-file and --curve-server-key-file"
        )
    import zmq

    secret = _key("curve-secret-key-file", secret_file)
    return CurveKeys(_key("curve-server-key-file", server_file), zmq.curve_public(secret), secret)


def _key(name: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            text = file.read(1_024).strip()
    except OSError as exc:
        raise ConfigError(f"{name}: expected a file to read, got: {exc.strerror} ({path})") from None
    if _Z85_KEY.fullmatch(text) is None:
        raise ConfigError(f"{name}: expected one line of 40 characters (Z85) in {path}, got something else")
    return text


def _confinement(text: str) -> ConfinementMode:
    if text not in CONFINEMENT_MODES:
        raise ConfigError(f"confinement: expected auto, strict or off, got {text[:40]!r}")
    return CONFINEMENT_MODES[text]


def _log_level(text: str) -> str:
    # argparse checks the choices of a flag, but not of a default that came from the environment
    if text not in LOG_LEVELS:
        raise ConfigError(f"log-level: expected one of {', '.join(LOG_LEVELS)}, got {text[:40]!r}")
    return text


def _number(name: str, text: str, *, minimum: int, maximum: int) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text) or not minimum <= int(text) <= maximum:
        raise ConfigError(f"{name}: expected a whole number from {minimum} to {maximum}, got {text[:40]!r}")
    return int(text)


def _size(name: str, text: str, *, minimum: int) -> int:
    match = re.fullmatch(r"([0-9]{1,15})\s*(B|KiB|MiB|GiB)?", text)
    size = (
        int(match[1]) * {None: 1, "B": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}[match[2]]
        if match
        else 0
    )
    if size < minimum:
        raise ConfigError(f"{name}: expected a size of at least {minimum // MIB}MiB, got {text[:40]!r}")
    return size
