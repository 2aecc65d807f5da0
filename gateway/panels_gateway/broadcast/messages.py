"""The client protocol's messages: decoding what clients send, encoding what they are sent. Pure.

``docs/protocol.md`` describes every message. Server messages are assembled from JSON that was validated
before, so that no value is decoded and encoded again on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from panels_gateway.access.tokens import MAX_TOKEN_CHARS
from panels_gateway.broadcast.explain import (
    MAX_REQUEST_ID_CHARS,
    MAX_SEQ,
    Field,
    check_anything,
    check_request_id,
    check_seq,
    check_text,
    check_texts,
    kind_of,
    members_of,
    problem_in,
    request_id_in,
    shown,
)
from panels_gateway.broadcast.topics import MAX_TOPIC_CHARS
from panels_gateway.panels.answers import MAX_KEY_CHARS
from panels_gateway.panels.panel import Mutation
from panels_gateway.panels.trigger import Answer, Failure, Progress, Refused, Succeeded
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError, RequestError
from panels_shared.failure import CODE_FIELD, DETAILS_FIELD, vetted
from panels_shared.limits import KIB
from panels_shared.outcome import Completed, Failed, Usage

#: Security limits on what a client message names.
MAX_TOOL_CHARS: Final = 128
MAX_TOPICS_PER_MESSAGE: Final = 256
#: Security limits on an answer to a question: bytes of its value, characters of its suspension, its call.
MAX_ANSWER_BYTES: Final = 64 * KIB
MAX_SUSPENSION_CHARS: Final = 64
MAX_CALL: Final = 2**31 - 1
#: Security limits on what a worker says of a failure: characters of its message, bytes of its details.
MAX_FAILURE_CHARS: Final = 4_096
MAX_FAILURE_DETAILS_BYTES: Final = 64 * KIB

_NULL: Final = msgspec.Raw(b"null")


class Trigger(msgspec.Struct, frozen=True, tag="TRIGGER", tag_field="type", gc=False):
    """TRIGGER: run ``tool``. ``args`` is any JSON value, null when absent. ``expectedSeq`` is the version
    that the panel must have then, None for any. A ``traceparent`` that is not one is as good as none.
    """

    tool: str
    args: msgspec.Raw = _NULL
    requestId: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the protocol's name
    idempotencyKey: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the protocol's name
    expectedSeq: int | None = None  # noqa: N815 - the protocol's name
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class Subscribe(msgspec.Struct, frozen=True, tag="SUBSCRIBE", tag_field="type"):
    """SUBSCRIBE: add ``topics``. With a ``requestId`` it is answered by SUBSCRIBED."""

    topics: list[str]
    requestId: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the protocol's name


class Unsubscribe(msgspec.Struct, frozen=True, tag="UNSUBSCRIBE", tag_field="type"):
    """UNSUBSCRIBE: remove ``topics``. With a ``requestId`` it is answered by SUBSCRIBED."""

    topics: list[str]
    requestId: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the protocol's name


class AnswerQuestion(msgspec.Struct, frozen=True, tag="ANSWER", tag_field="type"):
    """ANSWER: ``value`` answers a question of a handler that waits. ``call`` None: the only open one."""

    suspensionId: str  # noqa: N815 - the protocol's name
    value: msgspec.Raw
    call: int | None = None
    requestId: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the protocol's name


class Refresh(msgspec.Struct, frozen=True, tag="REFRESH", tag_field="type"):
    """REFRESH: ``token`` takes the place of the one that the client came with. Answered by REFRESHED."""

    token: str
    requestId: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the protocol's name

    def __repr__(self) -> str:
        """Nothing that a log might show."""
        return "Refresh()"


class Ping(msgspec.Struct, frozen=True, tag="PING", tag_field="type"):
    """PING: answered by PONG."""


ClientMessage = Trigger | Subscribe | Unsubscribe | AnswerQuestion | Refresh | Ping


class MessageError(RequestError):
    """A client message that is refused. ``request_id`` is its requestId, if one could be read."""

    def __init__(self, code: Code, message: str, request_id: str | None = None) -> None:
        super().__init__(code, message)
        self.request_id = request_id


_message_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_mutations_decoder: msgspec.json.Decoder[list[Mutation]] = msgspec.json.Decoder(list[Mutation])
_encode = msgspec.json.Encoder().encode


def decode(text: bytes | str) -> ClientMessage:
    """The message in a text frame. Raises ``MessageError``: PARSE_ERROR or UNKNOWN_MESSAGE."""
    try:
        message = _message_decoder.decode(text)
        if type(message) is Trigger:
            request_id = message.requestId
            key = message.idempotencyKey
            expected = message.expectedSeq
            sound = (
                len(message.tool) <= MAX_TOOL_CHARS
                and (request_id is msgspec.UNSET or len(request_id) <= MAX_REQUEST_ID_CHARS)
                and (key is msgspec.UNSET or (0 < len(key) <= MAX_KEY_CHARS and key.isprintable()))
                and (expected is None or 0 <= expected <= MAX_SEQ)
            )
            jsonvalue.validate(bytes(message.args))
        elif isinstance(message, AnswerQuestion):
            sound = (
                len(message.suspensionId) <= MAX_SUSPENSION_CHARS
                and (message.call is None or 0 <= message.call <= MAX_CALL)
                and (message.requestId is msgspec.UNSET or len(message.requestId) <= MAX_REQUEST_ID_CHARS)
            )
            jsonvalue.validate(bytes(message.value))
        elif isinstance(message, Refresh):
            sound = len(message.token) <= MAX_TOKEN_CHARS and (
                message.requestId is msgspec.UNSET or len(message.requestId) <= MAX_REQUEST_ID_CHARS
            )
        else:
            sound = type(message) is Ping or (
                not isinstance(message, (Trigger, Ping))
                and len(message.topics) <= MAX_TOPICS_PER_MESSAGE
                and all(len(topic) <= MAX_TOPIC_CHARS for topic in message.topics)
                and (message.requestId is msgspec.UNSET or len(message.requestId) <= MAX_REQUEST_ID_CHARS)
            )
    except (msgspec.DecodeError, InvalidJsonError, UnicodeError, RecursionError):
        raise _explain(text) from None
    if not sound:
        raise _explain(text)
    return message


def check_key(value: object) -> str | None:
    """What is wrong with an idempotency key; None if nothing is."""
    if not isinstance(value, str):
        return f"expected a string, got {kind_of(value)}"
    if not (0 < len(value) <= MAX_KEY_CHARS and value.isprintable()):
        return f"expected 1 to {MAX_KEY_CHARS} printable characters, got {len(value)}"
    return None


def check_call(value: object) -> str | None:
    """What is wrong with the number of a call, None for nothing."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"expected a number, got {kind_of(value)}"
    if not 0 <= value <= MAX_CALL or value != int(value):
        return f"expected a whole number from 0 to {MAX_CALL}, got another"
    return None


