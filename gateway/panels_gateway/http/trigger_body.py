"""The body of a trigger over HTTP: ``{"args"?, "requestId"?}``, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from panels_gateway.broadcast.explain import (
    Field,
    check_anything,
    check_optional_request_id,
    check_request_id,
    members_of,
    problem_in,
)
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError, RequestError


class TriggerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``args`` is any JSON value, null when absent."""

    args: msgspec.Raw = msgspec.Raw(b"null")
    requestId: str | None = None  # noqa: N815 - the protocol's name


_decoder: Final = msgspec.json.Decoder(TriggerBody)
_FIELDS: Final[Mapping[str, Field]] = {
    "args": Field(check_anything),
    "requestId": Field(check_optional_request_id),
}


def decode(body: bytes, header: str | None) -> tuple[bytes, str | None]:
    """The args (JSON) and the requestId of a trigger.

    ``header`` (x-request-id) is the requestId of a body without one.

    Raises ``RequestError`` PARSE_ERROR, whose message names the field.
    """
    decoded = TriggerBody()
    if body:
        try:
            jsonvalue.validate(body)
            decoded = _decoder.decode(body)
        except (InvalidJsonError, msgspec.DecodeError, UnicodeError, RecursionError):
            raise RequestError(Code.PARSE_ERROR, _explain(body)) from None
        if decoded.requestId is not None and check_request_id(decoded.requestId) is not None:
            raise RequestError(Code.PARSE_ERROR, _explain(body))
    if decoded.requestId is not None or header is None:
        return bytes(decoded.args), decoded.requestId
    if (problem := check_request_id(header)) is not None:
        raise RequestError(Code.PARSE_ERROR, f"x-request-id: {problem}")
    return bytes(decoded.args), header


def _explain(body: bytes) -> str:
    members = members_of(body)
    if members is not None and (problem := problem_in(members, _FIELDS, closed=True)) is not None:
        return problem
    try:
        jsonvalue.validate(body)
    except InvalidJsonError as exc:
        return exc.problem
    return 'expected a JSON object {"args"?, "requestId"?}'
