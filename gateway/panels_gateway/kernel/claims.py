"""What a worker claims of a run, checked against the tool's own definition: it may be compromised. Pure.

The worker checked all of this while the handler ran, so an honest one never fails here. What can be true and
is only implausible, such as what a job used, is brought within its bounds instead. Nothing here is decoded
into objects beyond mutations, names of events and views: values that are not small are scanned as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import msgspec

from panels_gateway.broadcast.events import Event, decode_event
from panels_gateway.broadcast.messages import (
    MAX_FAILURE_CHARS,
    MAX_FAILURE_DETAILS_BYTES,
    decode_mutations,
    mutations_json,
)
from panels_gateway.panels.panel import Mutation
from panels_shared.errors import InvalidJsonError, PanelsError
from panels_shared.jsonvalue import SMALL_BYTES, vet
from panels_shared.messages import Tool
from panels_shared.names import Patterns
from panels_shared.outcome import Completed, ExtensionCall, Failed, Outcome, Suspended, Usage

#: Characters of the name of an event, a view or a view command; a security limit.
MAX_NAME_CHARS: Final = 256
#: How much longer than since its sending a run may say that it took: clocks are read at different moments.
SLACK_US: Final = 1_000
#: What stands around the key and the value of a mutation.
_SET_CHARS: Final = len('{"op":"set","key":,"value":}')
_DELETE_CHARS: Final = len('{"op":"delete","key":}')
#: Sets of capabilities that are remembered.
_GRANTS: Final = 1_024


class InvalidOutcomeError(PanelsError):
    """A worker reported what no handler of that tool can have done, or what is not JSON."""


class ViewCommand(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A view command as a worker reports it."""

    view_id: str
    command: str
    params: msgspec.Raw = msgspec.Raw(b"null")


#: What is small is decoded to be checked, here and not in ``vet``, whose call would cost as much again.
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_decode_views = msgspec.json.Decoder(list[ViewCommand]).decode


AnyOutcome = TypeVar("AnyOutcome", bound=Completed | Suspended)

Effects = tuple[list[Mutation], list[Event]]
"""What a run did, as far as the kernel looks at it: its mutations, and its events."""


class Grants(NamedTuple):
    """Which names the tool's capabilities reach; None where they reach all of them."""

    write: Patterns | None
    emit: Patterns | None
    update: Patterns | None
    call: Patterns | None


@lru_cache(maxsize=_GRANTS)
def grants(capabilities: tuple[str, ...]) -> Grants:
    """The grants of a tool's ``capabilities``."""
    return Grants(
        *(_patterns(capabilities, kind) for kind in ("state:write:", "events:emit:", "view:update:", "ext:"))
    )


def _patterns(capabilities: Iterable[str], kind: str) -> Patterns | None:
    texts = [text.removeprefix(kind) for text in capabilities if text.startswith(kind)]
    return None if "*" in texts else Patterns.of(texts)


def check(outcome: Completed | Suspended, tool: Tool) -> Effects:
    """The effects of a run of ``tool``. Raises ``InvalidOutcomeError`` where it cannot have had them."""
    text = outcome.mutations
    value = outcome.return_value if type(outcome) is Completed else b"null"
    size = len(text) + len(value)
    mutations: list[Mutation] = []
    events: list[Event] = []
    try:
        if text != b"[]":
            mutations = decode_mutations(text)
            _decode(text) if len(text) <= SMALL_BYTES else vet(text, wrapping=2)
            may_write = grants(tool.capabilities).write
            if may_write is not None and not all(may_write.matches(mutation.key) for mutation in mutations):
                raise InvalidOutcomeError("expected changes that the tool may make, got others")
        if outcome.events:
            size += _check_events(outcome.events, events, tool)
        if outcome.view_commands != b"[]":
            size += _check_views(outcome.view_commands, tool)
        if type(outcome) is Suspended:
            size += _check_calls(outcome.calls, tool)
        elif value != b"null":
            _decode(value) if len(value) <= SMALL_BYTES else vet(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidJsonError):
        raise InvalidOutcomeError("expected a result of valid JSON, got something else") from None
    most_bytes = tool.limits[4]
    if size > most_bytes and _charged(outcome, mutations) > most_bytes:
        raise InvalidOutcomeError(f"expected at most {most_bytes} bytes of output, got more")
    return mutations, events


def canonical(outcome: AnyOutcome, mutations: list[Mutation]) -> AnyOutcome:
    """``outcome`` with its mutations as clients and the record are to see them: what a worker put around them
    (members that are not known, or that come twice, and white space) is left out.

    ``mutations`` are those of the outcome, checked. An honest worker's text is returned as it is.
    """
    size = 1 + len(mutations)
    for mutation in mutations:
        size += len(_encode(mutation.key))
        if mutation.op == "set":
            size += _SET_CHARS + (
                memoryview(mutation.value).nbytes if mutation.value is not msgspec.UNSET else 0
            )
        else:
            size += _DELETE_CHARS
    if not mutations or size == len(outcome.mutations):
        return outcome
    plain = [mutation if mutation.op == "set" else Mutation("delete", mutation.key) for mutation in mutations]
    return msgspec.structs.replace(outcome, mutations=mutations_json(plain))


