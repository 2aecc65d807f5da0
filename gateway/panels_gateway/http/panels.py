"""Routes that make, list, show, replace, fork and delete panels."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.http.answers import demand, encode, json_answer
from panels_gateway.kernel.listing import LISTED_AT_ONCE, Listed
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels import definition_body
from panels_gateway.panels.definition import ToolDefinition
from panels_gateway.panels.quota import Quota
from panels_shared.errors import Code, RequestError
from panels_shared.limits import KIB
from panels_shared.names import is_name

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal
    from panels_gateway.http.desk import Desk
    from panels_gateway.panels.panel import Panel

#: Panels in one page of ``GET /panels``.
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
#: Bytes of the body of a fork; a security limit.
MAX_FORK_BYTES: Final = KIB


class ForkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a fork: the new panel's id and the version to begin with.

    Without an id one is made up; without a version the current one is taken.
    """

    id: str | None = None
    seq: int | None = None


_fork_decoder = msgspec.json.Decoder(ForkBody)


class PanelRoutes:
    """See the module's docstring."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kernel = desk.kernel

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/panels", self.panels, methods=["GET", "POST"]),
            Route("/panels/{id}", self.panel, methods=["GET", "PUT", "DELETE"]),
            Route("/panels/{id}/fork", self.fork, methods=["POST"]),
            Route("/panels/{id}/ws", self.socket, methods=["GET"]),
        ]

    async def panels(self, request: Request) -> Response:
        """GET: a page of the panels that the bearer may read. POST: makes one."""
        principal = self._desk.admit(request)
        if request.method == "POST":
            return await self._create(request, principal)
        limit = _page_size(request.query_params.get("limit"))
        after = request.query_params.get("after", "")
        page, following = await self._kernel.listing.page(after, limit, principal.readable)
        parts: list[bytes] = []
        for first in range(0, len(page), LISTED_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            shown = [self._summary(request, listed) for listed in page[first : first + LISTED_AT_ONCE]]
            parts.append(encode(shown)[1:-1])
        await self._kernel.turn.read()
        body = b'{"panels":[%b],"next":%b}' % (b",".join(parts), encode(following))
        return Response(body, media_type="application/json")

    async def socket(self, request: Request) -> Response:
        """GET of a WebSocket's path by something that is none: a browser's address bar, or a proxy that
        drops the headers of the upgrade. It says so to everybody, whether there is such a panel or not.
        """
        raise RequestError(
            Code.UPGRADE_REQUIRED,
            "expected a WebSocket here, got a request without 'Upgrade: websocket'; use a WebSocket client, "
            "and if a "
            "proxy stands in front of the gateway, have it pass on the headers Upgrade and Connection",
        )

    async def _create(self, request: Request, principal: Principal) -> Response:
        desk = self._desk
        body = await desk.body(request, desk.limits.body_bytes)
        made = definition_body.parse(body, desk.limits, default_id=secrets.token_urlsafe(12))
        demand(principal.may_manage(made.id), "manage", made.id)
        with desk.defining(principal):
            resident = await self._kernel.making.create(made, subject=principal.subject or "")
        return await self._made(request, resident.panel, status=201)

    async def _made(self, request: Request, panel: Panel, *, status: int) -> Response:
        await self._kernel.turn.read()
        answer = {"id": panel.id, "status": "active", "wsUrl": self._desk.ws_url(request, panel.id)}
        headers = {"location": f"/panels/{panel.id}"} if status == 201 else None
        return json_answer(answer, status=status, headers=headers)

    async def panel(self, request: Request) -> Response:
        """GET: what the panel is. PUT: replaces its definition. DELETE: removes it."""
        desk, making = self._desk, self._kernel.making
        principal = desk.admit(request)
        if request.method == "PUT":
            resident = await desk.find(request, principal, manage=True)
            body = await desk.body(request, desk.limits.body_bytes)
            panel_id = resident.panel.id
            made = definition_body.parse(body, desk.limits, default_id=panel_id, required_id=panel_id)
            with desk.defining(principal):
                resident = await making.replace(resident, made, principal)
            return await self._made(request, resident.panel, status=200)
        if request.method == "DELETE":
            making.delete(await desk.find(request, principal, manage=True))
            await self._kernel.turn.read()
            return Response(status_code=204)
        resident = await desk.find(request, principal)
        breakers, wall_s = self._kernel.breakers, self._kernel.suspensions.now_ms() / 1e3
        circuits = {
            tool.name: breakers.shown(resident, tool.name, wall_s) for tool in resident.panel.definition.tools
        }
        shown = {
            **self._summary(request, Listed.of_resident(resident)),
            "epoch": resident.panel.epoch,
            **_description(resident, circuits),
        }
        await self._kernel.turn.read()
        return json_answer(shown)

    async def fork(self, request: Request) -> Response:
        """POST: makes another panel with this one's definition and the state of one of its versions."""
        desk = self._desk
        principal = desk.admit(request)
        source = await desk.find(request, principal)
        body = await desk.body(request, MAX_FORK_BYTES)
        try:
            asked = _fork_decoder.decode(body) if body else ForkBody()
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise RequestError(Code.INVALID_REQUEST, f'expected {{"id"?, "seq"?}}: {exc}'[:300]) from None
        panel_id = asked.id if asked.id is not None else secrets.token_urlsafe(12)
        if not is_name(panel_id):
            raise RequestError(
                Code.INVALID_REQUEST,
                "id: expected 1 to 128 of the characters A-Z a-z 0-9 . _ : -",
                {"path": "id"},
            )
        demand(principal.may_manage(panel_id), "manage", panel_id)
        resident = await self._kernel.making.fork(source, panel_id, asked.seq)
        return await self._made(request, resident.panel, status=201)

    def _summary(self, request: Request, listed: Listed) -> dict[str, object]:
        return {
            "id": listed.id,
            "kind": listed.kind,
            "title": listed.title,
            "status": "active",
            "seq": listed.seq,
            "clients": listed.clients,
            "createdAt": listed.created_ms,
            "wsUrl": self._desk.ws_url(request, listed.id),
        }


