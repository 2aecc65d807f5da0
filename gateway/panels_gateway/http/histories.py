"""Routes for a panel's state and history: now, at a version, commit by commit, reverting, and replaying."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.access.tokens import subject_of
from panels_gateway.broadcast.events import Event, heard_by
from panels_gateway.http.answers import LargeAnswer, answer_bytes, encode, json_answer
from panels_gateway.journal.records import Changed, Exchange, Ran
from panels_gateway.kernel.history import events_of, mutations_of, record_bytes
from panels_gateway.kernel.images import LARGE_BYTES
from panels_gateway.panels.panel import MAX_KEY_CHARS
from panels_shared.errors import Code, RequestError
from panels_shared.limits import KIB, MIB
from panels_shared.outcome import Failed, Outcome, Suspended

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal
    from panels_gateway.http.desk import Desk

#: Commits in one page of history, and about how many bytes of them.
DEFAULT_COMMITS: Final = 100
MAX_COMMITS: Final = 1_000
PAGE_BYTES: Final = 4 * MIB
#: Commits, and about how many bytes of them, that are encoded in one step of the loop.
COMMITS_AT_ONCE: Final = 64
BYTES_AT_ONCE: Final = 256 * KIB
#: Digits of a version in a query, bytes of the body of a revert or a replay; security limits.
MAX_SEQ_DIGITS: Final = 16
MAX_SEQ_BODY_BYTES: Final = KIB


class SeqBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that names a version: the one whose state is to be restored, or whose trigger is to run
    again.
    """

    seq: int


_seq_decoder = msgspec.json.Decoder(SeqBody)


