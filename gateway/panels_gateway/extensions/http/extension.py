"""``$ext.http``: requests of handlers, by ``Egress``.

    await $ext.http.get(url, {headers, timeoutMs, redirects, responseType})
    await $ext.http.post(url, data, {headers, ...})            put and patch alike
    await $ext.http.request({method, url, data, headers, ...})
    → {status, statusText, headers, data, ok}

Any status is an answer, not an error. Methods that RFC 9110 section 9.2.2 calls idempotent are made again
when the process is lost; post, patch and request are not.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from panels_gateway.extensions.errors import CallFailedError, ErrorCode
from panels_gateway.extensions.extension import (
    CallContext,
    Environment,
    Extension,
    Fetch,
    method,
)
from panels_gateway.extensions.http.egress import EgressAnswer, EgressRequest
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

#: Above every time-out that a configuration can give to an exchange, so that egress says what happened.
TIMEOUT_S: Final = 60.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """How to ask.

    - ``headers``: values may hold ``$secret:NAME``.
    - ``timeout_ms``: shortens the configured time-out.
    - ``redirects``: how many to follow; 0 gives the redirect itself.
    - ``data_type``: what ``data`` of the request is. ``auto``: text as it is, anything else as JSON.
    - ``response_type``: what ``data`` of the answer shall be. ``auto``: JSON and text as they are, and
      anything else as ``{"base64": ...}``.
    """

    headers: dict[str, str] = {}
    timeout_ms: Annotated[int, msgspec.Meta(ge=1)] | None = None
    redirects: Annotated[int, msgspec.Meta(ge=0)] = 0
    data_type: Literal["auto", "json", "text", "base64"] = "auto"
    response_type: Literal["auto", "json", "text", "base64"] = "auto"


class RequestOptions(Options, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A whole request in one object."""

    url: str
    method: str = "GET"
    data: Any = None


class HttpAnswer(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a handler gets.

    ``headers`` of one name are joined by a comma; ``ok`` is a status from 200 to 299.
    """

    status: int
    status_text: str
    headers: dict[str, str]
    data: Any
    ok: bool


class Http(Extension):
    """Requests over HTTP. Nothing is reachable until the configuration's ``http.allow`` names it."""

    name = "http"
    _egress: Fetch

    async def startup(self, environment: Environment) -> None:
        """Takes the way out."""
        self._egress = environment.egress

    @method(timeout_s=TIMEOUT_S, repeatable=True)
    async def get(self, context: CallContext, url: str, options: Options | None = None) -> HttpAnswer:
        """GET."""
        return await self._request(context, "GET", url, None, options)

    @method(timeout_s=TIMEOUT_S, repeatable=True)
    async def head(self, context: CallContext, url: str, options: Options | None = None) -> HttpAnswer:
        """HEAD."""
        return await self._request(context, "HEAD", url, None, options)

    @method(timeout_s=TIMEOUT_S, repeatable=True)
    async def options(self, context: CallContext, url: str, options: Options | None = None) -> HttpAnswer:
        """OPTIONS."""
        return await self._request(context, "OPTIONS", url, None, options)

    @method(timeout_s=TIMEOUT_S, repeatable=True)
    async def delete(self, context: CallContext, url: str, options: Options | None = None) -> HttpAnswer:
        """DELETE."""
        return await self._request(context, "DELETE", url, None, options)

    @method(timeout_s=TIMEOUT_S, repeatable=True)
    async def put(
        self, context: CallContext, url: str, data: Any = None, options: Options | None = None
    ) -> HttpAnswer:
        """PUT."""
        return await self._request(context, "PUT", url, data, options)

    @method(timeout_s=TIMEOUT_S)
    async def post(
        self, context: CallContext, url: str, data: Any = None, options: Options | None = None
    ) -> HttpAnswer:
        """POST."""
        return await self._request(context, "POST", url, data, options)

    @method(timeout_s=TIMEOUT_S)
    async def patch(
        self, context: CallContext, url: str, data: Any = None, options: Options | None = None
    ) -> HttpAnswer:
        """PATCH."""
        return await self._request(context, "PATCH", url, data, options)

    @method(timeout_s=TIMEOUT_S)
    async def request(self, context: CallContext, options: RequestOptions) -> HttpAnswer:
        """Any method."""
        return await self._request(context, options.method.upper(), options.url, options.data, options)

    async def _request(
        self, context: CallContext, verb: str, url: str, data: Any, options: Options | None
    ) -> HttpAnswer:
        options = options or Options()
        headers = {name.lower(): value for name, value in options.headers.items()}
        content, kind = _encoded(data, options.data_type)
        if kind:
            headers.setdefault("content-type", kind)
        answer: EgressAnswer = await self._egress.fetch(
            context,
            EgressRequest(
                method=verb,
                url=url,
                headers=headers,
                content=content,
                redirects=options.redirects,
                timeout_s=options.timeout_ms / 1_000 if options.timeout_ms else None,
            ),
        )
        joined = _joined(answer.headers)
        return HttpAnswer(
            status=answer.status,
            status_text=answer.reason,
            headers=joined,
            data=_decoded(answer, joined, options.response_type),
            ok=200 <= answer.status <= 299,
        )


def _encoded(data: Any, kind: str) -> tuple[bytes, str]:
    """The body of a request and its content-type, "" for no body."""
    if data is None and kind != "json":
        return b"", ""
    if kind == "json" or (kind == "auto" and not isinstance(data, str)):
        return jsonvalue.encode(data), "application/json"
    if not isinstance(data, str):
        raise CallFailedError(ErrorCode.ARGUMENTS, f"expected a string as data of type {kind}")
    if kind != "base64":
        return data.encode(), "text/plain; charset=utf-8"
    try:
        return base64.b64decode(data, validate=True), "application/octet-stream"
    except binascii.Error:
        raise CallFailedError(ErrorCode.ARGUMENTS, "expected base64 as data") from None


def _decoded(answer: EgressAnswer, headers: Mapping[str, str], wanted: str) -> Any:
    if not answer.content and wanted == "auto":
        return None
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    try:
        if wanted == "json":
            return answer.json()
        if wanted == "auto" and (kind == "application/json" or kind.endswith("+json")):
            return answer.json()
    except InvalidJsonError as exc:
        if wanted == "json":
            raise CallFailedError(ErrorCode.FAILED, f"the answer is not JSON: {exc.problem}") from None
    if wanted != "base64":
        try:
            return answer.text(_charset(parameters))
        except (UnicodeError, LookupError):
            if wanted == "text":
                raise CallFailedError(ErrorCode.FAILED, "the answer is not text") from None
    text = base64.b64encode(answer.content).decode()
    return text if wanted == "base64" else {"base64": text}


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        # only these: a codec of Python that is not one of text could unpack what was counted packed
        if name.strip() == "charset" and value.strip(' "') in (
            "iso-8859-1",
            "us-ascii",
            "windows-1252",
            "utf-16",
        ):
            return value.strip(' "')
    return "utf-8"


def _joined(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