def _check_events(fragments: tuple[bytes, ...], events: list[Event], tool: Tool) -> int:
    """Adds the events to ``events``; their size in bytes."""
    most = tool.limits[5]
    if len(fragments) > most:
        raise InvalidOutcomeError(f"expected at most {most} events, got {len(fragments)}")
    may_emit = grants(tool.capabilities).emit
    size = 0
    for fragment in fragments:
        event = decode_event(fragment)
        name, to = event.name, event.to
        _decode(fragment) if len(fragment) <= SMALL_BYTES else vet(fragment, wrapping=1)
        if len(name) > MAX_NAME_CHARS or not (may_emit is None or may_emit.matches(name)):
            raise InvalidOutcomeError("expected events that the tool may emit, got others")
        if to is not None and not 1 <= len(to) <= MAX_NAME_CHARS:
            raise InvalidOutcomeError(f"expected subjects of 1 to {MAX_NAME_CHARS} characters, got others")
        size += len(fragment)
        events.append((name, fragment, to))
    return size


def _check_views(text: bytes, tool: Tool) -> int:
    views = _decode_views(text)
    vet(text, wrapping=2)
    may_update = grants(tool.capabilities).update
    if len(views) > tool.limits[5]:
        raise InvalidOutcomeError(f"expected at most {tool.limits[5]} view commands, got {len(views)}")
    for view in views:
        if max(len(view.view_id), len(view.command)) > MAX_NAME_CHARS or not (
            may_update is None or may_update.matches(view.view_id)
        ):
            raise InvalidOutcomeError("expected view commands that the tool may send, got others")
    return len(text)


def _check_calls(calls: tuple[ExtensionCall, ...], tool: Tool) -> int:
    may_call = grants(tool.capabilities).call
    for call in calls:
        if not (
            may_call is None
            or may_call.matches(call.extension)
            or may_call.matches(f"{call.extension}.{call.method}")
        ):
            raise InvalidOutcomeError("expected extension calls that the tool may make, got others")
        vet(call.args)
        if call.args.lstrip(b" \t\r\n")[:1] != b"[":
            raise InvalidOutcomeError(
                "expected arrays as the arguments of extension calls, got another value"
            )
    if len({call.call for call in calls}) != len(calls):
        raise InvalidOutcomeError("expected extension calls with numbers of their own, got one twice")
    return sum(len(call.args) for call in calls)


def _charged(outcome: Completed | Suspended, mutations: list[Mutation]) -> int:
    """What the worker counts as output: names and values, without the JSON around them."""
    size = 0
    for mutation in mutations:
        size += len(mutation.key)
        if mutation.value is not msgspec.UNSET:
            size += len(bytes(mutation.value))
    for fragment in outcome.events:
        event = decode_event(fragment)
        size += len(event.name) + len(bytes(event.payload)) + len(event.to or "")
    if outcome.view_commands != b"[]":
        for view in _decode_views(outcome.view_commands):
            size += len(view.view_id) + len(view.command) + len(bytes(view.params))
    if type(outcome) is Suspended:
        return size + sum(len(call.args) for call in outcome.calls)
    if type(outcome) is Completed and outcome.return_value != b"null":
        size += len(outcome.return_value)
    return size


def plausible(outcome: Outcome, tool: Tool, elapsed_s: float) -> Outcome:
    """``outcome`` with what it says of the job's use, its log and its failure within their bounds.

    ``elapsed_s`` is how long ago the run was sent, in seconds.
    """
    usage = outcome.usage
    fuel, _, memory, host_calls, _, _, log_bytes = tool.limits
    longest_us = int(elapsed_s * 1e6) + SLACK_US
    if not (
        -1 <= usage.fuel <= fuel
        and 0 <= usage.execution_us <= longest_us
        and 0 <= usage.memory_used_bytes <= memory
        and 0 <= usage.memory_peak_bytes <= memory
        and 0 <= usage.host_calls <= host_calls + 1
    ):
        usage = Usage(
            _within(usage.fuel, -1, fuel),
            _within(usage.execution_us, 0, longest_us),
            _within(usage.memory_used_bytes, 0, memory),
            _within(usage.memory_peak_bytes, 0, memory),
            _within(usage.host_calls, 0, host_calls + 1),
            usage.cache_hit,
        )
        outcome = msgspec.structs.replace(outcome, usage=usage)
    if outcome.log and sum(len(line.text) + 1 for line in outcome.log) > 2 * log_bytes + MAX_NAME_CHARS:
        outcome = msgspec.structs.replace(outcome, log=())
    if type(outcome) is Failed and (
        len(outcome.message) > MAX_FAILURE_CHARS or len(outcome.details) > MAX_FAILURE_DETAILS_BYTES
    ):
        details = outcome.details
        outcome = msgspec.structs.replace(
            outcome,
            message=outcome.message[:MAX_FAILURE_CHARS],
            details=details if len(details) <= MAX_FAILURE_DETAILS_BYTES else b"{}",
        )
    return outcome


def _within(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)