class HistoryRoutes:
    """See the module's docstring."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kernel = desk.kernel

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/panels/{id}/state", self.state, methods=["GET"]),
            Route("/panels/{id}/history", self.history, methods=["GET"]),
            Route("/panels/{id}/keys/{key:path}/history", self.key_history, methods=["GET"]),
            Route("/panels/{id}/revert", self.revert, methods=["POST"]),
            Route("/panels/{id}/replay", self.replay, methods=["POST"]),
        ]

    async def state(self, request: Request) -> Response:
        """GET: the panel's state and its version; with ``?seq=``, as it was at that version."""
        principal = self._desk.admit(request)
        resident = await self._desk.find(request, principal)
        panel = resident.panel
        seq = _number(request, "seq", None)
        if seq is None and panel.state_bytes <= LARGE_BYTES:
            seq, shown = panel.seq, panel.state_json()
            image = None
        elif seq is None:
            image = await self._kernel.images.of(resident, principal.subject or "")
            seq, shown = image.seq, b""
        else:
            earlier = await self._kernel.histories.state_at(resident, seq)
            image = await self._kernel.images.once(seq, earlier, principal.subject or "")
            shown = b""
        head = b'{"panelId":%b,"seq":%d,"epoch":%b,"state":' % (encode(panel.id), seq, encode(panel.epoch))
        try:
            await self._kernel.turn.read()
        except BaseException:
            if image is not None:
                image.release()
            raise
        if image is None:
            return Response(b"%b%b}" % (head, shown), media_type="application/json")
        return LargeAnswer(image, self._desk.body_timeout_s, head, b"}")

    async def history(self, request: Request) -> Response:
        """GET: the commits after ``?since=``, at most ``?limit=`` of them, the oldest first."""
        principal = self._desk.admit(request)
        resident = await self._desk.find(request, principal)
        panel = resident.panel
        since, limit = _number(request, "since", 0), _limit(request)
        assert since is not None
        if since > panel.seq:
            raise RequestError(
                Code.INVALID_REQUEST, f"since: expected 0 to {panel.seq}, got {since}", {"path": "since"}
            )
        page = await self._kernel.histories.since(resident, since, limit_bytes=PAGE_BYTES, limit=limit)
        if page is None:
            raise RequestError(
                Code.HISTORY_GONE,
                f"the history of panel {panel.id!r} does not reach back to version "
                f"{since}; read its state instead",
            )
        commits = _within(page.commits[:limit])
        following = commits[-1].seq if commits and commits[-1].seq < panel.seq else None
        await self._kernel.turn.read()
        shown = await _encoded(commits, _heard_by(principal, panel.id))
        body = b'{"panelId":%b,"epoch":%b,"commits":[%b],"next":%b}' % (
            encode(panel.id),
            encode(panel.epoch),
            shown,
            encode(following),
        )
        return answer_bytes(body, self._kernel.images, principal.subject or "", self._desk.body_timeout_s)

    async def key_history(self, request: Request) -> Response:
        """GET: the commits that gave a key of the state its values, the newest first.

        Each says whose trigger it was, and which handler ran.
        """
        principal = self._desk.admit(request)
        resident = await self._desk.find(request, principal)
        key: str = request.path_params["key"]
        if len(key) > MAX_KEY_CHARS:
            raise RequestError(
                Code.INVALID_REQUEST, f"expected a key of at most {MAX_KEY_CHARS} characters", {"path": "key"}
            )
        limit = _limit(request)
        found = _within(await self._kernel.histories.of_key(resident, key, limit=limit))
        await self._kernel.turn.read()
        shown = await _encoded(found, _heard_by(principal, resident.panel.id), key)
        body = b'{"panelId":%b,"key":%b,"commits":[%b]}' % (encode(resident.panel.id), encode(key), shown)
        return answer_bytes(body, self._kernel.images, principal.subject or "", self._desk.body_timeout_s)

    async def revert(self, request: Request) -> Response:
        """POST: restores the state of an earlier version, as a new commit that everybody sees."""
        desk = self._desk
        principal = desk.admit(request)
        resident = await desk.find(request, principal, manage=True)
        asked = await self._seq(request)
        seq = await self._kernel.making.revert(resident, asked, principal)
        await self._kernel.turn.read()
        return json_answer({"id": resident.panel.id, "seq": seq, "revertedTo": asked})

    async def replay(self, request: Request) -> Response:
        """POST: runs the trigger that made a version once more, changes nothing, and says what was otherwise
        this time.
        """
        principal = self._desk.admit(request)
        resident = await self._desk.find(request, principal, manage=True)
        asked = await self._seq(request)
        replayed = await self._kernel.replays.replay(resident, asked, principal)
        await self._kernel.turn.read()
        record = replayed.record
        body = encode(
            {
                "panelId": resident.panel.id,
                "seq": record.seq,
                "tool": record.tool,
                "digest": record.digest.hex(),
                "equal": not replayed.differences,
                "differences": replayed.differences,
                "recorded": _ended(record.outcome),
                "replayed": _ended(replayed.outcome),
            }
        )
        return answer_bytes(body, self._kernel.images, principal.subject or "", self._desk.body_timeout_s)

    async def _seq(self, request: Request) -> int:
        body = await self._desk.body(request, MAX_SEQ_BODY_BYTES)
        try:
            return _seq_decoder.decode(body).seq
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise RequestError(
                Code.INVALID_REQUEST, f'expected {{"seq"}}: {exc}'[:300], {"path": "seq"}
            ) from None


class Hearing(NamedTuple):
    """Whose events are shown: those for everyone and for ``subject``, or all."""

    subject: str | None
    everything: bool

    def events(self, record: Ran | Changed) -> list[Event]:
        """Those of the commit that are shown."""
        events = events_of(record)
        return events if self.everything else heard_by(self.subject, events)

    def args(self, record: Ran) -> bytes:
        """Its arguments as they are shown: ``null`` where they are an event for somebody else, which the tool
        listened to. A step behind the first one of a handler that waited was given none.
        """
        args = record.args or b"null"
        if self.everything or b'"to"' not in args or not subject_of(record.scope).startswith("panel:"):
            return args
        try:
            cause = _cause_decoder.decode(args)
        except msgspec.DecodeError:
            return args
        hidden = cause.type == "event" and cause.event.to not in (None, self.subject)
        return b"null" if hidden else args


class _CauseEvent(msgspec.Struct, frozen=True):
    to: str | None = None


class _Cause(msgspec.Struct, frozen=True):
    type: str
    event: _CauseEvent


_cause_decoder = msgspec.json.Decoder(_Cause)


def _heard_by(principal: Principal, panel_id: str) -> Hearing:
    """Who may manage the panel sees all events: they may replay its triggers."""
    return Hearing(principal.subject, principal.may_manage(panel_id))


