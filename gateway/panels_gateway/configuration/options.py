"""Every option of the gateway, once: the command line, the environment, the TOML file and the reference come from this table.

An option ``max-frame-bytes`` is the flag ``--max-frame-bytes``, the variable ``PANELS_MAX_FRAME_BYTES`` and the key
``max-frame-bytes`` (or ``max_frame_bytes``) of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from panels_gateway.configuration.errors import ConfigError
from panels_shared.limits import DEFAULT_MAXIMA, KIB, MIB

Kind = Literal["text", "path", "flag", "integer", "bytes", "number", "list"]
Value = str | Path | bool | int | float | tuple[str, ...] | None

GIB: Final = 1024 * MIB

_SIZE_PATTERN: Final = re.compile(r"([0-9]{1,15})\s*(B|KiB|MiB|GiB)?")
_UNITS: Final = {None: 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")
_MAX_TEXT_CHARS: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. ``minimum`` and ``maximum`` are inclusive and for numbers only; a ``default`` of None means not set."""

    name: str
    group: str
    kind: Kind
    help: str
    default: Value = None
    minimum: float = 0
    maximum: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The option's name in Python."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The option's name in the environment."""
        return f"PANELS_{self.key.upper()}"

    def parse(self, raw: object, *, source: str, base: Path) -> Value:
        """``raw`` (a string from flag or environment, or a value of TOML) as this option's kind.

        ``base`` is what a relative path is relative to. Raises ``ConfigError``, naming ``source``.
        """
        value = _PARSERS[self.kind](self, raw, source)
        if isinstance(value, str) and self.choices and value not in self.choices:
            raise self.error(f"one of {', '.join(self.choices)}", raw, source)
        if self.kind == "path" and isinstance(value, str):
            return base / Path(value).expanduser()
        return value

    def error(self, expected: str, got: object, source: str) -> ConfigError:
        """What is wrong with this option's value, and where it came from."""
        shown = repr(got)
        shown = shown if len(shown) <= 80 else shown[:80] + "…"
        return ConfigError(f"{self.name}: expected {expected}, got {shown} (from {source})")


def _text(option: Option, raw: object, source: str) -> Value:
    if not isinstance(raw, str) or not raw or len(raw) > _MAX_TEXT_CHARS or "\0" in raw:
        raise option.error(f"1 to {_MAX_TEXT_CHARS} characters", raw, source)
    return raw


def _flag(option: Option, raw: object, source: str) -> Value:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in _TRUE + _FALSE:
        return raw.lower() in _TRUE
    raise option.error("true or false", raw, source)


def _bounds(option: Option) -> str:
    if option.maximum == math.inf:
        return f"at least {option.minimum:.15g}"
    return f"{option.minimum:.15g} to {option.maximum:.15g}"


def _within(option: Option, value: float, raw: object, source: str, what: str) -> None:
    if not option.minimum <= value <= option.maximum:
        raise option.error(f"{what}, {_bounds(option)}", raw, source)


def _integer(option: Option, raw: object, source: str) -> Value:
    what = "a whole number"
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,18}", raw):
        raw = int(raw)
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise option.error(f"{what}, {_bounds(option)}", raw, source)
    _within(option, raw, raw, source, what)
    return raw


def _bytes(option: Option, raw: object, source: str) -> Value:
    what = "a number of bytes like 65536 or 64KiB"
    value = raw
    if isinstance(raw, str) and (match := _SIZE_PATTERN.fullmatch(raw)) is not None:
        value = int(match[1]) * _UNITS[match[2]]
    if not isinstance(value, int) or isinstance(value, bool):
        raise option.error(f"{what}, {_bounds(option)}", raw, source)
    _within(option, value, raw, source, what)
    return value