def _check_string(value: object) -> str | None:
    return None if isinstance(value, str) else f"expected a string, got {kind_of(value)}"


_TOPICS: Final[Mapping[str, Field]] = {
    "topics": Field(check_texts(MAX_TOPICS_PER_MESSAGE, MAX_TOPIC_CHARS), "an array of strings"),
    "requestId": Field(check_request_id),
}
#: What each type of message has to hold. Fields that are not named here are ignored.
_FIELDS: Final[Mapping[str, Mapping[str, Field]]] = {
    "TRIGGER": {
        "tool": Field(check_text(MAX_TOOL_CHARS), "a string"),
        "args": Field(check_anything),
        "requestId": Field(check_request_id),
        "idempotencyKey": Field(check_key),
        "expectedSeq": Field(check_seq),
        "traceparent": Field(_check_string),
    },
    "SUBSCRIBE": _TOPICS,
    "UNSUBSCRIBE": _TOPICS,
    "ANSWER": {
        "suspensionId": Field(check_text(MAX_SUSPENSION_CHARS), "a string"),
        "value": Field(check_anything, "a value"),
        "call": Field(check_call),
        "requestId": Field(check_request_id),
    },
    "REFRESH": {
        "token": Field(check_text(MAX_TOKEN_CHARS), "a string"),
        "requestId": Field(check_request_id),
    },
    "PING": {},
}


def _explain(text: bytes | str) -> MessageError:
    """The error for ``text``, which is not a message, whichever check refused it."""
    members = members_of(text)
    if members is None:
        return MessageError(Code.PARSE_ERROR, _explain_whole(text))
    request_id = request_id_in(members)
    written = next((member.text for member in reversed(members) if member.name == "type"), None)
    try:
        kind = None if written is None else jsonvalue.decode(written)
    except InvalidJsonError as exc:
        return MessageError(Code.PARSE_ERROR, f"type: {exc.problem}", request_id)
    if not isinstance(kind, str):
        got = "none" if written is None else kind_of(kind)
        return MessageError(Code.PARSE_ERROR, f"type: expected a string, got {got}", request_id)
    if kind not in _FIELDS:
        expected = f"expected a type among {', '.join(_FIELDS)}, got {shown(kind)!r}"
        return MessageError(Code.UNKNOWN_MESSAGE, expected, request_id)
    problem = problem_in(members, _FIELDS[kind], closed=False)
    return MessageError(Code.PARSE_ERROR, problem or _explain_whole(text), request_id)


