"""Routes that revoke tokens, list what is revoked, and take it back. Their bearer needs ``panels_admin``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from panels_gateway.access.revocations import Revocation
from panels_gateway.access.tokens import MAX_SUBJECT_CHARS, MAX_TOKEN_ID_CHARS
from panels_gateway.http.answers import json_answer
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError, RequestError
from panels_shared.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from panels_gateway.http.desk import Desk

#: Bytes of the body of a revocation; a security limit.
MAX_REVOCATION_BYTES: Final = 4 * KIB
#: Revocations in one page.
DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000
#: How long a revocation may be in effect, in seconds.
MAX_LIFETIME_S: Final = 315_360_000.0


class RevocationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is revoked: one token by its ``jti``, or those of a ``sub``. Times in Unix seconds, as ``exp``."""

    jti: str | None = None
    sub: str | None = None
    before: float | None = None
    expiresAt: float | None = None  # noqa: N815 - the protocol's name


_decoder = msgspec.json.Decoder(RevocationBody)


class RevocationRoutes:
    """See the module's docstring.

    ``token_lifetime_s`` is how long after its revocation a token can still be valid; a revocation is in
    effect for so long unless its body says otherwise. ``clock`` gives Unix seconds.
    """

    def __init__(self, desk: Desk, *, token_lifetime_s: float, clock: Callable[[], float]) -> None:
        self._desk = desk
        self._kernel = desk.kernel
        self._token_lifetime_s = token_lifetime_s
        self._clock = clock

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/revocations", self.revocations, methods=["GET", "POST"]),
            Route("/revocations/{id}", self.revocation, methods=["GET", "DELETE"]),
        ]

    async def revocations(self, request: Request) -> Response:
        """GET: a page of what is revoked. POST: revokes a token, or the tokens of a subject."""
        self._demand_admin(request)
        if request.method == "POST":
            return await self._revoke(request)
        limit = _page_size(request.query_params.get("limit"))
        found = self._kernel.revoking.revocations
        found.drop_ended(self._clock())
        page = found.page(after=request.query_params.get("after", ""), limit=limit + 1)
        following = page[limit - 1].name if len(page) > limit else None
        shown = [_shown(revocation) for revocation in page[:limit]]
        await self._kernel.turn.read()
        return json_answer({"revocations": shown, "next": following})

    async def revocation(self, request: Request) -> Response:
        """GET: one of them. DELETE: takes it back, and its tokens are good again until they expire."""
        self._demand_admin(request)
        name: str = request.path_params["id"]
        revoking = self._kernel.revoking
        if request.method == "DELETE":
            revoking.unrevoke(name)
            await self._kernel.turn.read()
            return Response(status_code=204)
        found = revoking.revocations.find(name)
        if found is None or found.expires_at <= self._clock():
            raise RequestError(Code.NOT_FOUND, "there is no revocation of that id")
        shown = _shown(found)
        await self._kernel.turn.read()
        return json_answer(shown)

    async def _revoke(self, request: Request) -> Response:
        body = await self._desk.body(request, MAX_REVOCATION_BYTES)
        wanted = parse(body, now=self._clock(), lifetime_s=self._token_lifetime_s)
        made, is_new = self._kernel.revoking.revoke(wanted)
        await self._kernel.turn.read()
        headers = {"location": f"/revocations/{made.name}"} if is_new else None
        return json_answer(_shown(made), status=201 if is_new else 200, headers=headers)

    def _demand_admin(self, request: Request) -> None:
        if not self._desk.admit(request).admin:
            raise RequestError(
                Code.FORBIDDEN, 'expected a token with the claim "panels_admin": true; revoking needs one'
            )


def parse(body: bytes, *, now: float, lifetime_s: float) -> Revocation:
    """The revocation that ``body`` asks for. Raises ``RequestError``."""
    try:
        jsonvalue.validate(body)
        given = _decoder.decode(body)
    except InvalidJsonError as exc:
        raise RequestError(Code.PARSE_ERROR, exc.problem) from None
    except msgspec.DecodeError as exc:
        expected = 'expected {"jti"} or {"sub", "before"?}, and "expiresAt"?'
        raise RequestError(Code.PARSE_ERROR, f"{expected}: {exc}"[:300]) from None
    if (given.jti is None) == (given.sub is None):
        raise _invalid("jti", "expected jti or sub, and not both")
    _require_text("jti", given.jti, MAX_TOKEN_ID_CHARS)
    _require_text("sub", given.sub, MAX_SUBJECT_CHARS)
    if given.before is not None and given.jti is not None:
        raise _invalid("before", "expected it beside sub only")
    if given.before is not None and not 0 <= given.before <= now + MAX_LIFETIME_S:
        raise _invalid("before", "expected a time in seconds since 1970")
    expires_at = given.expiresAt if given.expiresAt is not None else now + lifetime_s
    if not (math.isfinite(expires_at) and now < expires_at <= now + MAX_LIFETIME_S):
        raise _invalid(
            "expiresAt", "expected a time to come in seconds since 1970, at most ten years from now"
        )
    return Revocation(
        token_id=given.jti, subject=given.sub, before=given.before, revoked_at=now, expires_at=expires_at
    )


def _require_text(name: str, text: str | None, maximum: int) -> None:
    if text is not None and not 1 <= len(text) <= maximum:
        raise _invalid(name, f"expected 1 to {maximum} characters, got {len(text)}")


def _invalid(path: str, problem: str) -> RequestError:
    return RequestError(Code.INVALID_REQUEST, f"{path}: {problem}", {"path": path})


def _page_size(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE):
        raise RequestError(Code.INVALID_REQUEST, f"limit: expected 1 to {MAX_PAGE}", {"path": "limit"})
    return int(text)


def _shown(revocation: Revocation) -> dict[str, object]:
    shown: dict[str, object] = {"id": revocation.name}
    if revocation.token_id is not None:
        shown["jti"] = revocation.token_id
    else:
        shown |= {"sub": revocation.subject, "before": revocation.before}
    return shown | {"revokedAt": revocation.revoked_at, "expiresAt": revocation.expires_at}