def _trigger(resident: Resident, tool: ToolDefinition) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(tool.trigger)
    if tool.name in resident.next_runs:
        shown["lastDueAt"] = resident.fired.get(tool.name)
        shown["nextRunAt"] = resident.next_runs[tool.name]
    return shown


def _quota(quota: Quota | None) -> dict[str, object] | None:
    if quota is None:
        return None
    return {"fuel": quota.fuel or None, "timeMs": quota.time_ms or None, "windowS": quota.window_s}


def _raw(text: bytes | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text)


def _description(resident: Resident, circuits: Mapping[str, object]) -> dict[str, object]:
    panel = resident.panel
    made = panel.definition
    return {
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "language": tool.handler.language,
                "digest": tool.handler.digest.hex(),
                "trigger": _trigger(resident, tool),
                "exclusive": tool.exclusive,
                "capabilities": tool.capabilities,
                "limits": {
                    "fuel": tool.limits.fuel,
                    "timeoutMs": tool.limits.deadline_ms,
                    "memoryBytes": tool.limits.memory_bytes,
                    "hostCalls": tool.limits.host_calls,
                    "outputBytes": tool.limits.output_bytes,
                    "events": tool.limits.events,
                    "logBytes": tool.limits.log_bytes,
                },
                "quota": _quota(tool.quota),
                "args": _raw(tool.args),
                "returns": _raw(tool.returns),
                "circuit": circuits[tool.name],
            }
            for tool in made.tools
        ],
        "quota": _quota(made.quota),
        "metadata": msgspec.Raw(made.metadata),
        "pool": made.pool,
        "presence": made.presence,
        "modules": made.modules,
        "stateBytes": panel.state_bytes,
    }


def _page_size(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if re.fullmatch(r"[0-9]{1,4}", text) is None or not 1 <= int(text) <= MAX_PAGE:
        raise RequestError(Code.INVALID_REQUEST, f"limit: expected 1 to {MAX_PAGE}", {"path": "limit"})
    return int(text)