def _explain_whole(text: bytes | str) -> str:
    try:
        value = jsonvalue.decode(text)
    except InvalidJsonError as exc:
        return exc.problem
    if not isinstance(value, dict):
        return f"expected a JSON object with a type, got {kind_of(value)}"
    return "expected a message of the protocol"


def decode_mutations(fragment: bytes) -> list[Mutation]:
    """The mutations in a worker's JSON array.

    Raises ``msgspec.DecodeError``, ``UnicodeError``, ``RecursionError``.
    """
    return _mutations_decoder.decode(fragment)


PONG: Final = b'{"type":"PONG"}'


def connected(
    panel_id: str, state: bytes | None, seq: int, client_id: str, *, epoch: str, recovered: bool | None
) -> bytes:
    """CONNECTED: the panel's version and epoch, and its whole ``state``.

    ``state`` is None if the client keeps the state that it has.

    ``recovered`` tells a client that asked to resume whether it could; None if it did not ask.
    """
    return b'{"type":"CONNECTED","panelId":%b%b,"seq":%d,"epoch":%b,"clientId":%b%b}' % (
        _encode(panel_id),
        b"" if state is None else b',"state":%b' % state,
        seq,
        _encode(epoch),
        _encode(client_id),
        b"" if recovered is None else b',"recovered":true' if recovered else b',"recovered":false',
    )


def connected_around(
    panel_id: str, seq: int, client_id: str, *, epoch: str, recovered: bool | None
) -> tuple[bytes, bytes]:
    """CONNECTED with a state that is sent in parts: what is before the state, and what is behind it."""
    mark = b',"state":'
    head, _, tail = connected(panel_id, b"", seq, client_id, epoch=epoch, recovered=recovered).partition(mark)
    return head + mark, tail


def subscribed(request_id: str, topics: Sequence[str], seq: int) -> bytes:
    """SUBSCRIBED: the client's topics from now on; everything up to version ``seq`` is behind it."""
    return b'{"type":"SUBSCRIBED","requestId":%b,"topics":%b,"seq":%d}' % (
        _encode(request_id),
        _encode(topics),
        seq,
    )


def answered(request_id: str | None, suspension: str) -> bytes:
    """ANSWERED: the answer to a question was recorded, and the handler that asked goes on."""
    return b'{"type":"ANSWERED",%b"suspensionId":%b}' % (_request_id(request_id), _encode(suspension))


def token_expiring(expires_at: float) -> bytes:
    """TOKEN_EXPIRING: the client's token expires soon, at ``expires_at`` in Unix seconds. It belongs to no
    version, and answers nothing.
    """
    return b'{"type":"TOKEN_EXPIRING","expiresAt":%b}' % _encode(expires_at)


def refreshed(request_id: str | None, expires_at: float | None) -> bytes:
    """REFRESHED: the client's token is the new one, which expires at ``expires_at`` in Unix seconds, null for
    never.
    """
    return b'{"type":"REFRESHED",%b"expiresAt":%b}' % (_request_id(request_id), _encode(expires_at))


def patch(mutations: bytes, seq: int, *, more: bool = False, previous: int | None = None) -> bytes:
    """PATCH: a commit's mutations (a JSON array) and the version that they made.

    ``more`` says that EVENTs of the same commit follow. ``previous`` is the version that the client was last
    told of, if that is not ``seq`` - 1: nothing between the two concerns its topics.
    """
    place = _place(more, previous) if more or previous is not None else b""
    return b'{"type":"PATCH","mutations":%b,"seq":%d%b}' % (mutations, seq, place)


def merged_patch(mutations: bytes, first_seq: int, seq: int, *, more: bool = False) -> bytes:
    """PATCH for a client that fell behind: the commits ``first_seq`` to ``seq``, each key's last change.

    ``more`` says that EVENTs of these commits may still follow.
    """
    return b'{"type":"PATCH","mutations":%b,"seq":%d,"firstSeq":%d%b}' % (
        mutations,
        seq,
        first_seq,
        _place(more, None),
    )


def _place(more: bool, previous: int | None) -> bytes:
    if previous is None:
        return b',"more":true' if more else b""
    return b',"prevSeq":%d%b' % (previous, b',"more":true' if more else b"")


def mutations_json(mutations: Sequence[Mutation]) -> bytes:
    """A JSON array of ``mutations``."""
    return _encode(mutations)


