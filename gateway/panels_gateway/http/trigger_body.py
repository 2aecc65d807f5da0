"""The body of a trigger over HTTP: ``{"args"?, "requestId"?, "expectedSeq"?}``, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from panels_gateway.broadcast.explain import (
    Field,
    check_anything,
    check_optional_request_id,
    check_request_id,
    check_seq,
    members_of,
    problem_in,
)
from panels_shared import jsonvalue
from panels_shared.errors import Code, InvalidJsonError, RequestError


class Asked(NamedTuple):
    """What a body asks for. ``args`` is JSON; ``expected_seq`` is the version that the panel must have, None
    for any.
    """

    args: bytes
    request_id: str | None
    expected_seq: int | None


class TriggerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``args`` is any JSON value, null when absent."""

    args: msgspec.Raw = msgspec.Raw(b"null")
    requestId: str | None = None  # noqa: N815 - the protocol's name
    expectedSeq: int | None = None  # noqa: N815 - the protocol's name


_decoder: Final = msgspec.json.Decoder(TriggerBody)
_FIELDS: Final[Mapping[str, Field]] = {
    "args": Field(check_anything),
    "requestId": Field(check_optional_request_id),
    "expectedSeq": Field(check_seq),
}


def decode(body: bytes, header: str | None) -> Asked:
    """What a trigger asks for.

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
        if (decoded.requestId is not None and check_request_id(decoded.requestId) is not None) or check_seq(
            decoded.expectedSeq
        ) is not None:
            raise RequestError(Code.PARSE_ERROR, _explain(body))
    request_id = decoded.requestId
    if request_id is None and header is not None:
        if (problem := check_request_id(header)) is not None:
            raise RequestError(Code.PARSE_ERROR, f"x-request-id: {problem}")
        request_id = header
    return Asked(bytes(decoded.args), request_id, decoded.expectedSeq)


def _explain(body: bytes) -> str:
    members = members_of(body)
    if members is not None and (problem := problem_in(members, _FIELDS, closed=True)) is not None:
        return problem
    try:
        jsonvalue.validate(body)
    except InvalidJsonError as exc:
        return exc.problem
    return 'expected a JSON object {"args"?, "requestId"?, "expectedSeq"?}'