async def _encoded(commits: list[Ran | Changed], hearing: Hearing, key: str | None = None) -> bytes:
    """What is shown of ``commits``, separated by commas, encoded in steps of the loop."""
    parts: list[bytes] = []
    size = 0
    for number, record in enumerate(commits, 1):
        parts.append(encode(_commit(record, hearing, key)))
        # what is decoded to show one key is the whole record, which may be larger than what is shown
        size += record_bytes(record)
        if number % COMMITS_AT_ONCE == 0 or size > BYTES_AT_ONCE:
            size = 0
            await asyncio.sleep(0)
    return b",".join(parts)


def _within(commits: list[Ran | Changed]) -> list[Ran | Changed]:
    """The first of ``commits`` that take about ``PAGE_BYTES`` as they are shown, at least one."""
    size = 0
    for count, record in enumerate(commits):
        size += record_bytes(record)
        if isinstance(record, Ran):
            size += len(record.args) + len(record.scope)
        if count and size > PAGE_BYTES:
            return commits[:count]
    return commits


def _commit(record: Ran | Changed, hearing: Hearing, key: str | None = None) -> dict[str, object]:
    shown: dict[str, object] = {"seq": record.seq, "timestamp": record.at_ms}
    if isinstance(record, Changed):
        shown |= {"cause": record.cause, "subject": record.subject or None}
    else:
        shown |= {
            "cause": "trigger",
            "tool": record.tool,
            "digest": record.digest.hex(),
            "args": msgspec.Raw(hearing.args(record)),
            "scope": msgspec.Raw(record.scope),
            "fuelConsumed": record.outcome.usage.fuel,
        }
        if record.exchanges:
            shown["egress"] = [_exchange(exchange) for exchange in record.exchanges]
    if key is None:
        shown["mutations"] = msgspec.Raw(mutations_of(record))
        shown["events"] = [msgspec.Raw(fragment) for _, fragment, _ in hearing.events(record)]
    else:
        mutations = msgspec.json.decode(mutations_of(record), type=list[_Mutation])
        shown |= next(({"op": m.op, "value": m.value} for m in mutations if m.key == key), {})
    return shown


def _ended(outcome: Outcome) -> dict[str, object]:
    """How a run ended, as replays show it."""
    shown: dict[str, object] = {"fuelConsumed": outcome.usage.fuel}
    if isinstance(outcome, Failed):
        shown |= {"outcome": "failed", "reason": outcome.reason.value, "message": outcome.message}
    else:
        shown |= {
            "outcome": "waits" if isinstance(outcome, Suspended) else "completed",
            "mutations": msgspec.Raw(outcome.mutations),
            "events": [msgspec.Raw(fragment) for fragment in outcome.events],
            "viewCommands": msgspec.Raw(outcome.view_commands),
        }
        if isinstance(outcome, Suspended):
            shown["calls"] = [
                {"call": call.call, "extension": call.extension, "method": call.method,
                 "args": msgspec.Raw(call.args)}
                for call in outcome.calls
            ]  # fmt: skip
        else:
            shown["returnValue"] = msgspec.Raw(outcome.return_value)
    shown["log"] = [line.text for line in outcome.log]
    return shown


def _exchange(exchange: Exchange) -> dict[str, object]:
    return {
        "call": exchange.call,
        "host": exchange.host,
        "address": exchange.address or None,
        "bytesSent": exchange.bytes_sent,
        "bytesReceived": exchange.bytes_received,
        "ms": exchange.ms,
        "secrets": exchange.secrets,
        "verdict": exchange.verdict,
    }


class _Mutation(msgspec.Struct, frozen=True):
    op: str
    key: str
    value: msgspec.Raw = msgspec.Raw(b"null")


def _number(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,16}", text, re.ASCII) is None:
        raise RequestError(
            Code.INVALID_REQUEST,
            f"{name}: expected a version, of 1 to {MAX_SEQ_DIGITS} digits",
            {"path": name},
        )
    return int(text)


def _limit(request: Request) -> int:
    limit = _number(request, "limit", DEFAULT_COMMITS)
    assert limit is not None
    if not 1 <= limit <= MAX_COMMITS:
        raise RequestError(Code.INVALID_REQUEST, f"limit: expected 1 to {MAX_COMMITS}", {"path": "limit"})
    return limit