def mutation_json(mutation: Mutation) -> bytes:
    """One mutation, as it stands in such an array."""
    return _encode(mutation)


def changes_json(changes: Sequence[tuple[str, bytes | None]]) -> bytes:
    """A JSON array of mutations that make ``changes`` (key, value as JSON or None for deleted)."""
    return mutations_json(
        [
            Mutation("delete", key) if value is None else Mutation("set", key, msgspec.Raw(value))
            for key, value in changes
        ]
    )


def event(fragment: bytes, seq: int, *, more: bool = False, previous: int | None = None) -> bytes:
    """EVENT: ``fragment`` is the event's JSON object; ``seq``, ``more`` and
    ``previous`` are as in ``patch``.
    """
    place = _place(more, previous) if more or previous is not None else b""
    return b'{"type":"EVENT","event":%b,"seq":%d%b}' % (fragment, seq, place)


def progress(request_id: str | None, progress: Progress) -> bytes:
    """PROGRESS: the handler of a trigger waits for an extension. The one RESULT or ERROR comes later."""
    body: dict[str, object] = {"type": "PROGRESS"}
    if request_id is not None:
        body["requestId"] = request_id
    body |= {
        "suspensionId": progress.suspension,
        "status": "suspended",
        "extension": progress.extension,
        "method": progress.method,
    }
    return _encode(body)


def answer(request_id: str | None, answer: Answer) -> bytes:
    """RESULT or ERROR: the answer to a trigger."""
    if type(answer) is Succeeded:
        return result(request_id, answer.outcome, answer.seq, answer.queue_us, answer.total_us)
    if type(answer) is Failure:
        failed = answer.outcome
        message = failed.message[:MAX_FAILURE_CHARS]
        return error(Code.EXECUTION_ERROR, message, request_id, failure_details(failed))
    assert type(answer) is Refused
    return error(answer.code, answer.message, request_id, answer.details)


def result(request_id: str | None, outcome: Completed, seq: int, queue_us: int, total_us: int) -> bytes:
    """RESULT: the ExecutionResult of a job that committed as version ``seq``."""
    usage = outcome.usage
    return (
        b'{"type":"RESULT",%b"result":{"status":"success","returnValue":%b,"stateMutations":%b,"events":[%b],'
        b'"viewCommands":%b,"metrics":{"executionTimeUs":%d,"memoryUsedBytes":%d,"memoryPeakBytes":%d,"hostCalls":%d,'
        b'"cacheHit":%b,"fuelConsumed":%d,"queueUs":%d,"totalUs":%d}},"seq":%d}'
        % (
            _request_id(request_id),
            outcome.return_value,
            outcome.mutations,
            b",".join(outcome.events) if outcome.events else b"",
            outcome.view_commands,
            usage.execution_us,
            usage.memory_used_bytes,
            usage.memory_peak_bytes,
            usage.host_calls,
            b"true" if usage.cache_hit else b"false",
            usage.fuel,
            queue_us,
            total_us,
            seq,
        )
    )


def _request_id(request_id: str | None) -> bytes:
    return b"" if request_id is None else b'"requestId":%b,' % _encode(request_id)


def error(
    code: Code, message: str, request_id: str | None = None, details: Mapping[str, object] | None = None
) -> bytes:
    """ERROR: ``details`` is a mapping of what JSON can hold."""
    body: dict[str, object] = {"type": "ERROR", "code": code.value, "message": message}
    if request_id is not None:
        body["requestId"] = request_id
    if details is not None:
        body["details"] = details
        if "retryAfterMs" in details:
            body["retryAfterMs"] = details["retryAfterMs"]
    return _encode(body)


def failure_details(failed: Failed) -> dict[str, object]:
    """The ``details`` of an EXECUTION_ERROR.

    What a worker wrote as JSON is decoded here, once, and checked.
    """
    details: dict[str, object] = {}
    if failed.details != b"{}" and len(failed.details) <= MAX_FAILURE_DETAILS_BYTES:
        try:
            extra = jsonvalue.decode(failed.details)
        except InvalidJsonError:
            extra = None
        if isinstance(extra, dict):
            details.update(vetted(extra) if CODE_FIELD in extra or DETAILS_FIELD in extra else extra)
    details["reason"] = failed.reason.value
    if failed.line > 0:
        details["location"] = {"line": failed.line, "column": failed.column}
    usage: Usage = failed.usage
    if usage.fuel >= 0:
        details["fuelConsumed"] = usage.fuel
    details["executionTimeUs"] = usage.execution_us
    return details
