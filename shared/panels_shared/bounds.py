"""The table of every bound of the system: what it bounds, in which unit, and what happens when it is reached.

``python -m panels_shared.bounds`` prints it as docs/limits.md has it. Numbers are not repeated here: those
of options come from the tables of options, all others from the constant that is named. A test looks for
constants named ``MAX_*`` in all three packages: each is in ``BOUNDS``, or in ``INTERNAL`` with the others
that nobody outside meets.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final, Literal, NamedTuple

from panels_shared.limits import KIB, MIB
from panels_shared.options import GIB, Option

Policy = Literal[
    "refused", "fails", "waits", "merged", "closed", "cut", "oldest forgotten", "replaced", "ends"
]

POLICIES: Final[dict[Policy, str]] = {
    "refused": "what is above the bound is answered at once with the code, and changes nothing",
    "fails": "the handler ends with the code as its reason, and changes nothing",
    "waits": "what is above the bound waits for its turn",
    "merged": "what waits is put together, so that it takes less",
    "closed": "the connection is closed with the code",
    "cut": "what is above the bound is left out",
    "oldest forgotten": "the oldest, or what was not used for longest, is forgotten",
    "replaced": "the process is ended, and another one takes its place",
    "ends": "the program ends with the exit code",
}


class Bound(NamedTuple):
    """One bound. ``name`` is an option (``--max-queue``) or a constant
    (``panels_shared.wire.MAX_MESSAGES``).

    ``code`` is what the one who reached it is told: a code of ERROR, a reason, an extension's code, a
    WebSocket close code, an HTTP status or an exit code; "" where nobody is told.
    """

    name: str
    what: str
    unit: str
    policy: Policy
    code: str = ""


def _of(prefix: str, *rows: tuple[str, str, str, Policy, str]) -> tuple[Bound, ...]:
    return tuple(Bound(prefix + name, what, unit, policy, code) for name, what, unit, policy, code in rows)


#: Group → its bounds. Options first.
BOUNDS: Final[dict[str, tuple[Bound, ...]]] = {
    "Connections and requests": (
        *_of(
            "--",
            ("max-connections", "sockets in all", "sockets", "refused", "HTTP 503"),
            ("max-connections-per-subject", "WebSockets of one subject, and its live readers of streams",
             "sockets", "refused", "OVERLOADED"),
            ("max-connections-per-address",
             "WebSockets, other sockets, and live readers of streams, of one address", "sockets", "refused",
             "OVERLOADED"),
            ("upgrade-rate", "WebSockets that one address opens in the long run", "per second", "refused",
             "RATE_LIMITED"),
            ("auth-failure-rate", "invalid tokens of one address in the long run", "per second", "refused",
             "RATE_LIMITED"),
            ("message-rate", "messages of one WebSocket, triggers aside, in the long run", "per second",
             "closed", "1008"),
            ("ping-interval-s", "time between two pings", "seconds", "waits", ""),
            ("ping-timeout-s", "time for a pong", "seconds", "closed", "1011"),
            ("token-warning-s", "time before the end of a token that its client is warned", "seconds",
             "waits", ""),
            ("max-send-bytes", "large states and answers that clients have not taken", "bytes", "refused",
             "OVERLOADED"),
            ("max-frame-bytes", "a WebSocket message; also the body of a trigger", "bytes", "closed", "1009"),
            ("max-body-bytes", "the body of an HTTP request", "bytes", "refused", "TOO_LARGE"),
            ("header-timeout-s", "time for the head of a request", "seconds", "closed", ""),
            ("body-timeout-s", "time for the body of a request", "seconds", "refused", "INVALID_REQUEST"),
            ("jwt-max-lifetime-s", "how far in the future a token may expire", "seconds", "refused",
             "UNAUTHORIZED"),
            ("shutdown-grace-s", "time for running triggers when the gateway stops", "seconds", "closed",
             "1012"),
        ),
        *_of(
            "panels_gateway.",
            ("http.protocol.MAX_HEAD_BYTES", "the head of a request", "bytes", "refused", "HTTP 431"),
            ("http.protocol.MAX_LINE_BYTES", "one header, and the URL", "bytes", "refused", "HTTP 431"),
            ("http.protocol.MAX_HEADERS", "headers of a request", "headers", "refused", "HTTP 431"),
            ("http.desk.MAX_RECEIVING_BYTES", "all bodies that are being received", "bytes", "refused",
             "OVERLOADED"),
            ("http.desk.MAX_DEFINING", "definitions whose handlers are being compiled", "definitions",
             "refused",
             "OVERLOADED"),
            ("http.panels.MAX_PAGE", "panels in one page of the list", "panels", "refused",
             "INVALID_REQUEST"),
            ("http.panels.MAX_FORK_BYTES", "the body of a fork", "bytes", "refused", "TOO_LARGE"),
            ("http.histories.MAX_COMMITS", "commits in one page of history", "commits", "refused",
             "INVALID_REQUEST"),
            ("http.histories.MAX_SEQ_DIGITS", "a version in a query", "digits", "refused", "INVALID_REQUEST"),
            ("http.histories.MAX_SEQ_BODY_BYTES", "the body of a revert or a replay", "bytes", "refused",
             "TOO_LARGE"),
            ("http.reader.MAX_READERS", "live readers of streams", "readers", "refused", "OVERLOADED"),
            ("broadcast.offsets.MAX_OFFSET_CHARS", "the offset of a stream", "characters", "refused",
             "INVALID_REQUEST"),
            ("kernel.streams.MAX_COMMITS", "commits in one page of a stream", "commits", "cut", ""),
            ("kernel.streams.MAX_PAGE_BYTES", "commits in one page of a stream, at least one commit",
             "bytes", "cut", ""),
            ("clients.websocket.MAX_FRAGMENTS", "fragments of one message", "frames", "closed", ""),
            ("clients.websocket.MAX_CONTROL_FRAMES_PER_S", "control frames of one client", "frames/s",
             "closed", ""),
            ("clients.recovery.MAX_EPOCH_CHARS", "the epoch that a client resumes from", "characters",
             "refused",
             "INVALID_REQUEST"),
            ("clients.recovery.MAX_SINCE_DIGITS", "the version that a client resumes from", "digits",
             "refused",
             "INVALID_REQUEST"),
            ("clients.recovery.MAX_RECOVERY_BYTES",
             "commits that a client is sent after it was away, else the state",
             "bytes", "cut", ""),
            ("access.tokens.MAX_TOKEN_CHARS", "a token", "characters", "refused", "UNAUTHORIZED"),
            ("access.tokens.MAX_SUBJECT_CHARS", "the subject of a token", "characters", "refused",
             "UNAUTHORIZED"),
            ("access.tokens.MAX_GRANTS", "entries of the claim panels", "entries", "refused", "UNAUTHORIZED"),
            ("access.tokens.MAX_PERMISSIONS_PER_GRANT", "permissions of one entry", "permissions", "refused",
             "UNAUTHORIZED"),
            ("access.tokens.MAX_CACHED_TOKENS", "verified tokens that are remembered", "tokens",
             "oldest forgotten", ""),
            ("configuration.config.MAX_SCOPE_CLAIMS", "claims that handlers are shown", "claims", "ends",
             "78"),
            ("configuration.config.MAX_CLAIM_CHARS", "the name of such a claim", "characters", "ends", "78"),
            ("access.tokens.MAX_SCOPE_CLAIMS_BYTES", "such claims of one token, as JSON", "bytes", "refused",
             "UNAUTHORIZED"),
            ("access.tokens.MAX_TOKEN_ID_CHARS", "the jti of a token", "characters", "refused",
             "UNAUTHORIZED"),
            ("access.revocations.MAX_REVOCATIONS", "revocations at a time", "revocations", "refused",
             "OVERLOADED"),
            ("http.revocations.MAX_PAGE", "revocations in one page", "revocations", "refused",
             "INVALID_REQUEST"),
            ("http.revocations.MAX_REVOCATION_BYTES", "the body of a revocation", "bytes", "refused",
             "TOO_LARGE"),
            ("http.revocations.MAX_LIFETIME_S", "time that a revocation is in effect", "seconds", "refused",
             "INVALID_REQUEST"),
            ("access.addresses.MAX_REMEMBERED", "addresses whose rates are remembered", "addresses",
             "oldest forgotten", ""),
            ("access.addresses.MAX_HOPS", "proxies that are looked past", "proxies", "cut", ""),
            ("access.addresses.MAX_HEADER_CHARS", "a proxy's header that is looked at", "characters", "cut",
             ""),
            ("access.keys.MAX_SECRET_FILE_BYTES", "the file with the secret", "bytes", "ends", "78"),
            ("access.keys.MAX_JWKS_FILE_BYTES", "the file with the JWK set", "bytes", "ends", "78"),
            ("access.keys.MAX_KEYS", "keys of a JWK set", "keys", "ends", "78"),
            ("access.keys.MAX_KID_CHARS", "the kid of a key", "characters", "ends", "78"),
            ("access.keys.MAX_KEYS_PER_KID", "keys of the same kid", "keys", "ends", "78"),
        ),
    ),
    "Messages of clients": (
        *_of(
            "--",
            ("max-in-flight", "unanswered triggers of one WebSocket", "triggers", "refused", "OVERLOADED"),
            ("max-admitted", "of these, triggers in the panel's queue", "triggers", "waits", ""),
            ("trigger-rate", "triggers of one WebSocket in the long run; 0 for any", "triggers/s", "refused",
             "RATE_LIMITED"),
            ("trigger-burst", "triggers of one WebSocket at once", "triggers", "refused", "RATE_LIMITED"),
            ("send-buffer-soft-bytes", "what waits for one WebSocket before PATCHes are merged", "bytes",
             "merged", ""),
            ("send-buffer-hard-bytes", "what waits for one WebSocket", "bytes", "closed", "1013"),
        ),
        *_of(
            "panels_gateway.",
            ("broadcast.explain.MAX_SEQ", "the version that a trigger expects", "", "refused", "PARSE_ERROR"),
            ("broadcast.messages.MAX_TOOL_CHARS", "the name of a tool in a trigger", "characters", "refused",
             "PARSE_ERROR"),
            ("broadcast.messages.MAX_TOPICS_PER_MESSAGE", "topics in one message", "topics", "refused",
             "PARSE_ERROR"),
            ("broadcast.messages.MAX_ANSWER_BYTES", "the answer to a question", "bytes", "refused",
             "TOO_LARGE"),
            ("broadcast.messages.MAX_SUSPENSION_CHARS", "the name of a suspension", "characters", "refused",
             "PARSE_ERROR"),
            ("broadcast.messages.MAX_CALL", "the number of a call in an answer", "", "refused",
             "PARSE_ERROR"),
            ("broadcast.messages.MAX_FAILURE_CHARS", "the message of a failure", "characters", "cut", ""),
            ("broadcast.messages.MAX_FAILURE_DETAILS_BYTES", "the details of a failure", "bytes", "cut", ""),
            ("broadcast.topics.MAX_TOPICS", "topics of one client", "topics", "refused", "PARSE_ERROR"),
            ("broadcast.topics.MAX_TOPIC_CHARS", "a topic", "characters", "refused", "PARSE_ERROR"),
            ("broadcast.presence.MAX_SUBJECTS", "subjects that presence names; the others are counted",
             "subjects", "cut", ""),
            ("broadcast.presence.MAX_CHANGED", "subjects in one change of presence; above it all are told",
             "subjects", "merged", ""),
            ("broadcast.explain.MAX_REQUEST_ID_CHARS", "a requestId", "characters", "refused", "PARSE_ERROR"),
            ("panels.answers.MAX_KEY_CHARS", "an idempotency key", "characters", "refused", "PARSE_ERROR"),
            ("panels.answers.MAX_FOLLOWERS", "triggers that wait under one key", "triggers", "refused",
             "OVERLOADED"),
            ("kernel.replays.MAX_REPLAYS", "replays that are under way", "replays", "refused", "OVERLOADED"),
            ("observe.recent_lines.MAX_LINES", "log lines of a panel that are kept to be shown", "lines",
             "oldest forgotten", ""),
            ("observe.recent_lines.MAX_CHARS", "the same, by size", "characters", "oldest forgotten", ""),
            ("observe.recent_lines.MAX_JOB_LINES", "log lines of one job that are kept to be shown", "lines",
             "oldest forgotten", ""),
            ("observe.recent_lines.MAX_LINE_CHARS", "one log line that is kept to be shown", "characters",
             "cut", ""),
            ("observe.recent_lines.MAX_TOTAL_CHARS", "log lines of all panels that are kept to be shown",
             "characters", "oldest forgotten", ""),
            ("kernel.intake.MAX_LOOKUPS", "stored answers that are being read", "answers", "refused",
             "OVERLOADED"),
        ),
        *_of(
            "panels_shared.",
            ("jsonvalue.MAX_DEPTH", "how deep JSON is nested", "levels", "refused", "PARSE_ERROR"),
            ("names.MAX_NAME_CHARS", "the id of a panel and the name of a tool", "characters", "refused",
             "INVALID_REQUEST"),
        ),
    ),
    "Panels and queues": (
        *_of(
            "--",
            ("max-queue-per-panel", "triggers that wait for one panel", "triggers", "refused", "OVERLOADED"),
            ("max-queue", "triggers that wait in all", "triggers", "refused", "OVERLOADED"),
            ("max-queue-bytes", "arguments of all triggers that wait", "bytes", "refused", "OVERLOADED"),
            ("max-panels", "panels in all", "panels", "refused", "TOO_MANY_PANELS"),
            ("max-tools", "tools of one panel", "tools", "refused", "INVALID_REQUEST"),
            ("max-state-bytes", "the state of one panel", "bytes", "fails", "LIMIT_EXCEEDED"),
            ("max-state-keys", "top-level keys of one state", "keys", "fails", "LIMIT_EXCEEDED"),
            ("max-suspensions-per-panel", "handlers of one panel that wait", "handlers", "fails",
             "LIMIT_EXCEEDED"),
            ("queue-timeout-s", "time that a trigger waits until a worker is sent it", "seconds", "refused",
             "UNAVAILABLE"),
            ("compile-seconds", "CPU time for handlers of one subject", "seconds", "refused",
             "QUOTA_EXCEEDED"),
            ("compile-window-s", "time in which used compile-seconds come back", "seconds", "refused",
             "QUOTA_EXCEEDED"),
            ("max-suspension-bytes", "images of handlers that wait in all", "bytes", "fails",
             "LIMIT_EXCEEDED"),
            ("max-suspension-bytes-per-panel", "images of one panel's handlers that wait", "bytes", "fails",
             "LIMIT_EXCEEDED"),
            ("max-suspensions", "handlers that wait in all", "handlers", "fails", "LIMIT_EXCEEDED"),
            ("suspension-ttl", "how long a handler waits", "seconds", "fails", "TIMEOUT"),
            ("quota-window-s", "the window of the quotas", "seconds", "refused", "QUOTA_EXCEEDED"),
            ("quota-fuel-per-subject", "fuel of one subject; 0 for any", "units", "refused",
             "QUOTA_EXCEEDED"),
            ("quota-ms-per-subject", "execution of one subject; 0 for any", "ms", "refused",
             "QUOTA_EXCEEDED"),
            ("quota-fuel-per-panel", "fuel of one panel; 0 for any", "units", "refused", "QUOTA_EXCEEDED"),
            ("quota-ms-per-panel", "execution of one panel; 0 for any", "ms", "refused", "QUOTA_EXCEEDED"),
            ("quota-fuel-per-tool", "fuel of one tool; 0 for any", "units", "refused", "QUOTA_EXCEEDED"),
            ("quota-ms-per-tool", "execution of one tool; 0 for any", "ms", "refused", "QUOTA_EXCEEDED"),
            ("breaker-failures", "failures of one tool in a row; 0 for any", "failures", "refused",
             "CIRCUIT_OPEN"),
            ("breaker-backoff-s", "how long a tool is suspended at first", "seconds", "refused",
             "CIRCUIT_OPEN"),
            ("breaker-max-backoff-s", "how long a tool is suspended at most", "seconds", "refused",
             "CIRCUIT_OPEN"),
        ),
        *_of(
            "panels_gateway.",
            ("panels.definition_body.MAX_TITLE_CHARS", "the title of a panel", "characters", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_DESCRIPTION_CHARS", "the description of a tool", "characters",
             "refused", "INVALID_REQUEST"),
            ("panels.definition_body.MAX_METADATA_BYTES", "the metadata of a panel", "bytes", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_CAPABILITIES", "capabilities in one list", "capabilities", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_CAPABILITY_CHARS", "a capability", "characters", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_KEY_BYTES", "a key of the first state", "bytes", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_TRIGGER_TEXT_CHARS", "the text of a tool's trigger", "characters",
             "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_INTERVAL_MS", "an interval", "ms", "refused", "INVALID_REQUEST"),
            ("panels.definition_body.MAX_ELEMENTS", "values in a definition", "values", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_QUOTA", "a quota of a definition", "units, ms", "refused",
             "INVALID_REQUEST"),
            ("panels.definition_body.MAX_QUOTA_WINDOW_S", "the window of such a quota", "seconds", "refused",
             "INVALID_REQUEST"),
            ("panels.schema.MAX_SCHEMA_BYTES", "the schema of a tool", "bytes", "refused", "INVALID_REQUEST"),
            ("panels.schema.MAX_SCHEMAS", "schemas within a schema", "schemas", "refused", "INVALID_REQUEST"),
            ("panels.schema.MAX_SCHEMA_DEPTH", "nesting of schemas", "levels", "refused", "INVALID_REQUEST"),
            ("panels.schema.MAX_PATTERN_CHARS", "a pattern of a schema", "characters", "refused",
             "INVALID_REQUEST"),
            ("panels.schema.MAX_OVERLAPS", "schemas that look at values beside others", "schemas", "refused",
             "INVALID_REQUEST"),
            ("panels.schema.MAX_STEPS", "what checking arguments may cost", "steps", "refused",
             "INVALID_ARGUMENTS"),
            ("panels.schema.MAX_EXPLAINED_STEPS", "the same, where the place is told of what does not match",
             "steps", "cut", ""),
            ("panels.schema.MAX_PROBLEM_CHARS", "what is told of arguments that do not match", "characters",
             "cut", ""),
            ("panels.panel.MAX_KEY_CHARS", "a key of the state", "characters", "fails", "LIMIT_EXCEEDED"),
            ("panels.quota.MAX_ACCOUNTS", "accounts of subjects, of panels and of tools, each", "accounts",
             "oldest forgotten", ""),
            ("panels.schedule.MAX_MISSED", "due times that are caught up on", "runs", "cut", ""),
            ("kernel.timers.MAX_DEPTH", "tools that cause one another to run", "levels", "cut", ""),
            ("kernel.calls.MAX_DEPTH", "panels that trigger one another", "levels", "refused", "OVERLOADED"),
            ("kernel.calls.MAX_SLEEP_MS", "a sleep of a handler", "ms", "refused", "extension_arguments"),
            ("kernel.resuming.MAX_RESUMING", "handlers that are being resumed", "handlers", "waits", ""),
            ("kernel.breakers.MAX_CALLERS", "callers of one failing tool that are told apart", "callers",
             "merged", ""),
            ("kernel.calls.MAX_LOSSES", "extension processes that one call may take with it", "processes",
             "fails", "extension_lost"),
            ("kernel.resuming.MAX_RESUMING_BYTES", "images of handlers that are being resumed", "bytes",
             "waits", ""),
            ("http.desk.MAX_DEFINING_PER_SUBJECT", "definitions of one subject that are being compiled",
             "definitions", "refused", "OVERLOADED"),
            ("dispatch.compile_queue.MAX_SUBJECTS", "subjects whose compile seconds are remembered",
             "subjects", "oldest forgotten", ""),
            ("kernel.claims.MAX_NAME_CHARS", "the name of an event, a view or a view command", "characters",
             "fails", "INVALID_RESULT"),
            ("kernel.suspension.MAX_EXCHANGES", "exchanges with other hosts that a record names",
             "exchanges", "cut",
             ""),
        ),
    ),
    "Handlers": (
        *_of(
            "--",
            ("max-fuel", "fuel of one run", "units", "fails", "FUEL_EXHAUSTED"),
            ("max-timeout-ms", "one run", "ms", "fails", "TIMEOUT"),
            ("max-memory-bytes", "linear memory of one run", "bytes", "fails", "MEMORY_LIMIT"),
            ("max-host-calls", "calls out of the sandbox in one run", "calls", "fails", "LIMIT_EXCEEDED"),
            ("max-output-bytes", "what one run changes, emits and returns", "bytes", "fails",
             "LIMIT_EXCEEDED"),
            ("max-events", "events, and view commands, of one run", "events", "fails", "LIMIT_EXCEEDED"),
            ("max-log-bytes", "log text of one run", "bytes", "cut", ""),
        ),
        *_of(
            "panels_shared.",
            ("limits.MAX_WASM_STACK_BYTES", "the stack of a guest", "bytes", "fails", "STACK_OVERFLOW"),
            ("limits.MAX_IMAGE_BYTES", "a handler that waits, compressed", "bytes", "fails",
             "LIMIT_EXCEEDED"),
            ("limits.MAX_CALLS", "extension calls of one segment", "calls", "fails", "LIMIT_EXCEEDED"),
            ("limits.MAX_OPEN_CALLS", "extension calls of one handler that wait", "calls", "fails",
             "LIMIT_EXCEEDED"),
            ("limits.MAX_EXTENSION_NAME_CHARS", "the name of an extension, and of a method", "characters",
             "fails",
             "LIMIT_EXCEEDED"),
            ("limits.MAX_CALL_ARGS_BYTES", "the arguments of an extension call", "bytes", "fails",
             "LIMIT_EXCEEDED"),
            ("limits.MAX_HANDLER_CODE_CHARS", "the code of a handler's failure", "characters", "cut", ""),
            ("limits.MAX_HANDLER_DETAILS_BYTES", "the details of a handler's failure", "bytes", "cut", ""),
            ("limits.MAX_ANSWER_BYTES", "the answer of an extension", "bytes", "refused", "extension_result"),
            ("handlers.MAX_WASM_BYTES", "a WebAssembly binary", "bytes", "refused", "INVALID_REQUEST"),
            ("handlers.MAX_WAT_BYTES", "a WebAssembly text", "bytes", "refused", "INVALID_REQUEST"),
            ("handlers.MAX_SCRIPT_BYTES", "a script with the modules that it imports", "bytes", "refused",
             "INVALID_REQUEST"),
            ("script_modules.MAX_MODULES", "modules that the tools of a panel share", "modules", "refused",
             "INVALID_REQUEST"),
            ("script_modules.MAX_MODULE_NAME_CHARS", "the name of one", "characters", "refused",
             "INVALID_REQUEST"),
            ("handlers.MAX_ENTRY_CHARS", "the name of the export that runs", "characters", "refused",
             "INVALID_REQUEST"),
        ),
        *_of(
            "panels_worker.",
            ("guest.effects.MAX_KEY_CHARS", "a key that a handler sets", "characters", "fails", "TRAP"),
            ("guest.abi.MAX_MESSAGE_CHARS", "the message of a handler that fails", "characters", "cut", ""),
            ("guest.effects.MAX_NAME_CHARS", "the name of an event or of a view", "characters", "fails",
             "TRAP"),
            ("guest.abi.MAX_RANDOM_BYTES", "random bytes in one call", "bytes", "fails", "LIMIT_EXCEEDED"),
            ("guest.engine.MAX_TABLE_ELEMENTS", "elements of a table", "elements", "refused",
             "INVALID_HANDLER"),
            ("guest.engine.MAX_INSTANCE_BYTES", "what an instance takes besides its memory", "bytes",
             "refused",
             "INVALID_HANDLER"),
            ("guest.image.MAX_GLOBALS", "globals of a module that can wait", "globals", "fails",
             "RESUME_FAILED"),
            ("javascript.guest.MAX_JS_STACK_BYTES", "the stack of a script", "bytes", "fails",
             "STACK_OVERFLOW"),
            ("javascript.guest.MAX_STRING_BYTES", "a string that leaves the guest", "bytes", "fails", "TRAP"),
            ("javascript.namespaces.MAX_NAMESPACES", "namespaces of a TypeScript handler", "namespaces",
             "refused",
             "INVALID_HANDLER"),
            ("javascript.typescript.MAX_OUTPUT_BYTES", "a TypeScript handler as JavaScript", "bytes",
             "refused",
             "INVALID_HANDLER"),
            ("compiling.preflight.MAX_PARAMS", "parameters of a function", "parameters", "refused",
             "INVALID_HANDLER"),
            ("compiling.reader.MAX_ITEMS", "items of a section", "items", "refused", "INVALID_HANDLER"),
            ("compiling.reader.MAX_NAME_BYTES", "a name in a module", "bytes", "refused", "INVALID_HANDLER"),
        ),
    ),
    "The record": (
        *_of(
            "--",
            ("history-commits", "commits of one panel that can be read back", "commits", "oldest forgotten",
             "HISTORY_GONE"),
            ("history-bytes", "the history of one panel", "bytes", "oldest forgotten", "HISTORY_GONE"),
            ("history-ttl", "how long commits can be read back", "seconds", "oldest forgotten",
             "HISTORY_GONE"),
            ("idempotency-ttl", "how long an answered key is kept", "seconds", "oldest forgotten", ""),
            ("idempotency-keys", "answered keys of one panel", "keys", "oldest forgotten", ""),
            ("max-backlog-bytes", "the log that waits to be folded", "bytes", "refused", "OVERLOADED"),
            ("max-resident-bytes", "state in memory; panels in use stay", "bytes", "oldest forgotten", ""),
        ),
        *_of(
            "panels_gateway.",
            ("journal.frames.MAX_PAYLOAD_BYTES", "one batch of the log", "bytes", "ends", "74"),
            ("journal.verify.MAX_FINDINGS", "findings that verify prints", "findings", "cut", ""),
            ("commands.panel_files.MAX_EXPORT_BYTES", "the file of an exported panel", "bytes", "ends", "65"),
        ),
    ),
    "Extensions": (
        *_of(
            "panels_gateway.extensions.",
            ("config.MAX_CONFIG_BYTES", "the file of --extensions", "bytes", "ends", "78"),
            ("messages.MAX_NAME_CHARS", "the name of an extension or a method", "characters", "ends", "78"),
            ("messages.MAX_METHODS", "methods of all extensions", "methods", "ends", "78"),
            ("messages.MAX_ARGUMENTS_BYTES", "the arguments of a call", "bytes", "refused",
             "extension_arguments"),
            ("messages.MAX_RESULT_BYTES", "the result of a call", "bytes", "refused", "extension_result"),
            ("messages.MAX_LEDGER_ENTRIES", "exchanges with other hosts of one call", "exchanges", "cut", ""),
            ("errors.MAX_MESSAGE_CHARS", "the message of a failed call", "characters", "cut", ""),
            ("http.policy.MAX_URL_CHARS", "a URL of $ext.http", "characters", "refused",
             "extension_arguments"),
            ("framing.MAX_FRAME_BYTES", "a message to and from the process", "bytes", "replaced",
             "extension_lost"),
            ("child.MAX_UNSENT_BYTES", "what waits for the process", "bytes", "replaced", "extension_lost"),
            ("child.MAX_LINE_BYTES", "a line that the process logs", "bytes", "cut", ""),
        ),
    ),
    "Gateway and workers": (
        *_of(
            "panels_shared.",
            ("wire.MAX_FRAME_BYTES", "a frame between gateway and worker", "bytes", "closed", ""),
            ("wire.MAX_MESSAGES", "messages in one frame", "messages", "closed", ""),
            ("limits.MAX_ELEMENTS", "elements of an array or a map in a frame", "values", "closed", ""),
            ("messages.MAX_LABELS", "labels of a pool", "labels", "closed", ""),
            ("messages.MAX_REFUSAL_CHARS", "why a pool refuses a handler", "characters", "closed", ""),
            ("buskey.MAX_BUS_KEY_FILE_BYTES", "the file with the bus key", "bytes", "ends", "78"),
        ),
        *_of(
            "panels_gateway.bus.",
            ("broker.MAX_PARTS", "parts of one message", "parts", "cut", ""),
            ("admission.MAX_HELLO_FRAME_BYTES", "a frame of a peer that is not admitted", "bytes", "cut", ""),
            ("admission.MAX_SANDBOXES_PER_POOL", "sandboxes of one pool", "sandboxes", "refused", ""),
            ("admission.MAX_SPENT_PER_POOL", "sandboxes that ended and are remembered", "sandboxes",
             "oldest forgotten", ""),
        ),
        *_of(
            "panels_gateway.dispatch.",
            ("members.MAX_WORKERS", "sandboxes that are connected", "sandboxes", "refused", ""),
            ("members.MAX_POOLS", "pools that are connected", "pools", "refused", ""),
            ("members.MAX_LOSSES", "workers that one run may take with it", "workers", "fails",
             "WORKER_LOST"),
            ("members.MAX_INTERRUPTIONS", "workers that come or go while they run one trigger", "workers",
             "fails", "WORKER_LOST"),
            ("watch.MAX_ATTEMPTS", "full deadlines that one run may spend in vain", "deadlines", "fails",
             "WORKER_LOST"),
            ("dispatcher.MAX_MISSES", "times that a worker lacks something for one run", "times", "fails",
             "WORKER_LOST"),
            ("fleet.MAX_CREDIT", "runs that a sandbox is sent ahead", "runs", "waits", ""),
            ("catalog.MAX_REFUSALS", "refused handlers that are remembered", "handlers",
             "oldest forgotten", ""),
        ),
        *_of(
            "panels-worker --",
            ("processes", "sandboxes of one pool", "processes", "refused", ""),
            ("replica-bytes", "state that a sandbox keeps", "bytes", "oldest forgotten", ""),
            ("max-programs", "handlers that a sandbox keeps loaded", "handlers", "oldest forgotten", ""),
            ("data-bytes", "memory that a sandbox may write to", "bytes", "replaced", "WORKER_LOST"),
            ("max-rss-bytes", "resident memory of a sandbox", "bytes", "replaced", ""),
            ("max-jobs", "jobs of one sandbox", "jobs", "replaced", ""),
            ("max-age-s", "age of a sandbox", "seconds", "replaced", ""),
            ("max-job-s", "how long a sandbox may run one job", "seconds", "replaced", "WORKER_LOST"),
            ("grace-s", "how long a sandbox may take to stop", "seconds", "replaced", ""),
        ),
        *_of(
            "panels_worker.",
            ("artifacts.MAX_ARTIFACT_BYTES", "one compiled handler", "bytes", "refused", "INVALID_HANDLER"),
            ("artifacts.MAX_CACHE_BYTES", "all compiled handlers on disk", "bytes", "oldest forgotten", ""),
            ("bus.peer.MAX_BAD_FRAMES", "bad frames in a row", "frames", "ends", ""),
            ("pool.child.MAX_LOG_BYTES", "what a sandbox may log in its life", "bytes", "cut", ""),
            ("pool.conversation.MAX_UNSENT", "messages that wait for the gateway", "messages",
             "oldest forgotten", ""),
            ("sandbox.replica.MAX_UNDO", "jobs that a replica can be taken back by", "jobs",
             "oldest forgotten", ""),
            ("compiling.compiler.MAX_REMEMBERED", "refused handlers that a pool remembers", "handlers",
             "oldest forgotten", ""),
        ),
        *_of(
            "panels_shared.loglines.",
            ("MAX_LINE_BYTES", "a line that a sandbox or the extension process logs", "bytes", "cut", ""),
            ("MAX_EVENT_CHARS", "the text in it", "characters", "cut", ""),
            ("MAX_TRACE_CHARS", "the traceback in it", "characters", "cut", ""),
            ("MAX_FIELD_CHARS", "an id or a path beside a line of the log", "characters", "cut", ""),
        ),
    ),
    "Panel folders": _of(
        "panels_shared.",
        ("panel_folder.MAX_PANEL_FILE_BYTES", "panel.toml", "bytes", "refused", ""),
        ("panel_folder.MAX_HANDLER_BYTES", "the file of a handler", "bytes", "refused", ""),
        ("panel_folder.MAX_STATE_FILE_BYTES", "the file of an initial state", "bytes", "refused", ""),
        ("panel_folder.MAX_TOOLS", "tools of a folder; the gateway's bound is lower", "tools", "refused", ""),
        ("panel_files.MAX_FOLDERS", "panel folders below one folder", "folders", "refused", ""),
        ("panel_files.MAX_DEPTH", "how deep they are looked for", "folders", "cut", ""),
        ("panel_files.MAX_VISITED", "folders that are looked into for them", "folders", "cut", ""),
    ),
}  # fmt: skip

#: Constants named MAX_* that are no bound of what anybody sends or keeps: how much is done or shown at a
#: time, and sanity checks of the programs' own data.
INTERNAL: Final = frozenset(
    {
        "panels_gateway.broadcast.explain.MAX_TOKENS",
        "panels_gateway.broadcast.offsets.MAX_CURSOR_DIGITS",
        "panels_gateway.dispatch.backlog.MAX_RETRY_AFTER_MS",
        "panels_gateway.clients.websocket.MAX_RETRY_MS",
        "panels_shared.handlers.MAX_COMPOSING_BYTES",
        "panels_worker.javascript.guest.MAX_SPECIFIER_BYTES",
        "panels_gateway.dispatch.fleet.MAX_EXECUTION_US",
        "panels_gateway.dispatch.fleet.MAX_POSITIONS",
        "panels_gateway.journal.pressure.MAX_BACKLOG_BYTES",
        "panels_gateway.access.addresses.MAX_PEERS",
        "panels_gateway.bus.admission.MAX_POOLS_REMEMBERED",
        "panels_gateway.bus.admission.MAX_POOLS_SHOWN",
        "panels_gateway.bus.budgets.MAX_PEERS",
        "panels_gateway.clients.lifetime.MAX_SLEEP_S",
        "panels_gateway.dispatch.compile_queue.MAX_CHARGE_S",
        "panels_gateway.dispatch.returns.MAX_PEERS",
        "panels_gateway.extensions.confinement.MAX_FILES",
        "panels_gateway.http.health.MAX_MISSING",
        "panels_gateway.kernel.images.MAX_BEHIND",
        "panels_gateway.kernel.listing.MAX_LOOKED_AT",
        "panels_gateway.kernel.residents.MAX_DAMAGED",
        "panels_gateway.kernel.streams.MAX_RECENT",
        "panels_gateway.observe.top_panels.MAX_PANELS",
        "panels_shared.messages.MAX_CPU_MS",
        "panels_shared.messages.MAX_ID_BYTES",
        "panels_shared.messages.MAX_LAYERS",
        "panels_shared.messages.MAX_REASON_CHARS",
        "panels_shared.messages.MAX_SHORT_CHARS",
        "panels_worker.bus.link.MAX_RECONNECT_MS",
        "panels_worker.sandbox.ticker.MAX_TICKS",
        "panels_gateway.kernel.turn.MAX_BATCH_BYTES",
        "panels_gateway.kernel.turn.MAX_BATCH_RECORDS",
        "panels_gateway.observe.tracing.MAX_CHARS",
        "panels_gateway.panels.definition_body.MAX_SHOWN_CHARS",
        "panels_shared.endpoint.MAX_IPC_PATH_BYTES",
        "panels_shared.endpoint.MAX_KEY_FILE_BYTES",
        "panels_shared.options.MAX_CONFIG_FILE_BYTES",
        "panels_shared.snippet.MAX_SNIPPET_CHARS",
        "panels_shared.options.MAX_LOGGERS",
        "panels_worker.bus.peer.MAX_SESSION_BYTES",
        "panels_worker.compiling.compile.MAX_REQUEST_BYTES",
        "panels_worker.config.MAX_PROCESSES",
        "panels_worker.guest.store.MAX_EXPORTS",
        "panels_worker.javascript.errors.MAX_FRAMES",
        "panels_worker.javascript.errors.MAX_MESSAGE_CHARS",
        "panels_worker.javascript.errors.MAX_NAME_CHARS",
        "panels_worker.javascript.flags.MAX_CANDIDATES",
        "panels_worker.javascript.forms.MAX_SEMICOLONS",
        "panels_worker.javascript.guest.MAX_IMAGE_BYTES",
        "panels_worker.javascript.namespaces.MAX_ENDS",
        "panels_worker.javascript.positions.MAX_LOOKS",
        "panels_worker.javascript.positions.MAX_SEARCHED_CHARS",
        "panels_worker.pool.conversation.MAX_READS",
        "panels_worker.pool.pool.MAX_WAIT_S",
        "panels_worker.sandbox.loop.MAX_READS",
        "panels_worker.sandbox.loop.MAX_WAIT_S",
        "panels_worker.title.MAX_BYTES",
        "panels_worker.sandbox.process.MAX_CONFIG_BYTES",
    }
)

_TABLES: Final = {
    "--": "panels_gateway.configuration.options",
    "panels-worker --": "panels_worker.config",
}


def options(prefix: str) -> dict[str, Option]:
    """The options whose names begin with ``prefix`` in the table, by that name."""
    table: Any = importlib.import_module(_TABLES[prefix]).TABLE
    return {prefix + option.name: option for option in table.options}


def constant(name: str) -> float:
    """The number that a dotted name like ``panels_shared.wire.MAX_MESSAGES`` stands for."""
    module, _, attribute = name.rpartition(".")
    value: float = getattr(importlib.import_module(module), attribute)
    return value


def _shown(value: object, unit: str) -> str:
    if not isinstance(value, int | float):
        return "–"
    if unit == "bytes":
        for name, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
            if value >= size and value % size == 0:
                return f"{int(value) // size} {name}"
    return f"{value:,.15g}"


def reference() -> str:
    """The tables in Markdown. Every package must be installed."""
    known = {name: option for prefix in _TABLES for name, option in options(prefix).items()}
    lines = ["| When a bound is reached | |", "|---|---|"]
    lines += [f"| {policy} | {meaning} |" for policy, meaning in POLICIES.items()]
    for group, bounds in BOUNDS.items():
        lines += ["", f"## {group}", ""]
        lines += [
            "| What | Unit | Default | Up to | Set by | When it is reached | Code |",
            "|---|---|---|---|---|---|---|",
        ]
        for bound in bounds:
            option = known.get(bound.name)
            if option is None:
                default, most = _shown(constant(bound.name), bound.unit), ""
            else:
                default, most = _shown(option.default, bound.unit), _shown(option.maximum, bound.unit)
                default = option.shown_default or default
            code = f"`{bound.code}`" if bound.code else ""
            cells = (bound.what, bound.unit, default, most, f"`{bound.name}`", bound.policy, code)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
