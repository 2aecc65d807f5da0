"""Routes about handlers that wait: which there are, what they wait for, and how they are answered and
cancelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.broadcast.messages import MAX_ANSWER_BYTES
from panels_gateway.http.answers import json_answer
from panels_gateway.kernel.calls import find
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError, RequestError
from panels_shared.outcome import Reason

if TYPE_CHECKING:
    from panels_gateway.http.desk import Desk
    from panels_gateway.kernel.suspension import Suspension


class AnswerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of an answer: any JSON value, and the number of the question where several are open."""

    value: msgspec.Raw
    call: int | None = None


_answer_decoder = msgspec.json.Decoder(AnswerBody)


class SuspensionRoutes:
    """See the module's docstring."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kernel = desk.kernel

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/panels/{id}/suspensions", self.suspensions, methods=["GET"]),
            Route("/panels/{id}/suspensions/{suspension}", self.suspension, methods=["GET", "DELETE"]),
            Route("/panels/{id}/suspensions/{suspension}/answer", self.answer, methods=["POST"]),
        ]

    async def suspensions(self, request: Request) -> Response:
        """GET: the panel's handlers that wait, the one with the earliest deadline first."""
        resident = await self._desk.find(request, self._desk.admit(request))
        waiting = sorted(resident.waiting.values(), key=lambda found: found.record.deadline_ms)
        shown = [_shown(suspension) for suspension in waiting]
        image_bytes = self._kernel.suspensions.images.of(resident.panel.number)
        await self._kernel.turn.read()
        return json_answer({"panelId": resident.panel.id, "imageBytes": image_bytes, "suspensions": shown})

    async def suspension(self, request: Request) -> Response:
        """GET: one of them. DELETE: cancels it; its trigger is answered with an ERROR."""
        desk = self._desk
        manage = request.method == "DELETE"
        resident = await desk.find(request, desk.admit(request), manage=manage)
        suspension = find(resident, request.path_params["suspension"])
        if manage:
            message = "somebody cancelled the handler while it waited"
            self._kernel.suspensions.fail(suspension, Reason.CANCELLED, message)
            await self._kernel.turn.read()
            return Response(status_code=204)
        shown = _shown(suspension)
        await self._kernel.turn.read()
        return json_answer(shown)

    async def answer(self, request: Request) -> Response:
        """POST: answers a question that the handler asked; the answer counts once, and the first one wins."""
        desk = self._desk
        principal = desk.admit(request)
        resident = await desk.find(request, principal)
        suspension = self._kernel.calls.asked(resident, request.path_params["suspension"], principal)
        body = await desk.body(request, MAX_ANSWER_BYTES)
        try:
            jsonvalue.validate(body)
            given = _answer_decoder.decode(body)
        except InvalidJsonError as exc:
            raise RequestError(Code.PARSE_ERROR, exc.problem) from None
        except msgspec.DecodeError as exc:
            raise RequestError(Code.PARSE_ERROR, f'expected {{"value", "call"?}}: {exc}'[:300]) from None
        self._kernel.calls.answer(suspension, given.call, bytes(given.value))
        await self._kernel.turn.read()
        return Response(status_code=204)


def _shown(suspension: Suspension) -> dict[str, object]:
    record = suspension.record
    return {
        "id": suspension.name,
        "tool": record.tool,
        "digest": record.digest.hex(),
        "owner": msgspec.Raw(record.scope),
        "requestId": record.request_id,
        "since": record.at_ms,
        "deadline": record.deadline_ms,
        "steps": record.steps,
        "imageBytes": suspension.image_bytes,
        "waitsFor": [
            {
                "call": call.call,
                "extension": call.extension,
                "method": call.method,
                "args": msgspec.Raw(call.args),
            }
            for call in suspension.still_open()
            if suspension.is_open(call.call)
        ],
    }
