"""The route that triggers a tool, and the caller that waits for its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.messages import MAX_TOOL_CHARS
from panels_gateway.http import trigger_body
from panels_gateway.http.answers import error_response
from panels_gateway.panels.trigger import Answer, Failure, Progress, Succeeded, Trigger
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.http.desk import Desk
    from panels_gateway.kernel.turn import Turn


#: How long a caller over HTTP waits for a handler that is suspended, in seconds, before it is told so with
#: 202.
PATIENCE_S: Final = 10.0
#: How long a trigger runs, in seconds, before the gateway looks whether its caller is still there.
LOOK_AFTER_S: Final = 0.25


class Waiter:
    """A caller over HTTP. ``answered`` resolves once the turn that holds the answer has left.

    The answer to a caller that went away is dropped.
    """

    __slots__ = ("_turn", "answered", "hurried", "waits")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.waits: asyncio.Future[Progress] = asyncio.get_running_loop().create_future()
        self.hurried: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def begun(self, request: Request) -> bool:
        """Returns once there is an answer or the handler waits, or the caller has gone: False then."""
        either = (self.answered, self.waits)
        done, _ = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=LOOK_AFTER_S)
        if done:
            return True
        # most answers are here by now: looking for the caller costs a task
        gone = asyncio.ensure_future(_gone(request))
        try:
            done, _ = await asyncio.wait((*either, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        return done != {gone}

    async def wait(self, patience_s: float) -> Answer | Progress:
        """The answer or, when the handler waits and there is none ``patience_s`` later, how far it is."""
        await asyncio.wait((self.answered, self.waits), return_when=asyncio.FIRST_COMPLETED)
        if not self.answered.done():
            await asyncio.wait(
                (self.answered, self.hurried), return_when=asyncio.FIRST_COMPLETED, timeout=patience_s
            )
        return self.answered.result() if self.answered.done() else self.waits.result()

    def hurry(self) -> None:
        """The gateway stops: a handler that waits is not waited for."""
        if not self.hurried.done():
            self.hurried.set_result(None)

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        """The one answer."""
        self._turn.after(lambda: self._resolve(answer))

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        """The handler waits; told once, when the turn has left."""
        self._turn.after(lambda: self._wait(progress))

    def _wait(self, progress: Progress) -> None:
        if not self.waits.done():
            self.waits.set_result(progress)

    def _resolve(self, answer: Answer) -> None:
        if not self.answered.done():
            self.answered.set_result(answer)


def header_text(request: Request, name: str) -> str | None:
    """A header's value as UTF-8, so that the same bytes name the same thing as over WebSocket.

    Raises ``RequestError`` INVALID_REQUEST.
    """
    value = request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise RequestError(
            Code.INVALID_REQUEST, f"{name}: expected UTF-8, got other bytes", {"path": name}
        ) from None


async def _gone(request: Request) -> None:
    """Returns once the caller has hung up. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


class TriggerRoutes:
    """See the module's docstring."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kernel = desk.kernel

    def routes(self) -> list[Route]:
        """All of them."""
        return [Route("/panels/{id}/trigger/{tool}", self.trigger, methods=["POST"])]

    async def trigger(self, request: Request) -> Response:
        """Runs a tool; answers with what a WebSocket client would get as RESULT."""
        desk, intake = self._desk, self._kernel.intake
        principal = desk.admit(request)
        tool: str = request.path_params["tool"]
        resident = await desk.find(request, principal, tool=tool)
        if len(tool) > MAX_TOOL_CHARS:
            raise RequestError(
                Code.TOOL_NOT_FOUND, f"expected a tool name of at most {MAX_TOOL_CHARS} characters"
            )
        body = await desk.body(request, desk.max_args_bytes)
        args, request_id, expected = trigger_body.decode(body, header_text(request, "x-request-id"))
        waiter = Waiter(self._kernel.turn)
        key = header_text(request, "idempotency-key")
        accepted = intake.accept(
            waiter, resident.panel, tool, args, principal, request_id, key, expected_seq=expected,
            traceparent=request.headers.get("traceparent"),
        )  # fmt: skip
        intake.submit(accepted)
        intake.patient.add(waiter.hurry)
        try:
            if not await waiter.begun(request):
                intake.take_away(accepted)
            answer = await waiter.wait(PATIENCE_S)
        finally:
            intake.patient.discard(waiter.hurry)
        if isinstance(answer, Progress):
            body = messages.progress(request_id, answer)
            return Response(body, status_code=202, media_type="application/json")
        if isinstance(answer, Succeeded):
            return Response(messages.answer(request_id, answer), media_type="application/json")
        if isinstance(answer, Failure):
            failed = answer.outcome
            details = messages.failure_details(failed)
            message = failed.message[: messages.MAX_FAILURE_CHARS]
            return error_response(RequestError(Code.EXECUTION_ERROR, message, details))
        return error_response(RequestError(answer.code, answer.message, answer.details))