def _number(option: Option, raw: object, source: str) -> Value:
    what = "a number"
    value = raw
    if isinstance(raw, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", raw):
        value = float(raw)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise option.error(f"{what}, {_bounds(option)}", raw, source)
    _within(option, value, raw, source, what)
    return float(value)


def _list(option: Option, raw: object, source: str) -> Value:
    items: Sequence[Any] = ()
    if isinstance(raw, str):
        items = [item.strip() for item in raw.split(",") if item.strip()]
    elif isinstance(raw, list):
        items = raw
    else:
        raise option.error("a list", raw, source)
    if len(items) > 256 or not all(isinstance(item, str) and item for item in items):
        raise option.error("at most 256 texts", raw, source)
    unknown = [item for item in items if option.choices and item not in option.choices]
    if unknown:
        raise option.error(f"some of {', '.join(option.choices)}", unknown[0], source)
    return tuple(items)


_PARSERS: Final[dict[Kind, Callable[[Option, object, str], Value]]] = {
    "text": _text,
    "path": _text,
    "flag": _flag,
    "integer": _integer,
    "bytes": _bytes,
    "number": _number,
    "list": _list,
}

# Spelt out here and not imported: reading the configuration must not load the cryptography library.
JWT_ALGORITHMS: Final = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

LISTEN: Final = "Listening"
WORKERS: Final = "Workers and data"
AUTH: Final = "Authentication"
CLIENTS: Final = "Limits of clients"
PANELS: Final = "Limits of panels"
HANDLERS: Final = "How far a tool may raise its limits"

OPTIONS: Final[tuple[Option, ...]] = (
    Option(name="host", group=LISTEN, kind="text", default="127.0.0.1", help="Address to listen on."),
    Option(
        name="port", group=LISTEN, kind="integer", default=3001, maximum=65_535,
        help="Port for HTTP and WebSocket; 0 takes a free one and logs it.",
    ),
    Option(
        name="public-url", group=LISTEN, kind="text",
        help="How clients reach the gateway, like https://panels.example.org; wsUrl is made from it. "
        "Without it, from the Host header.",
    ),
    Option(
        name="allowed-origins", group=LISTEN, kind="list",
        help="Origins whose web pages may connect, like https://app.example.org; * for any. Without it, only pages of "
        "the gateway's own address. Clients that are not browsers send no Origin and are not affected.",
    ),
    Option(
        name="header-timeout-s", group=LISTEN, kind="number", default=5.0, minimum=0.1, maximum=60,
        help="Seconds in which the head of a request has to arrive.",
    ),
    Option(
        name="body-timeout-s", group=LISTEN, kind="number", default=30.0, minimum=0.1, maximum=600,
        help="Seconds in which the body of a request has to arrive, and its answer has to be taken.",
    ),
    Option(
        name="shutdown-grace-s", group=LISTEN, kind="number", default=10.0, maximum=300,
        help="Seconds that running triggers are given when the gateway is told to stop.",
    ),
    Option(
        name="log-level", group=LISTEN, kind="text", default="info", choices=("debug", "info", "warning", "error"),
        help="What is logged, to stderr.",
    ),
    Option(
        name="stage-sampling", group=LISTEN, kind="integer", default=64, minimum=0, maximum=1_000_000,
        help="One trigger in so many is timed for the histograms of /metrics; 0 for none.",
    ),
    Option(
        name="workers-endpoint", group=WORKERS, kind="text",
        help="Where workers connect: ipc:///path or tcp://address:port. Without it, workers.sock in the data directory. "
        "tcp needs both CURVE key files.",
    ),
    Option(
        name="data-dir", group=WORKERS, kind="path", default=Path(".panels"),
        help="Directory for the gateway's own files; made if missing, for its user only.",
    ),
    Option(
        name="curve-secret-key-file", group=WORKERS, kind="path",
        help="File with the gateway's CURVE secret key: one line of 40 characters (Z85).",
    ),
    Option(
        name="curve-worker-keys-file", group=WORKERS, kind="path",
        help="File with the CURVE public keys of the workers that may connect: one of 40 characters (Z85) a line.",
    ),
    Option(
        name="jwt-secret-file", group=AUTH, kind="path",
        help="File with the secret that HMAC tokens are signed with; a newline at its end is not part of it. "
        "Make one with: openssl rand -hex 32",
    ),
    Option(
        name="jwt-jwks-file", group=AUTH, kind="path",
        help="File with a JWK set of public keys. Read again on SIGHUP, as the secret is.",
    ),
    Option(
        name="jwt-algorithms", group=AUTH, kind="list", choices=JWT_ALGORITHMS,
        help="Algorithms that tokens may be signed with. Without it: HS256 for the secret, and for each key of the set "
        "its alg, else the usual one of its kind.",
    ),
    Option(name="jwt-audience", group=AUTH, kind="text", help="What a token's aud must be. Without it, not checked."),
    Option(name="jwt-issuer", group=AUTH, kind="text", help="What a token's iss must be. Without it, not checked."),
    Option(
        name="jwt-max-lifetime-s", group=AUTH, kind="number", default=86_400.0, minimum=1, maximum=31_536_000,
        help="How far in the future a token's exp may be, in seconds.",
    ),
    Option(
        name="no-auth", group=AUTH, kind="flag", default=False,
        help="Let everybody do everything. For development on one machine.",
    ),
    Option(
        name="conceal-panels", group=AUTH, kind="flag", default=False,
        help="Check the token before the panel on upgrade, and answer 404 for panels that the token may not read, so that "
        "nobody learns which ids exist.",
    ),
    Option(
        name="max-connections", group=CLIENTS, kind="integer", default=10_000, minimum=1, maximum=1_000_000,
        help="Sockets of clients in all.",
    ),
    Option(
        name="max-connections-per-subject", group=CLIENTS, kind="integer", default=2_048, minimum=1, maximum=1_000_000,
        help="WebSockets of one token subject; tokens without a subject, and all clients under no-auth, count as one.",
    ),
    Option(
        name="max-frame-bytes", group=CLIENTS, kind="bytes", default=MIB, minimum=KIB, maximum=16 * MIB,
        help="A WebSocket message from a client.",
    ),
    Option(
        name="max-body-bytes", group=CLIENTS, kind="bytes", default=4 * MIB, minimum=KIB, maximum=64 * MIB,
        help="The body of an HTTP request.",
    ),
    Option(
        name="max-in-flight", group=CLIENTS, kind="integer", default=256, minimum=1, maximum=16_384,
        help="Unanswered triggers of one WebSocket; one more is answered OVERLOADED.",
    ),
    Option(
        name="max-admitted", group=CLIENTS, kind="integer", default=64, minimum=1, maximum=16_384,
        help="How many of them stand in the panel's queue at a time; the rest wait their turn with the connection.",
    ),
    Option(
        name="trigger-rate", group=CLIENTS, kind="number", default=0.0, maximum=1_000_000,
        help="Triggers a second of one WebSocket in the long run, more is answered RATE_LIMITED; 0 for no limit.",
    ),
    Option(
        name="trigger-burst", group=CLIENTS, kind="integer", default=100, minimum=1, maximum=1_000_000,
        help="How many of them at once.",
    ),
    Option(
        name="send-buffer-soft-bytes", group=CLIENTS, kind="bytes", default=256 * KIB, minimum=16 * KIB, maximum=64 * MIB,
        help="What waits for one WebSocket that reads slowly before its PATCHes are merged.",
    ),
    Option(
        name="send-buffer-hard-bytes", group=CLIENTS, kind="bytes", default=MIB, minimum=64 * KIB, maximum=256 * MIB,
        help="What waits for one WebSocket before it is closed with 1013.",
    ),
    Option(
        name="max-panels", group=PANELS, kind="integer", default=10_000, minimum=1, maximum=1_000_000,
        help="Panels in all.",
    ),
    Option(name="max-tools", group=PANELS, kind="integer", default=64, minimum=1, maximum=4_096, help="Tools of a panel."),
    Option(
        name="max-state-bytes", group=PANELS, kind="bytes", default=16 * MIB, minimum=KIB, maximum=32 * MIB,
        help="State of a panel, as JSON.",
    ),
    Option(
        name="max-state-keys", group=PANELS, kind="integer", default=65_536, minimum=1, maximum=100_000,
        help="Top-level keys of a panel's state.",
    ),
    Option(
        name="max-queue-per-panel", group=PANELS, kind="integer", default=1_024, minimum=1, maximum=65_536,
        help="Triggers that wait for one panel; one more is answered OVERLOADED.",
    ),
    Option(
        name="max-queue", group=PANELS, kind="integer", default=16_384, minimum=1, maximum=1_048_576,
        help="Triggers that wait in all.",
    ),
    Option(
        name="max-queue-bytes", group=PANELS, kind="bytes", default=64 * MIB, minimum=MIB, maximum=4 * GIB,
        help="Arguments of all triggers that wait.",
    ),
    Option(
        name="max-fuel", group=HANDLERS, kind="integer", default=DEFAULT_MAXIMA.fuel, minimum=1, maximum=10**15,
        help="limits.fuel: about one unit per WebAssembly instruction.",
    ),
    Option(
        name="max-timeout-ms", group=HANDLERS, kind="integer", default=DEFAULT_MAXIMA.deadline_ms, minimum=1,
        maximum=600_000, help="limits.timeoutMs: wall clock.",
    ),
    Option(
        name="max-memory-bytes", group=HANDLERS, kind="bytes", default=DEFAULT_MAXIMA.memory_bytes, minimum=64 * KIB,
        maximum=GIB, help="limits.memoryBytes: linear memory.",
    ),
    Option(
        name="max-host-calls", group=HANDLERS, kind="integer", default=DEFAULT_MAXIMA.host_calls, minimum=1,
        maximum=10_000_000, help="limits.hostCalls: calls out of the sandbox.",
    ),
    Option(
        name="max-output-bytes", group=HANDLERS, kind="bytes", default=DEFAULT_MAXIMA.output_bytes, minimum=KIB,
        maximum=32 * MIB, help="limits.outputBytes: mutations, events, view commands and return value together.",
    ),
    Option(
        name="max-events", group=HANDLERS, kind="integer", default=DEFAULT_MAXIMA.events, minimum=1, maximum=100_000,
        help="limits.events: events, and as many view commands.",
    ),
    Option(
        name="max-log-bytes", group=HANDLERS, kind="bytes", default=DEFAULT_MAXIMA.log_bytes, minimum=1, maximum=16 * MIB,
        help="limits.logBytes: log text kept.",
    ),
)  # fmt: skip

BY_KEY: Final = {option.key: option for option in OPTIONS}


def reference() -> str:
    """The table of options in Markdown, as docs/configuration.md has it."""
    lines: list[str] = []
    for group in dict.fromkeys(option.group for option in OPTIONS):
        lines += [f"### {group}", "", "| Flag | Default | Range | Meaning |", "|---|---|---|---|"]
        for option in OPTIONS:
            if option.group == group:
                lines.append(
                    f"| `--{option.name}` | {_shown_default(option)} | {_shown_range(option)} | {option.help} |"
                )
        lines.append("")
    return "\n".join(lines)


def _shown(option: Option, value: float) -> str:
    if option.kind != "bytes":
        return f"{value:,.15g}" if value != math.inf else ""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value >= size and value % size == 0:
            return f"{int(value) // size} {unit}"
    return f"{int(value):,} B"


def _shown_default(option: Option) -> str:
    default = option.default
    if default is None:
        return "–"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, int | float):
        return _shown(option, default)
    return f"`{default}`"


def _shown_range(option: Option) -> str:
    if option.choices:
        return ", ".join(option.choices)
    if option.kind not in ("integer", "bytes", "number"):
        return ""
    return f"{_shown(option, option.minimum)} – {_shown(option, option.maximum)}"


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
