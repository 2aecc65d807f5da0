"""Every option of the gateway, once. ``panels_shared.options`` makes flags, environment, file and reference
of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from panels_shared import __version__
from panels_shared.limits import DEFAULT_MAXIMA, KIB, MIB
from panels_shared.loglines import LOG_FORMATS
from panels_shared.options import GIB, Option, OptionTable

# Spelt out here and not imported: reading the configuration must not load the cryptography library.
JWT_ALGORITHMS: Final = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

LISTEN: Final = "Listening"
WORKERS: Final = "Workers and data"
RECORD: Final = "The record"
AUTH: Final = "Authentication"
CLIENTS: Final = "Limits of clients"
PANELS: Final = "Limits of panels"
HANDLERS: Final = "How far a tool may raise its limits"
QUOTAS: Final = "Quotas"
BREAKERS: Final = "Circuit breakers"

OPTIONS: Final[tuple[Option, ...]] = (
    Option(name="host", group=LISTEN, kind="text", default="127.0.0.1", help="Address to listen on."),
    Option(
        name="port", group=LISTEN, kind="integer", default=3001, shown_default="3001", maximum=65_535,
        help="Port for HTTP and WebSocket; 0 takes a free one and logs it.",
    ),
    Option(
        name="admin-listen", group=LISTEN, kind="text", guards=True,
        help="Address and port that serve /metrics and /health to whoever looks after the gateway, like 127.0.0.1:9001; the "
        "panels that use the most fuel are named in /metrics there. With it, the port of clients answers 404 for "
        "/metrics and says in /health only whether the gateway is ready.",
    ),
    Option(
        name="public-url", group=LISTEN, kind="text",
        help="How clients reach the gateway, like https://panels.example.org; wsUrl is made from it. "
        "Without it, wsUrl is made from the Host header.",
    ),
    Option(
        name="allowed-hosts", group=LISTEN, kind="list", guards=True,
        help="Names and addresses that a request's Host may have, like panels.example.org; * for any. Without it, any with "
        "authentication; with no-auth localhost, 127.0.0.1, [::1], host and the host of public-url.",
    ),
    Option(
        name="allowed-origins", group=LISTEN, kind="list",
        help="Origins whose web pages may connect, like https://app.example.org; * for any. Without it, only pages of "
        "the gateway's own address may. Clients that are not browsers send no Origin and are not affected.",
    ),
    Option(
        name="header-timeout-s", group=LISTEN, kind="number", default=5.0, minimum=0.1, maximum=60,
        help="Seconds in which the head of a request has to arrive, and in which a WebSocket's handshake has to end.",
    ),
    Option(
        name="body-timeout-s", group=LISTEN, kind="number", default=30.0, minimum=0.1, maximum=600,
        help="Seconds in which the body of a request or a WebSocket message has to arrive, and an answer has to be taken.",
    ),
    Option(
        name="ping-interval-s", group=LISTEN, kind="number", default=25.0, minimum=0.1, maximum=3_600,
        help="How often a WebSocket is sent a ping, in seconds; less than what a proxy in front cuts idle sockets after.",
    ),
    Option(
        name="ping-timeout-s", group=LISTEN, kind="number", default=10.0, minimum=0.1, maximum=600,
        help="Seconds in which a pong has to come; then the WebSocket is closed with 1011.",
    ),
    Option(
        name="shutdown-grace-s", group=LISTEN, kind="number", default=10.0, maximum=300,
        help="Seconds that running triggers are given when the gateway is told to stop.",
    ),
    Option(
        name="log-level", group=LISTEN, kind="levels", default="info",
        help="What is logged, to stderr: debug, info, warning or error, and behind it the levels of single loggers, like "
        "info,panels.gateway.bus=debug.",
    ),
    Option(
        name="log-format", group=LISTEN, kind="text", default="auto", choices=LOG_FORMATS,
        help="How lines are written: json for programs, text for people; auto writes text to a terminal and JSON elsewhere.",
    ),
    Option(
        name="access-log", group=LISTEN, kind="flag", default=False,
        help="Log each HTTP request that was answered and each WebSocket that was closed: method, path without its query, "
        "status, milliseconds and address.",
    ),
    Option(
        name="stage-sampling", group=LISTEN, kind="integer", default=64, minimum=0, maximum=1_000_000,
        help="One of so many triggers is timed for the histograms of /metrics; 0 times none.",
    ),
    Option(
        name="traces", group=LISTEN, kind="flag", default=False,
        help="Send spans of triggers to an OpenTelemetry collector; OTEL_EXPORTER_OTLP_ENDPOINT and the other variables of "
        "OpenTelemetry say where and how. It needs panels-kernel[otel].",
    ),
    Option(
        name="trace-ratio", group=LISTEN, kind="number", default=1.0, maximum=1,
        help="With traces: how many of the triggers are traced that come without a traceparent, from 0 to 1.",
    ),
    Option(
        name="workers-endpoint", group=WORKERS, kind="text",
        help="Where workers connect: ipc:///path or tcp://address:port. Without it, at workers.sock in the data directory. "
        "tcp needs both CURVE key files and bus-key-file.",
    ),
    Option(
        name="data-dir", group=WORKERS, kind="path", default=Path(".panels"),
        help="Directory for the gateway's own files. If it is missing, it is made for the gateway's user only.",
    ),
    Option(
        name="bus-key-file", group=WORKERS, kind="path",
        help="File with the key that pools prove themselves with: one line of 64 hexadecimal digits, for its owner alone. "
        "Without it, beside the socket of an ipc:// endpoint (NAME.key), where it is made if missing. tcp needs it.",
    ),
    Option(
        name="curve-secret-key-file", group=WORKERS, kind="path",
        help="File with the gateway's CURVE secret key: one line of 40 characters (Z85).",
    ),
    Option(
        name="curve-worker-keys-file", group=WORKERS, kind="path",
        help="File with the CURVE public keys of the workers that may connect: each on a line of 40 characters (Z85).",
    ),
    Option(
        name="durability", group=RECORD, kind="text", default="process", choices=("process", "power", "none"),
        help="What a commit survives from the moment that anybody is told of it: process (kill -9 of everything), power (the "
        "machine losing power too), or none (nothing is written; for benchmarks and tests).",
    ),
    Option(
        name="history-commits", group=RECORD, kind="integer", default=10_000, minimum=1, maximum=10_000_000,
        help="How many commits of each panel can be read back and resumed from; older ones are removed.",
    ),
    Option(
        name="history-bytes", group=RECORD, kind="bytes", default=16 * MIB, minimum=64 * KIB, maximum=16 * GIB,
        help="How large the history of each panel may be; the oldest commits are removed first.",
    ),
    Option(
        name="history-ttl", group=RECORD, kind="number", default=604_800.0, minimum=1, maximum=315_360_000,
        help="How long commits can be read back and resumed from, in seconds.",
    ),
    Option(
        name="idempotency-ttl", group=RECORD, kind="number", default=86_400.0, minimum=1, maximum=31_536_000,
        help="How long an answered idempotency key gets the same answer, in seconds.",
    ),
    Option(
        name="idempotency-keys", group=RECORD, kind="integer", default=65_536, minimum=1, maximum=1_048_576,
        help="How many answered idempotency keys of each panel are kept; above it, the oldest are forgotten before their time.",
    ),
    Option(
        name="max-backlog-bytes", group=RECORD, kind="bytes", default=256 * MIB, minimum=MIB, maximum=64 * GIB,
        help="How much of the log may wait to be folded; above it, triggers and new panels are answered OVERLOADED.",
    ),
    Option(
        name="max-resident-bytes", group=RECORD, kind="bytes", default=512 * MIB, minimum=MIB, maximum=1024 * GIB,
        help="How much state of panels is kept in memory; above it, panels that nobody uses are put away until somebody asks "
        "for them.",
    ),
    Option(
        name="jwt-secret-file", group=AUTH, kind="path",
        help="File with the secret that HMAC tokens are signed with; a newline at its end is not part of it. "
        "Make one with: openssl rand -hex 32",
    ),
    Option(
        name="jwt-jwks-file", group=AUTH, kind="path",
        help="File with a JWK set of public keys. It is read again on SIGHUP, and so is the secret.",
    ),
    Option(
        name="jwt-algorithms", group=AUTH, kind="list", choices=JWT_ALGORITHMS,
        help="Algorithms that tokens may be signed with. Without it, HS256 for the secret, and for each key of the "
        "set its alg, or the usual algorithm of its kind if it has none.",
    ),
    Option(
        name="jwt-audience", group=AUTH, kind="text", guards=True,
        help="What a token's aud must be, or contain if it is a list. Without it, aud is not checked.",
    ),
    Option(
        name="jwt-issuer", group=AUTH, kind="text", guards=True,
        help="What a token's iss must be. Without it, iss is not checked.",
    ),
    Option(
        name="jwt-max-lifetime-s", group=AUTH, kind="number", default=86_400.0, minimum=1, maximum=31_536_000,
        help="How far in the future a token's exp may be, in seconds.",
    ),
    Option(
        name="scope-claims", group=AUTH, kind="list",
        help="Claims of tokens that handlers see in $scope beside sub, like team, roles; at most 16 names, and 2 KiB of JSON in all. "
        "They are written down with every commit.",
    ),
    Option(
        name="token-warning-s", group=AUTH, kind="number", default=60.0, maximum=86_400,
        help="How long before its token expires a WebSocket is sent TOKEN_EXPIRING, in seconds; 0 sends none.",
    ),
    Option(
        name="no-auth", group=AUTH, kind="flag", default=False,
        help="Let everybody do everything. For development on one machine.",
    ),
    Option(
        name="conceal-panels", group=AUTH, kind="flag", default=False, guards=True,
        help="Check the token before the panel on upgrade, and answer 404 for panels that the token may not read, so that "
        "nobody learns which ids exist.",
    ),
    Option(
        name="max-connections", group=CLIENTS, kind="integer", default=10_000, minimum=1, maximum=1_000_000,
        help="How many sockets clients may have open in all.",
    ),
    Option(
        name="max-connections-per-subject", group=CLIENTS, kind="integer", default=2_048, minimum=1, maximum=1_000_000,
        help="How many WebSockets one token subject may have; tokens without a subject, and all clients under no-auth, count as one.",
    ),
    Option(
        name="max-connections-per-address", group=CLIENTS, kind="integer", default=1_024, minimum=1, maximum=1_000_000,
        help="How many WebSockets, and how many other sockets, one address may have; an IPv6 address counts as its /64, and "
        "addresses of this machine are not limited.",
    ),
    Option(
        name="trusted-proxies", group=CLIENTS, kind="list",
        help="Networks of the proxies in front, like 10.0.0.0/8 or 127.0.0.1. What they say of a client's address in "
        "X-Forwarded-For or Forwarded is believed, and nobody else.",
    ),
    Option(
        name="upgrade-rate", group=CLIENTS, kind="number", default=100.0, maximum=1_000_000,
        help="How many WebSockets a second one address may open in the long run, and ten times as many at once; more are "
        "answered RATE_LIMITED. 0 sets no limit.",
    ),
    Option(
        name="auth-failure-rate", group=CLIENTS, kind="number", default=5.0, maximum=1_000_000,
        help="How many tokens a second that are not valid one address may send in the long run, and ten times as many at once; "
        "then it is answered RATE_LIMITED, but for tokens that have been verified before. 0 sets no limit.",
    ),
    Option(
        name="max-frame-bytes", group=CLIENTS, kind="bytes", default=MIB, minimum=KIB, maximum=16 * MIB,
        help="How large a WebSocket message from a client may be.",
    ),
    Option(
        name="max-body-bytes", group=CLIENTS, kind="bytes", default=4 * MIB, minimum=KIB, maximum=64 * MIB,
        help="How large the body of an HTTP request may be.",
    ),
    Option(
        name="max-in-flight", group=CLIENTS, kind="integer", default=256, minimum=1, maximum=16_384,
        help="How many unanswered triggers one WebSocket may have; one more is answered OVERLOADED.",
    ),
    Option(
        name="max-admitted", group=CLIENTS, kind="integer", default=64, minimum=1, maximum=16_384,
        help="How many of a WebSocket's triggers stand in the panel's queue at a time; the others wait with the connection.",
    ),
    Option(
        name="trigger-rate", group=CLIENTS, kind="number", default=0.0, maximum=1_000_000,
        help="How many triggers a second one WebSocket may send in the long run; more are answered RATE_LIMITED. 0 sets no limit.",
    ),
    Option(
        name="trigger-burst", group=CLIENTS, kind="integer", default=100, minimum=1, maximum=1_000_000,
        help="How many triggers one WebSocket may send at once before trigger-rate applies.",
    ),
    Option(
        name="message-rate", group=CLIENTS, kind="number", default=1_000.0, maximum=1_000_000,
        help="How many messages a second other than triggers one WebSocket may send in the long run, and twice as many at once; "
        "then it is closed with 1008. 0 sets no limit.",
    ),
    Option(
        name="send-buffer-soft-bytes", group=CLIENTS, kind="bytes", default=256 * KIB, minimum=16 * KIB, maximum=64 * MIB,
        help="How much may wait for one WebSocket that reads slowly; above it, its PATCHes are merged.",
    ),
    Option(
        name="send-buffer-hard-bytes", group=CLIENTS, kind="bytes", default=MIB, minimum=64 * KIB, maximum=256 * MIB,
        help="How much may wait for one WebSocket; above it, the WebSocket is closed with 1013.",
    ),
    Option(
        name="max-send-bytes", group=CLIENTS, kind="bytes", default=256 * MIB, minimum=64 * MIB, maximum=64 * GIB,
        help="How much memory large answers and states may take in all until clients have taken them; what many clients are "
        "sent alike counts once. Above it, more of them are answered OVERLOADED.",
    ),
    Option(
        name="panels", group=PANELS, kind="path",
        help="Folder with panel folders in it, or one of them: panels that are not there are made once workers are, and those "
        "that differ are given the definition in the folder. Their state stays; see docs/panel-folders.md.",
    ),
    Option(
        name="extensions", group=PANELS, kind="path",
        help="TOML file that says what handlers may call with $ext, and where to; see docs/extensions.md. Without it, they may "
        "call time, panels and human only.",
    ),
    Option(
        name="max-suspensions-per-panel", group=PANELS, kind="integer", default=100, minimum=1, maximum=100_000,
        help="How many handlers of one panel may wait at a time; one more fails.",
    ),
    Option(
        name="max-suspensions", group=PANELS, kind="integer", default=10_000, minimum=1, maximum=1_000_000,
        help="How many handlers may wait at a time in all.",
    ),
    Option(
        name="max-suspension-bytes-per-panel", group=PANELS, kind="bytes", default=64 * MIB, minimum=64 * KIB, maximum=1024 * GIB,
        help="How many bytes the handlers of one panel that wait may keep, compressed; one that would pass it fails.",
    ),
    Option(
        name="max-suspension-bytes", group=PANELS, kind="bytes", default=GIB, minimum=MIB, maximum=1024 * GIB,
        help="How many bytes handlers that wait may keep in all. They are in the data directory, and not in memory.",
    ),
    Option(
        name="suspension-ttl", group=PANELS, kind="number", default=604_800.0, minimum=1, maximum=31_536_000,
        help="How long a handler may wait in all, in seconds, before it fails.",
    ),
    Option(
        name="max-panels", group=PANELS, kind="integer", default=1_000_000, minimum=1, maximum=100_000_000,
        help="How many panels there may be in all, in memory or not.",
    ),
    Option(name="max-tools", group=PANELS, kind="integer", default=64, minimum=1, maximum=4_096, help="How many tools a panel may have."),
    Option(
        name="max-state-bytes", group=PANELS, kind="bytes", default=16 * MIB, minimum=KIB, maximum=32 * MIB,
        help="How large the state of a panel may be, as JSON.",
    ),
    Option(
        name="max-state-keys", group=PANELS, kind="integer", default=65_536, minimum=1, maximum=100_000,
        help="How many top-level keys the state of a panel may have.",
    ),
    Option(
        name="max-queue-per-panel", group=PANELS, kind="integer", default=1_024, minimum=1, maximum=65_536,
        help="How many triggers may wait for one panel; one more is answered OVERLOADED.",
    ),
    Option(
        name="max-queue", group=PANELS, kind="integer", default=16_384, minimum=1, maximum=1_048_576,
        help="How many triggers may wait in all.",
    ),
    Option(
        name="max-queue-bytes", group=PANELS, kind="bytes", default=64 * MIB, minimum=MIB, maximum=4 * GIB,
        help="How large the arguments of all triggers that wait may be together.",
    ),
    Option(
        name="queue-timeout-s", group=PANELS, kind="number", default=30.0, minimum=1, maximum=3_600,
        help="How long a trigger may wait, in seconds, until a worker is sent it; then it is answered UNAVAILABLE.",
    ),
    Option(
        name="compile-seconds", group=PANELS, kind="number", default=300.0, minimum=1, maximum=1_000_000,
        help="How many CPU seconds each token subject may have handlers compiled for within compile-window-s; above it, POST and PUT are answered QUOTA_EXCEEDED.",
    ),
    Option(
        name="compile-window-s", group=PANELS, kind="number", default=600.0, minimum=1, maximum=86_400,
        help="In how many seconds used compile-seconds are given back.",
    ),
    Option(
        name="max-fuel", group=HANDLERS, kind="integer", default=DEFAULT_MAXIMA.fuel, minimum=1, maximum=10**15,
        help="limits.fuel: about one unit per WebAssembly instruction.",
    ),
    Option(
        name="max-timeout-ms", group=HANDLERS, kind="integer", default=DEFAULT_MAXIMA.deadline_ms, minimum=1,
        maximum=600_000, help="limits.timeoutMs: milliseconds by the wall clock.",
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
        help="limits.events: how many events, and how many view commands.",
    ),
    Option(
        name="max-log-bytes", group=HANDLERS, kind="bytes", default=DEFAULT_MAXIMA.log_bytes, minimum=1, maximum=16 * MIB,
        help="limits.logBytes: how much log text is kept.",
    ),
    Option(
        name="quota-window-s", group=QUOTAS, kind="number", default=60.0, minimum=1, maximum=86_400,
        help="The window of the quotas below, in seconds: a quota that is used up has come back whole after it.",
    ),
    *(
        Option(
            name=f"quota-{unit}-per-{kind}", group=QUOTAS, kind="integer", default=0, maximum=10**15, guards=True,
            help=f"{what} that {whose} may use in each window; beyond it, its triggers are answered QUOTA_EXCEEDED. "
            "0 sets no quota.",
        )
        for kind, whose in (
            ("subject", "the triggers of one token subject"), ("panel", "one panel"), ("tool", "one tool of a panel"),
        )
        for unit, what in (("fuel", "Fuel"), ("ms", "Milliseconds of execution"))
    ),
    Option(
        name="breaker-failures", group=BREAKERS, kind="integer", default=10, maximum=1_000_000,
        help="After how many traps, time-outs, passed limits and lost workers in a row a tool is suspended; its triggers are "
        "answered CIRCUIT_OPEN. 0 suspends none.",
    ),
    Option(
        name="breaker-backoff-s", group=BREAKERS, kind="number", default=1.0, minimum=0.01, maximum=3_600,
        help="For how long a tool is suspended at first, in seconds. Then one trigger is let through: if it fails too, the tool "
        "is suspended for twice as long.",
    ),
    Option(
        name="breaker-max-backoff-s", group=BREAKERS, kind="number", default=60.0, minimum=0.01, maximum=86_400,
        help="For how long a tool is suspended at most before one trigger is let through, in seconds.",
    ),
)  # fmt: skip

TABLE: Final = OptionTable(
    program="panels-gateway",
    version=__version__,
    usage="panels-gateway [COMMAND] [OPTION ...]",
    description="Serves panels to WebSocket and HTTP clients and has workers run their handlers.\n\n"
    "With a command as its first argument it does that instead:\n\n"
    "  panels-gateway check-config           say what is wrong with the options\n"
    "  panels-gateway backup FILE            copy everything into one file\n"
    "  panels-gateway restore FILE           make a data directory of such a file\n"
    "  panels-gateway export PANEL [FILE]    write one panel as JSON\n"
    "  panels-gateway import FILE            make a panel of that JSON\n"
    "  panels-gateway verify                 read everything and say what is wrong\n\n"
    "Each of them has a --help of its own.",
    options=OPTIONS,
    config_variable="PANELS_CONFIG",
    foreign_prefixes=("PANELS_WORKER_", "PANELS_TEST_"),
    # the command line's
    foreign_variables=frozenset(["PANELS_URL", "PANELS_TOKEN", "PANELS_CLI_CONFIG"]),
    foreign_sections=frozenset(["worker"]),
)


if __name__ == "__main__":
    import sys

    sys.stdout.write(TABLE.annotated() if sys.argv[1:] == ["toml"] else TABLE.reference())
