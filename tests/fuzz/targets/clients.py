"""What clients send: frames, bodies, query strings, and a whole connection to a real kernel."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar, Final, get_args
from urllib.parse import unquote_to_bytes

import msgpack
import msgspec

from panels_gateway.access.credentials import CredentialsError, take_credentials
from panels_gateway.broadcast import explain, messages
from panels_gateway.broadcast.messages import MessageError
from panels_gateway.broadcast.topics import MAX_TOPIC_CHARS, MAX_TOPICS, Topics
from panels_gateway.clients import recovery
from panels_gateway.clients.recovery import MAX_EPOCH_CHARS
from panels_gateway.http import suspensions, trigger_body
from panels_gateway.panels.answers import MAX_KEY_CHARS
from panels_shared import jsonvalue
from panels_shared.errors import CODES, Code, InvalidJsonError, RequestError
from panels_shared.outcome import Completed, ExtensionCall, Failed, Outcome, Reason, Suspended, Usage
from tests.fuzz.mutation import JSON, MSGPACK, Codec, NotOpenError
from tests.fuzz.target import Cost, Target, Violation, refused, require, require_json
from tests.support.gateway import Call, Gateway, Socket, completed, follow

FRAMES: Final = (
    b'{"type":"TRIGGER","tool":"t","args":{"set":{"k":[1,2.5,"x",null]}},"requestId":"r"}',
    b'{"type":"TRIGGER","tool":"t","args":{"delete":["k"],"emit":{"e":1}},"idempotencyKey":"key"}',
    b'{"type":"TRIGGER","tool":"u"}',
    b'{"type":"SUBSCRIBE","topics":["state:k","state:to*","event:*"],"requestId":"s"}',
    b'{"type":"UNSUBSCRIBE","topics":["state","events"],"requestId":"u"}',
    b'{"type":"ANSWER","suspensionId":"000000000001","value":{"yes":true},"call":1,"requestId":"a"}',
    b'{"type":"PING"}',
)
FRAME_TOKENS: Final = (
    *(b"TRIGGER", b"SUBSCRIBE", b"UNSUBSCRIBE", b"ANSWER", b"PING", b'"type":', b'"tool":', b'"args":'),
    *(b'"topics":',),
    *(b'"requestId":', b'"idempotencyKey":', b'"suspensionId":', b'"value":', b'"call":', b"null", b"true"),
    *(b"1e400",),
    *(b"[[[[[[[[", b"]]]]]]]]", b'{"":', b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"-0", b"1" * 310),
    *(b"NaN", b"\xff"),
)
_TYPES: Final = frozenset(
    ("CONNECTED", "PATCH", "EVENT", "RESULT", "ERROR", "PROGRESS", "SUBSCRIBED", "ANSWERED", "PONG")
)


class JsonText(Target):
    """``panels_shared.jsonvalue``: what it accepts is within its bounds, by another parser too."""

    name = "json"
    codec = JSON
    tokens = FRAME_TOKENS
    cost = Cost()

    def seeds(self) -> list[bytes]:
        return [
            b'{"a":[1,-2.5e3,true,false,null,"\\u00e9\\ud83d\\ude00",{"":{}}]}',
            b"[" * 64 + b"]" * 64,
            b"1" * 308,
            b'"\xc3\xa9"',
        ]

    def run(self, data: bytes) -> str:
        try:
            value = jsonvalue.decode(data)
        except InvalidJsonError as exc:
            return refused(exc)
        require(require_json(data) == value, "both parsers read the same value", data)
        again = jsonvalue.encode(value)
        require(jsonvalue.decode(again) == value, "what is encoded is decoded again", again)
        require(jsonvalue.encode(jsonvalue.decode(again)) == again, "encoding is stable", again)
        return f"a {explain.kind_of(value)}"


class ClientFrame(Target):
    """One text frame: decoded as bytes and as text, to the same message or the same refusal."""

    name = "frame"
    codec = JSON
    tokens = FRAME_TOKENS
    cost = Cost(per_byte=192)

    def seeds(self) -> list[bytes]:
        edges = (
            b"[" * 64 + b"]" * 64,
            b"[" * 65 + b"]" * 65,
            b'"\\ud800"',
            b"1" * 400,
            b"1e400",
            b'{"a":1,"a":2}',
        )
        return [*FRAMES, *(b'{"type":"TRIGGER","tool":"t","args":%b}' % edge for edge in edges)]

    def run(self, data: bytes) -> str:
        outcome = self._decode(data)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return outcome  # in a field that nobody reads it is not looked at; websocket.py has refused it before
        require(self._decode(text) == outcome, "bytes and text are read alike", (outcome, data))
        return outcome

    def _decode(self, text: bytes | str) -> str:
        try:
            message = messages.decode(text)
        except MessageError as exc:
            self._check_refusal(exc)
            return refused(exc)
        if isinstance(message, messages.Trigger):
            require_json(bytes(message.args))
            require(len(message.tool) <= messages.MAX_TOOL_CHARS, "the tool's name within its bound")
            if message.idempotencyKey is not msgspec.UNSET:
                require(0 < len(message.idempotencyKey) <= MAX_KEY_CHARS, "the key within its bound")
        elif isinstance(message, messages.AnswerQuestion):
            require_json(bytes(message.value))
        elif isinstance(message, (messages.Subscribe, messages.Unsubscribe)):
            require(len(message.topics) <= messages.MAX_TOPICS_PER_MESSAGE, "topics within their bound")
        require(isinstance(message, get_args(messages.ClientMessage)), "a message of the protocol")
        again = msgspec.json.encode(message)
        require(msgspec.json.encode(messages.decode(again)) == again, "encoding is stable", again)
        return type(message).__name__

    def _check_refusal(self, error: MessageError) -> None:
        require(
            error.code in (Code.PARSE_ERROR, Code.UNKNOWN_MESSAGE),
            "the code of a message's refusal",
            error.code,
        )
        require(len(error.message) < 1_024, "a refusal is short", error.message)
        body = require_json(
            messages.error(error.code, error.message, error.request_id, error.details), "ERROR is JSON"
        )
        if error.request_id is not None:
            require(body["requestId"] == error.request_id, "a refusal names the request", body)


class TriggerBody(Target):
    """The body of a trigger over HTTP, with and without a header that names the request."""

    name = "trigger-body"
    codec = JSON
    tokens = FRAME_TOKENS
    cost = Cost(per_byte=192)

    def seeds(self) -> list[bytes]:
        return [
            b'{"args":{"by":1},"requestId":"r"}',
            b'{"args":[null]}',
            b"{}",
            b"",
            b'{"requestId":null}',
            b'{"expectedSeq":7}',
        ]

    def run(self, data: bytes) -> str:
        outcomes = []
        for header in (None, "header"):
            try:
                args, request_id, expected = trigger_body.decode(data, header)
            except RequestError as exc:
                require(exc.code is Code.PARSE_ERROR, "the code of a body's refusal", exc.code)
                require(len(exc.message) < 1_024, "a refusal is short", exc.message)
                require_json(msgspec.json.encode(exc.message), "the refusal is JSON")
                outcomes.append(refused(exc))
                continue
            require_json(args)
            require(
                expected is None or 0 <= expected <= explain.MAX_SEQ, "expectedSeq in its bound", expected
            )
            require(
                request_id is None or len(request_id) <= explain.MAX_REQUEST_ID_CHARS,
                "requestId in its bound",
            )
            outcomes.append("accepted")
        require(outcomes[0] == outcomes[1], "the header makes no body valid", outcomes)
        return outcomes[0]


class UpgradeQuery(Target):
    """The query string of an upgrade, and the headers that stand beside it: an ASGI scope as one value."""

    name = "upgrade"
    codec = MSGPACK
    envelope = True
    tokens = (
        b"token=",
        b"&",
        b"=",
        b"%",
        b"%00",
        b"topics=",
        b"epoch=",
        b"since=",
        b"none",
        b"bearer.",
        b"+",
        b",",
    )
    cost = Cost(per_byte=512)

    def seeds(self) -> list[bytes]:
        scopes = [
            [
                b"epoch=abc&since=12&topics=state:a,event:b*",
                [[b"x-forwarded-for", b"10.0.0.1"]],
                ["panels.v1"],
            ],
            [b"token=a.b.c&since=none", [[b"authorization", b"Bearer a.b.c"]], ["bearer.a.b.c", "panels.v1"]],
            [b"%74oken=x&a=b", [[b"x-forwarded-proto", b"https"], [b"host", b"h"]], []],
        ]
        return [msgpack.packb(scope) for scope in scopes]

    def run(self, data: bytes) -> str:
        try:
            query, headers, offered = self._scope(data)
        except (NotOpenError, ValueError, TypeError):
            return "no scope"
        scope: dict[str, Any] = {"query_string": query, "headers": headers, "subprotocols": offered}
        try:
            credentials = take_credentials(scope)
        except CredentialsError as exc:
            return refused(exc)
        rest: bytes = scope["query_string"]
        require(not any(name == b"authorization" and value.strip().lower().startswith(b"bearer ")
                        for name, value in scope["headers"]), "no token is left in the headers")  # fmt: skip
        require(
            not any(unquote_to_bytes(part.split(b"=")[0]) == b"token" for part in rest.split(b"&")),
            "no token is left in the query",
        )
        require(
            not any(text.startswith("bearer.") for text in scope["subprotocols"]), "nor in the subprotocols"
        )
        try:
            asked = recovery.parse(rest)
        except RequestError as exc:
            require(exc.code is Code.INVALID_REQUEST, "the code of a query's refusal", exc.code)
            return refused(exc)
        require(len(asked.epoch) <= MAX_EPOCH_CHARS, "the epoch within its bound", asked)
        require(asked.since is None or 0 <= asked.since < 10**16, "since within its bound", asked)
        if asked.topics is not None:
            require(len(asked.topics.names) <= MAX_TOPICS, "topics within their bound")
            require(all(len(name) <= MAX_TOPIC_CHARS for name in asked.topics.names), "topics are short")
            msgspec.json.encode(sorted(asked.topics.names))
        return f"accepted {credentials.token is not None} {asked.resumes} {asked.topics is not None}"

    def _scope(self, data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], list[str]]:
        query, headers, offered = MSGPACK.decode(data)
        if not (isinstance(query, bytes) and all(isinstance(text, str) for text in offered)):
            raise NotOpenError
        if not all(isinstance(part, bytes) for pair in headers for part in pair):
            raise NotOpenError
        return query, [(name.lower(), value) for name, value in headers], list(offered)


# -- with a kernel ---------------------------------------------------------------------------------------

_SEPARATOR: Final = b"\x1e"


def _decode_frames(data: bytes) -> Any:
    return [JSON.decode(frame) for frame in data.split(_SEPARATOR)]


def _encode_frames(value: Any) -> bytes:
    frames = value if isinstance(value, list) else [value]
    return _SEPARATOR.join(JSON.encode(frame) for frame in frames[:16])


class WithKernel(Target):
    """A gateway with a real kernel, made anew for each input, in a loop that stays."""

    quick: ClassVar[int] = 120

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, data: bytes) -> str:
        problems: list[dict[str, Any]] = []
        loop = self._runner.get_loop()
        loop.set_exception_handler(lambda _loop, context: problems.append(context))
        outcome = self._runner.run(self.serve(data))
        require(not problems, "nothing is raised inside the loop", problems)
        return outcome

    async def serve(self, data: bytes) -> str:
        """One input, in the loop."""
        raise NotImplementedError

    def close(self) -> None:
        self._runner.close()

    async def honest(self, gateway: Gateway, panel: str = "p") -> None:
        """A client that comes now is served: its TRIGGER gets its RESULT."""
        gateway.respond = follow
        resident = await gateway.open(panel)
        connection, socket = gateway.connect(resident)
        connection.receive_text(
            '{"type":"TRIGGER","tool":"t","args":{"set":{"honest":1}},"requestId":"honest"}'
        )
        await gateway.settle()
        answers = [one for one in said(socket) if one.get("requestId") == "honest"]
        require([one["type"] for one in answers] == ["RESULT"], "an honest TRIGGER gets its RESULT", answers)
        require(resident.panel.state.get("honest") == b"1", "its commit is there")
        connection.lost()
        require(not gateway.failures, "the journal is in order", gateway.failures)


def said(socket: Socket) -> list[dict[str, Any]]:
    """Everything that a client was sent; raises unless each message is well-formed."""
    heard = []
    try:
        heard = socket.heard
    except (ValueError, RecursionError) as exc:
        raise Violation(f"every message is JSON\n{exc}") from None
    for message in heard:
        require(message.get("type") in _TYPES, "a type of the protocol", message)
        if message["type"] == "ERROR":
            require(message["code"] in CODES, "a code of the protocol", message)
            require(isinstance(message["message"], str), "an ERROR has a message", message)
    return heard


class WholeConnection(WithKernel):
    """Frames to a connection, in order: each is answered by well-formed messages, and an honest client is
    served."""

    name = "connection"
    codec = Codec(_decode_frames, _encode_frames)
    tokens = (*FRAME_TOKENS, _SEPARATOR)

    def seeds(self) -> list[bytes]:
        return [_SEPARATOR.join(FRAMES), *FRAMES, FRAMES[1] + _SEPARATOR + FRAMES[1]]

    async def serve(self, data: bytes) -> str:
        gateway = Gateway(respond=obey)
        resident = await gateway.add("p", state={"k": 1, "to": {}})
        connection, socket = gateway.connect(resident)
        await gateway.settle()
        words: list[str] = []
        for frame in data.split(_SEPARATOR)[:16]:
            before = len(said(socket))
            try:
                text = frame.decode()
            except UnicodeDecodeError:
                continue  # websocket.py closes with 1007 before the connection sees it
            connection.receive_text(text)
            await gateway.settle()
            heard = said(socket)[before:]
            words.append("+".join(one["type"] for one in heard) or "nothing")
            self._check_answers(text, heard)
        require(connection.in_flight == 0, "every trigger is answered", words)
        await self.honest(gateway)
        last = said(socket)
        require(connection.closed or bool(last), "the client still hears")
        connection.lost()
        return " ".join(dict.fromkeys(words))

    def _check_answers(self, text: str, heard: list[dict[str, Any]]) -> None:
        try:
            message = messages.decode(text)
        except MessageError:
            require([one["type"] for one in heard] == ["ERROR"], "a refused frame gets one ERROR", heard)
            return
        if isinstance(message, messages.Trigger):
            answers = [one for one in heard if one["type"] in ("RESULT", "ERROR")]
            require(len(answers) == 1, "a TRIGGER gets one answer", heard)
            if message.requestId is not msgspec.UNSET:
                require(answers[0].get("requestId") == message.requestId, "under its name", heard)


class RogueOutcome(WithKernel):
    """Outcomes from a worker that was taken over: nobody hears anything malformed, and others are served."""

    name = "outcome"
    codec = MSGPACK
    envelope = True

    _decoder: ClassVar[msgspec.msgpack.Decoder[Outcome]] = msgspec.msgpack.Decoder(
        Completed | Failed | Suspended
    )

    def seeds(self) -> list[bytes]:
        event = json.dumps({"name": "e", "payload": {"a": 1}, "timestamp": 1}).encode()
        mutations = b'[{"op":"set","key":"k","value":2},{"op":"delete","key":"to"}]'
        outcomes: list[Outcome] = [
            Completed(Usage(1, 2, 3, 4, 5, True), b'{"a":1}', mutations, (event,), b"[]"),
            Failed(Usage(), Reason.TRAP, "m", 1, 2, b'{"stack":"s"}'),
            Suspended(Usage(), (), b"image", mutations, (event,)),
            Suspended(
                Usage(), (ExtensionCall(1, "panels", "trigger", b'["p","u",{"set":{"z":1}}]'),), b"image"
            ),
            Suspended(Usage(), (ExtensionCall(1, "time", "sleep", b"[1.5]"),), b"image", mutations),
            Suspended(
                Usage(), tuple(ExtensionCall(n, "human", "ask", b'["q",{"a":1}]') for n in (1, 2)), b"image"
            ),
            Suspended(Usage(), (ExtensionCall(1, "http", "get", b'["https://example.org"]'),), b"image"),
        ]
        return [msgspec.msgpack.encode(outcome) for outcome in outcomes]

    async def serve(self, data: bytes) -> str:
        try:
            outcome = self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return "no outcome"
        gateway = Gateway()

        def respond(call: Call) -> Outcome:
            # only once: a handler that suspends whenever it is resumed never comes to an end
            return outcome if call.tool == "t" and not call.answers else completed()

        gateway.respond = respond
        resident = await gateway.add("p", state={"k": 1, "to": {}})
        connection, socket = gateway.connect(resident)
        narrow, other = gateway.connect(resident, topics=_narrow())
        connection.receive_text('{"type":"TRIGGER","tool":"t","requestId":"r"}')
        await gateway.settle()
        words = [one["type"] for one in said(socket)] + [one["type"] for one in said(other)]
        for value in resident.panel.state.values():
            require(isinstance(json.loads(value), object), "the state is JSON")
        for suspension in list(resident.waiting.values()):
            require_json(
                msgspec.json.encode(suspensions._shown(suspension)), "what is shown of a suspension is JSON"
            )
        for each in (connection, narrow):
            each.lost()
        if not isinstance(outcome, Suspended):
            await self.honest(gateway)
        return f"{type(outcome).__name__} {' '.join(words)}"


def obey(call: Call) -> Outcome:
    """``follow``, for arguments that are no orders too."""
    try:
        return follow(call)
    except (AttributeError, TypeError, ValueError):
        return completed(None)


def _narrow() -> Topics:
    topics = Topics()
    topics.remove(["state", "events"])
    topics.add(["state:k", "event:e"])
    return topics


class StateKeys(WithKernel):
    """Keys of the state: what is committed comes out of the state, a PATCH and a filtered PATCH under the
    same key."""

    name = "state-key"
    codec = JSON
    quick = 60

    def seeds(self) -> list[bytes]:
        return [
            b'["k","v",{"k":1}]',
            b'["__proto__",1,{"constructor":null}]',
            b'["a\\u0000b",[],{"\\ud83d\\ude00":2}]',
        ]

    async def serve(self, data: bytes) -> str:
        try:
            key, value, more = jsonvalue.decode(data)
        except (InvalidJsonError, ValueError, TypeError):
            return "no keys"
        if not (isinstance(key, str) and isinstance(more, dict)):
            return "no keys"
        changes = {key: value, **more}
        gateway = Gateway(respond=obey)
        resident = await gateway.add("p")
        _, socket = gateway.connect(resident)
        topics = Topics()
        topics.remove(["state", "events"])
        topics.add([f"state:{key}"])
        _, narrow = gateway.connect(resident, topics=topics)
        answer = await gateway.trigger(resident, {"set": changes})
        words = [one["type"] for one in said(socket)]
        if "PATCH" not in words:
            return f"{type(answer).__name__} {' '.join(words)}"
        require(gateway.state(resident) == changes, "the state holds what was set", changes)
        (patch,) = [one for one in said(socket) if one["type"] == "PATCH"]
        require(
            {one["key"]: one["value"] for one in patch["mutations"]} == changes,
            "and the PATCH says so",
            patch,
        )
        for one in said(narrow):
            for mutation in one.get("mutations", ()):
                require(topics.want_key(mutation["key"]), "a topic brings its keys alone", mutation)
        await self.honest(gateway)
        return f"{len(changes)} keys"


TARGETS: Final = (
    JsonText, ClientFrame, TriggerBody, UpgradeQuery, WholeConnection, RogueOutcome, StateKeys
)  # fmt: skip
